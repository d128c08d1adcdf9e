"""The settings as checked, frozen objects; ``pgseal.settings`` shows what they look like in the file."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, cast
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from pgseal.core.checkpoint import check_origin
from pgseal.core.cosignature import MAX_WITNESSES, WitnessPolicy, check_witness_key, parse_policy
from pgseal.core.keys import Signer, VerifierKey, parse_verifier_key
from pgseal.errors import ConfigError, FormatError
from pgseal.settings.secret import Dsn, Secret
from pgseal.signing import read_signer, read_verifier, split_ring

#: The trail of the vault database itself; no source may take its name.
VAULT_TRAIL = "vault"
_DAYS = {"day": 1, "week": 7, "month": 31, "year": 366}
_MAX_RETENTION_DAYS = 100 * 366
_TRAIL_NAME = re.compile(r"[a-z0-9_-]{1,63}")
_MAX_DEADLINE_SECONDS = 60.0

Masking: TypeAlias = Literal["hash", "redact", "last4"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, arbitrary_types_allowed=True)


def _check_columns(columns: tuple[str, ...]) -> tuple[str, ...]:
    for column in columns:
        if not column:
            raise ValueError("expected names of columns, got an empty one")
        if columns.count(column) > 1:
            raise ValueError(f"column {column!r} stands here twice")
    return columns


def _check_where(where: str) -> str:
    if not where.strip():
        raise ValueError("expected which rows to record, such as \"tenant = 'a'\"; leave it out to record all")
    return where


def _check_trail_name(name: str) -> str:
    if not _TRAIL_NAME.fullmatch(name):
        raise ValueError(f"expected 1 to 63 of a-z, 0-9, _ and -, got {name!r}")
    if name == VAULT_TRAIL:
        raise ValueError("'vault' is the name of the vault's own trail: choose another")
    return name


def _check_origin(origin: str) -> str:
    try:
        check_origin(origin)
    except FormatError as error:
        raise ValueError(str(error).removeprefix("origin: ")) from error
    return origin


def _check_retention(text: str) -> str:
    match = re.fullmatch(r"([1-9][0-9]{0,4}) (day|week|month|year)s?", text)
    if match is None:
        raise ValueError(f"expected how long to keep, such as '400 days', '18 months' or '7 years', got {text!r}")
    if int(match[1]) * _DAYS[match[2]] > _MAX_RETENTION_DAYS:
        raise ValueError(f"expected at most 100 years, got {text!r}; leave it out to keep records for ever")
    return text


def _check_witness_name(name: str) -> str:
    if not _TRAIL_NAME.fullmatch(name):
        raise ValueError(f"expected 1 to 63 of a-z, 0-9, _ and -, got {name!r}")
    return name


def _check_witness_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable, parts = False, urlsplit("")
    is_plain = url.isascii() and url.isprintable() and " " not in url
    if not is_usable or not is_plain or parts.username is not None or parts.query or parts.fragment:
        # Not quoted: what somebody put before an @ may be a password.
        raise ValueError("expected where the witness is asked, such as https://witness.example or http://10.0.0.7:8780")
    return url


def _parse_witness_key(text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        key = parse_verifier_key(text)
        check_witness_key(key)
    except FormatError as error:
        raise ValueError(f"{str(error).removeprefix('verifier key: ')}; pgseal witness show-key prints it") from error
    return key


def is_pattern(name: str) -> bool:
    """Tell a pattern from a name: ``*``, ``?`` and ``[`` outside double quotes."""
    return any(character in part for part in name.split('"')[::2] for character in "*?[")


class TablePolicy(_Model):
    """What is left out of a table's records (``exclude``) and what is shown changed (``mask``: column → how).

    ``truncate`` says whether the rows that a TRUNCATE removes are counted or recorded, ``oversize`` what becomes of
    values that are too large, ``require_actor`` what becomes of changes that name no actor. ``where`` says which rows'
    changes are recorded (``pgseal.trail.filter``); None: those of all.

    Under a pattern such as ``public.*``, ``except`` names what it does not mean; names and patterns.
    """

    model_config = ConfigDict(populate_by_name=True)

    exceptions: Annotated[tuple[str, ...], Field(strict=False, alias="except")] = ()
    exclude: Annotated[tuple[str, ...], Field(strict=False), AfterValidator(_check_columns)] = ()
    mask: dict[str, Masking] = {}
    truncate: Literal["count", "rows"] = "count"
    oversize: Literal["keep", "digest", "reject"] = "keep"
    require_actor: Literal["flag", "off", "reject"] = "flag"
    where: Annotated[str, AfterValidator(_check_where)] | None = None

    @model_validator(mode="after")
    def _check_one_fate_a_column(self) -> "TablePolicy":
        for column in self.exclude:
            if column in self.mask:
                raise ValueError(f"column {column!r} is both excluded and masked: choose one")
        return self


class Vault(_Model):
    """The separate database that holds the sealed records."""

    dsn: Dsn
    admin_dsn: Dsn = cast("Dsn", None)

    @model_validator(mode="after")
    def _fill_admin_dsn(self) -> "Vault":
        if "admin_dsn" not in self.model_fields_set:
            object.__setattr__(self, "admin_dsn", self.dsn)
        return self


class WitnessAddress(_Model):
    """A witness: what it is called here, where it is asked, and the key that it cosigns with."""

    name: Annotated[str, AfterValidator(_check_witness_name)]
    url: Annotated[str, AfterValidator(_check_witness_url)]
    key: Annotated[VerifierKey, BeforeValidator(_parse_witness_key)]


class Source(_Model):
    """An audited database; ``tables`` by their names in records (``public.patients``).

    ``retention`` is how long its trail keeps what is sealed, written as PostgreSQL reads intervals; None: for ever.
    """

    name: Annotated[str, AfterValidator(_check_trail_name)]
    dsn: Dsn
    admin_dsn: Dsn = cast("Dsn", None)
    retention: Annotated[str, AfterValidator(_check_retention)] | None = None
    tables: dict[str, TablePolicy] = {}

    @model_validator(mode="after")
    def _fill_admin_dsn(self) -> "Source":
        if "admin_dsn" not in self.model_fields_set:
            object.__setattr__(self, "admin_dsn", self.dsn)
        return self


class Settings(_Model):
    """A checked configuration. ``path`` is the file; ``ledger`` and ``state`` are absolute."""

    model_config = ConfigDict(populate_by_name=True)

    path: Path
    origin: Annotated[str, AfterValidator(_check_origin)]
    ledger: Path
    key: Secret
    state: Path
    vault: Vault
    sources: tuple[Source, ...] = Field(alias="source", strict=False, min_length=1)
    witnesses: tuple[WitnessAddress, ...] = Field(alias="witness", strict=False, max_length=MAX_WITNESSES, default=())
    witness_policy: str | None = None
    witness_deadline: Annotated[float, Field(strict=False, gt=0, le=_MAX_DEADLINE_SECONDS)] = 0.5

    def find_witness_policy(self) -> WitnessPolicy | None:
        """Return which witnesses must have cosigned: all, unless ``witness_policy`` says so; None without witnesses."""
        if not self.witnesses:
            return None
        keys = {witness.name: witness.key for witness in self.witnesses}
        return parse_policy(self.witness_policy or f"any {len(keys)}", keys)

    def read_signers(self) -> tuple[Signer, ...]:
        """Return the signing key, and after it, while it is rotated, the one that it replaces.

        Raises ``ConfigError`` if one is missing, unreadable, no key, or another origin's, and ``UnavailableError`` if
        it is in a token that cannot be reached.
        """
        where, base, environ = self.key.where, self.key.base, self.key.environ
        try:
            lines = split_ring(self.key.reveal(), source=where)
            signers = tuple(read_signer(line, self.origin, source=where, base=base, environ=environ) for line in lines)
        except FormatError as error:
            raise ConfigError(f"{error}; sealing needs the key that pgseal init made for {self.origin!r}") from None
        self._check_keys([signer.verifier for signer in signers])
        return signers

    def read_signer(self) -> Signer:
        """Return the newest signing key; raises as ``read_signers``."""
        return self.read_signers()[0]

    def read_verifiers(self) -> tuple[VerifierKey, ...]:
        """Return the public halves of ``read_signers``; for that, ``key`` may also name a verifier key.

        Raises as ``read_signers``.
        """
        where, base, environ = self.key.where, self.key.base, self.key.environ
        try:
            lines = split_ring(self.key.reveal(), source=where)
            verifiers = tuple(
                read_verifier(line, self.origin, source=where, base=base, environ=environ) for line in lines
            )
        except FormatError as error:
            raise ConfigError(f"{error}; pgseal key show prints it where the log is sealed") from None
        self._check_keys(verifiers)
        return verifiers

    def read_verifier(self) -> VerifierKey:
        """Return the key that checkpoints are verified with: while it is rotated, the one that signed all along.

        Raises as ``read_signers``.
        """
        return self.read_verifiers()[-1]

    def _check_keys(self, keys: Sequence[VerifierKey]) -> None:
        for key in keys:
            self._check_key_name(key.name)
        if len({key.key_id for key in keys}) != len(keys):
            raise ConfigError(f"{self.key.where}: the same key stands there twice: give the new one and the old one")

    def _check_key_name(self, name: str) -> None:
        if name != self.origin:
            raise ConfigError(
                f"{self.key.where}: expected the key of {self.origin!r}, got one of {name!r}: give its own key"
            )

    def find_source(self, name: str | None = None) -> Source:
        """Return the source called ``name``, or the only one; raises ``ConfigError`` naming the choices."""
        names = ", ".join(source.name for source in self.sources)
        if name is None:
            if len(self.sources) == 1:
                return self.sources[0]
            raise ConfigError(f"{self.path}: there are several sources ({names}): say which one with --source NAME")
        for source in self.sources:
            if source.name == name:
                return source
        raise ConfigError(f"{self.path}: expected one of the sources {names}, got {name!r}")
