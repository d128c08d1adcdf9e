"""What people write: the configuration, row filters, what commands are given; and small files of ours."""

import tempfile
from contextlib import suppress
from pathlib import Path

from tests.fuzz.log_targets import SIGNER, WITNESS
from tests.fuzz.target import Target, from_text

from pgseal import settings
from pgseal.cli.options import parse_record_name, parse_time_option
from pgseal.cli.output import format_moment
from pgseal.core.keys import format_verifier_key
from pgseal.errors import ConfigError, StorageError
from pgseal.ledger.witness import KnownLog, WitnessStore, _format_log, name_log
from pgseal.sealer.state import read_feed_memory, read_finding, read_witnesses
from pgseal.settings.secret import describe_dsn
from pgseal.signing.uri import parse_token_uri
from pgseal.trail.catalog import make_column
from pgseal.trail.conditions import check_filter, format_condition, format_stored
from pgseal.trail.filter import format_filter, parse_filter
from pgseal.vault.history import _parse_key
from pgseal.vault.keys import TypedKey
from pgseal.vault.search import _parse_cursor
from pgseal.vault.values import Number

CONFIGURATION = f"""\
# a comment
origin = "clinic.example/prod"
ledger = "ledger"   # relative
key = "file:pgseal.key"
witness_policy = "any 1 of paris"

[vault]
dsn = "postgresql://audit:geheim@vault/pgseal"

[[source]]
name = "clinic"
dsn = 'host=db dbname=clinic'
admin_dsn = "env:DSN"
retention = "400 days"

[source.tables."public.patients"]
exclude = ["photo"]
mask = {{ ssn = "redact" }}
where = "tenant = 'a' and not closed"

[source.tables."public.*"]
except = ["public.sessions",
  "public.tmp_*"]

[[witness]]
name = "paris"
url = "https://witness.example"
key = "{format_verifier_key(WITNESS.verifier)}"
"""

#: A column of every kind that a filter treats in a way of its own, by the oid of its type.
COLUMNS = tuple(
    make_column(number, name, oid, kind)
    for number, (name, oid, kind) in enumerate(
        [
            ("b", 16, "b"), ("i", 23, "b"), ("n", 1700, "b"), ("t", 25, "b"), ("c", 1042, "b"), ("u", 2950, "b"),
            ("d", 1082, "b"), ("s", 1114, "b"), ("z", 1184, "b"), ("o", 99999, "e"), ("f", 701, "b"),
        ],
        1,
    )
)  # fmt: skip

FILTERS = [
    b"u = '\n'",
    b"a '\n'",
    b"o = '\xff'",
    b"b = true and i in (1, -2) or not (n >= 1.50 and t <> 'a''b')",
    b"c = 'x' and u = '01234567-89ab-cdef-0123-456789abcdef' and o = 'happy' and f is not null",
    b"d < '2026-11-23' and s >= '2026-11-23 09:14:02.118' and z <= '2026-11-23T12:00+03:00' and \"t\" not in ('a')",
]

MOMENTS = [b"2026-11-23", b"7d", b"2026-11-23 09:14+02", b"0001-01-01T00:00:00+01:00"]

_DIRECTORY = Path(tempfile.mkdtemp(prefix="pgseal-fuzz-"))
_LOG = KnownLog(SIGNER.name, (SIGNER.verifier,), None)


def _load(data: bytes) -> None:
    path = _DIRECTORY / "pgseal.toml"
    path.write_bytes(data)
    settings.load(path, {"DSN": "host=elsewhere"})


def _parse_filter(text: str) -> None:
    found = parse_filter(text)
    assert parse_filter(format_filter(found)) == found


def _write_condition(text: str) -> None:
    found = parse_filter(text)
    check_filter(found, "public.t", COLUMNS, ["hidden"])
    format_condition(found, COLUMNS, "new").as_string()
    format_stored(found, COLUMNS)


def _read_witness_log(data: bytes) -> None:
    path = _DIRECTORY / f"{name_log(_LOG.origin)}.json"
    path.write_bytes(data)
    WitnessStore(_DIRECTORY).find_log(name_log(_LOG.origin))


def _spell_key(text: str) -> None:
    for sample in ({"id": 7}, {"id": Number("7")}, {"a": "x", "b": Number("1.5")}):
        with suppress(ConfigError):
            key = TypedKey("public.t", text, sample)
            key.spell()
            key.spell_likely()


def _read_state(data: bytes) -> None:
    for name in ("feeds", "finding", "witnesses"):
        (_DIRECTORY / name).write_bytes(data)
    read_feed_memory(_DIRECTORY, "clinic")
    read_finding(_DIRECTORY)
    read_witnesses(_DIRECTORY)


_ORDERS = (ConfigError,)
TARGETS = [
    Target(
        "configuration",
        _load,
        [
            CONFIGURATION.encode(),
            CONFIGURATION.encode().replace(b"\n", b"\r\n"),
            b"a=" + b"[" * 5000,
            b"a=" + b"9" * 5000,
        ],
        _ORDERS,
    ),
    Target(
        "token_uri",
        from_text(lambda text: parse_token_uri(text, source="key")),
        [b"pkcs11:token=my%20token;object=clinic;id=%01%ff?module-path=/usr/lib/token.so&pin-source=env:PIN"],
    ),
    Target("filter", from_text(_parse_filter), FILTERS, _ORDERS),
    Target("condition", from_text(_write_condition), FILTERS, _ORDERS),
    Target(
        "dsn",
        from_text(describe_dsn),
        [b"postgresql://u:p%40@h,g:1,2/d?sslmode=require", b"host=h user='a b'", b"host=\xff"],
        _ORDERS,
    ),
    Target("when", from_text(lambda text: parse_time_option(text, "--since", utc=True)), MOMENTS, _ORDERS),
    Target("moment", from_text(lambda text: format_moment(text, utc=True)), MOMENTS, ()),
    Target("record_name", from_text(parse_record_name), [b"clinic/9077@2", b"#7"], _ORDERS),
    Target("cursor", from_text(_parse_cursor), [b"123"], _ORDERS),
    Target("key", from_text(_parse_key), [b'{"id": 7}'], _ORDERS),
    Target("typed_key", from_text(_spell_key), [b'{"id": 7}', b"7", b'{"a": "x", "b": 1.50}', b"1e9999"], ()),
    Target("state", _read_state, [b'{"clinic": ["1:2:", null, [3]]}'], ()),
    Target("witness_log", _read_witness_log, [_format_log(_LOG)], (StorageError,)),
]
