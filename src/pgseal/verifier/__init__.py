"""Verification of a log: see ``pgseal.verifier.verifier`` for the steps and their rules."""

from pgseal.verifier.kept import FileKeptCheckpoint
from pgseal.verifier.report import Finding, Report
from pgseal.verifier.rows import VAULT_COLUMNS
from pgseal.verifier.sources import KeptCheckpoint, TrailSource, VaultSource
from pgseal.verifier.verifier import Verifier

__all__ = [
    "VAULT_COLUMNS",
    "FileKeptCheckpoint",
    "Finding",
    "KeptCheckpoint",
    "Report",
    "TrailSource",
    "VaultSource",
    "Verifier",
]
