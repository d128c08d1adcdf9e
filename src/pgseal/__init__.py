"""pgseal: sealed audit trails for Postgres — who did what, provably."""

__version__ = "0.1.0"
