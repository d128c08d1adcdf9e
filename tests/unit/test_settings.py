import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgseal import settings
from pgseal.core.keys import SignerKey, format_signer_key
from pgseal.core.record import format_relation
from pgseal.errors import ConfigError
from pgseal.settings import TablePolicy
from pgseal.settings.lines import find_line

PASSWORD = "geheim-7c1"
VALID = f"""\
# a comment
origin = "clinic.example/prod"
ledger = "ledger"   # relative
key = "file:pgseal.key"

[vault]
dsn = "postgresql://audit:{PASSWORD}@vault/pgseal"

[[source]]
name = "clinic"   # the first
dsn = "postgresql://app:{PASSWORD}@db:5433/clinic"

[source.tables."public.patients"]
exclude = ["photo"]
mask = {{ ssn = "redact" }}

[[source]]
name = "billing"
dsn = "env:BILLING_DSN"
admin_dsn = "file:admin.dsn"
"""


def write(directory: Path, text: str = VALID) -> Path:
    path = directory / "pgseal.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_values_are_read_and_paths_are_relative_to_the_file(tmp_path):
    found = settings.load(write(tmp_path), {"BILLING_DSN": "host=billing dbname=b"})

    assert found.origin == "clinic.example/prod"
    assert found.ledger == tmp_path / "ledger"
    assert found.state == tmp_path / ".pgseal"
    assert found.key.path == tmp_path / "pgseal.key"
    assert [source.name for source in found.sources] == ["clinic", "billing"]
    assert found.sources[0].tables == {"public.patients": TablePolicy(exclude=("photo",), mask={"ssn": "redact"})}
    assert found.sources[0].admin_dsn.reveal() == found.sources[0].dsn.reveal()
    assert found.sources[1].dsn.reveal() == "host=billing dbname=b"


def test_secrets_are_read_when_they_are_used(tmp_path):
    found = settings.load(write(tmp_path), {})

    with pytest.raises(ConfigError, match=r"line 19, source\.dsn: environment variable 'BILLING_DSN' is not set"):
        found.sources[1].dsn.reveal()
    with pytest.raises(ConfigError, match=r"line 20, source.admin_dsn: cannot read .*admin\.dsn \(no such file"):
        found.sources[1].admin_dsn.reveal()
    (tmp_path / "admin.dsn").write_text("host=billing user=admin\n", encoding="utf-8")
    assert found.sources[1].admin_dsn.reveal() == "host=billing user=admin"


def test_environment_goes_over_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environ = {"PGSEAL_ORIGIN": "other.example", "PGSEAL_VAULT_DSN": "host=elsewhere", "PGSEAL_LEDGER": "here"}

    found = settings.load(write(tmp_path), environ)

    assert (found.origin, found.vault.dsn.reveal(), found.ledger) == (
        "other.example",
        "host=elsewhere",
        tmp_path / "here",
    )
    with pytest.raises(ConfigError, match="environment variable PGSEAL_ORIGIN: expected an origin without"):
        settings.load(write(tmp_path), {"PGSEAL_ORIGIN": "a b"})
    with pytest.raises(ConfigError, match=r"PGSEAL_SOURCE_DSN: .* has not exactly one source"):
        settings.load(write(tmp_path), {"PGSEAL_SOURCE_DSN": "host=x"})


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("origin =", "orgin =", "line 2, orgin: there is no such setting"),
        ('origin = "clinic.example/prod"\n', "", "origin: is missing"),
        ('"ledger"', "7", "line 3, ledger: expected a string"),
        ('"file:pgseal.key"', '"PRIVATE+KEY+x"', "line 4, key: expected file:PATH, env:NAME or pkcs11:…"),
        ("[vault]\ndsn", "[vault]\ndns", "line 7, vault.dns: there is no such setting"),
        ("[vault]", "[vault", "not valid TOML: line 6"),
        ('"clinic"', '"Clinic"', "line 10, source.name: expected 1 to 63 of"),
        ('"clinic"', '"vault"', "line 10, source.name: 'vault' is the name of the vault's own trail"),
        ('"billing"', '"clinic"', "line 18, source.name: another source is called 'clinic' already"),
        ('"public.patients"]', "patients]", "line 13, source.tables.patients: relation: expected schema.name"),
        ('["photo"]', '"photo"', 'line 14, source.tables."public.patients".exclude: expected a list'),
        ('"redact"', '"rot13"', "source.tables.\"public.patients\".mask.ssn: expected 'hash', 'redact' or 'last4'"),
        (
            '["photo"]',
            '["ssn"]',
            "line 13, source.tables.\"public.patients\": column 'ssn' is both excluded and masked",
        ),
        ('"file:pgseal.key"', '"file:k"\nstate = "ledger/state"', "line 5, state: expected a directory outside the"),
    ],
)
def test_what_is_wrong_is_named_with_line_and_key(tmp_path, old, new, expected):
    assert old in VALID
    path = write(tmp_path, VALID.replace(old, new, 1))

    with pytest.raises(ConfigError) as caught:
        settings.load(path, {})

    assert expected in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert PASSWORD not in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file; make one with pgseal init"):
        settings.load(tmp_path / "pgseal.toml", {})
    (tmp_path / "pgseal.toml").write_bytes(b"origin = 1\n\xff")
    with pytest.raises(ConfigError, match="line 2 is not UTF-8"):
        settings.load(tmp_path / "pgseal.toml", {})
    with pytest.raises(ConfigError, match="is a directory"):
        settings.load(tmp_path, {})


def test_no_password_is_shown(tmp_path):
    found = settings.load(write(tmp_path), {"BILLING_DSN": f"host=b password={PASSWORD}"})

    for shown in (repr(found), str(found), repr(found.vault), str(found.vault.dsn), f"{found.sources}"):
        assert PASSWORD not in shown
    assert str(found.sources[0].dsn) == "clinic on db:5433"


@pytest.mark.parametrize("dsn", [f"postgresql//u:{PASSWORD}@h/d", f"host=h passwort={PASSWORD}", f"host=h {PASSWORD}"])
def test_a_malformed_dsn_is_refused_without_quoting_it(tmp_path, dsn):
    found = settings.load(write(tmp_path, VALID.replace(f"postgresql://audit:{PASSWORD}@vault/pgseal", dsn)), {})

    with pytest.raises(ConfigError) as caught:
        found.vault.dsn.reveal()

    assert "line 7, vault.dsn: not a connection string" in str(caught.value)
    assert PASSWORD not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        (f"postgresql://u:{PASSWORD}@db/clinic", "clinic on db:5432"),
        ("host=/run/pg port=6000 dbname=clinic", "clinic on /run/pg:6000"),
        ("host=a,b port=1,2 dbname=d", "d on a:1,b:2"),
        ("user=app", "app on the local socket:5432"),
        ("service=prod", "service prod"),
    ],
)
def test_describe_dsn_says_where_it_leads(dsn, expected):
    assert settings.describe_dsn(dsn) == expected


def test_the_key_must_be_the_origins_own(tmp_path):
    found = settings.load(write(tmp_path), {})
    with pytest.raises(ConfigError, match="line 4, key: cannot read"):
        found.read_signer()
    for origin, message in (("other", "expected the key of 'clinic.example/prod', got one of 'other'"), ("", "key")):
        text = format_signer_key(SignerKey(origin, bytes(32))) if origin else "nonsense"
        (tmp_path / "pgseal.key").write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            found.read_signer()
    signer = SignerKey(found.origin, bytes(range(32)))
    (tmp_path / "pgseal.key").write_text(format_signer_key(signer) + "\n", encoding="utf-8")
    assert found.read_signer().verifier == found.read_verifier() == signer.verifier
    (tmp_path / "pgseal.key").write_text(f"{signer.verifier}\n", encoding="utf-8")
    assert found.read_verifier() == signer.verifier
    with pytest.raises(ConfigError, match="sealing needs the key"):
        found.read_signer()


def test_a_new_file_is_private_and_never_overwritten(tmp_path):
    path = tmp_path / "pgseal.toml"
    given_values = {"origin": "o", "ledger": "l", "key": "file:k", "state": "s", "vault_dsn": "host=v"}

    settings.write_new(path, **given_values, sources=[("clinic", "host=s")])

    assert path.stat().st_mode & 0o777 == 0o600
    assert settings.load(path, {}).sources[0].dsn.reveal() == "host=s"
    with pytest.raises(ConfigError, match="file exists"):
        settings.write_new(path, **given_values, sources=[])
    assert [one.name for one in tmp_path.iterdir()] == ["pgseal.toml"]
    settings.add_source(path, "billing", "host=b")
    assert [source.name for source in settings.load(path, {}).sources] == ["clinic", "billing"]


def test_edits_keep_mode_comments_and_symbolic_links(tmp_path):
    path = write(tmp_path)
    path.chmod(0o640)
    link = tmp_path / "link.toml"
    link.symlink_to(path)

    settings.edit_tables(link, "clinic", {"public.visits": TablePolicy(mask={"reason": "hash"})}, ["public.patients"])

    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    text = path.read_text(encoding="utf-8")
    assert "# a comment" in text
    assert "# the first" in text
    assert list(settings.load(path, {}).sources[0].tables) == ["public.visits"]
    with pytest.raises(ConfigError, match=r"there is no \[\[source\]\] named 'nobody'"):
        settings.edit_tables(path, "nobody", {"public.x": TablePolicy()})


@pytest.mark.parametrize(
    "text", [VALID, VALID[: VALID.index("\n[source.tables")]], ids=["among others", "the only one"]
)
def test_a_table_added_and_removed_again_leaves_no_trace(tmp_path, text):
    path = write(tmp_path, text)

    settings.edit_tables(path, "clinic", {"public.visits": TablePolicy(exclude=("reason",))})
    settings.edit_tables(path, "clinic", {}, ["public.visits"])

    assert path.read_text(encoding="utf-8") == text


names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)
relations = st.builds(format_relation, names, names)
policies = st.builds(
    lambda columns, hows: TablePolicy(
        exclude=tuple(column for column, how in zip(columns, hows, strict=False) if how is None),
        mask={column: how for column, how in zip(columns, hows, strict=False) if how is not None},
    ),
    st.lists(names, unique=True, max_size=3),
    st.lists(st.sampled_from([None, "hash", "redact"]), min_size=3, max_size=3),
)
edits = st.lists(
    st.tuples(
        st.sampled_from(["clinic", "billing"]),
        st.dictionaries(relations, policies, max_size=3),
        st.lists(relations | st.just("public.patients"), max_size=2),
    ),
    max_size=4,
)


@given(edits)
def test_edits_say_what_was_asked_and_change_nothing_else(tmp_path_factory, steps):
    path = write(tmp_path_factory.mktemp("settings"))
    expected = tomllib.loads(VALID)
    tables = {source["name"]: source.setdefault("tables", {}) for source in expected["source"]}

    for source, add, remove in steps:
        settings.edit_tables(path, source, add, remove)
        for relation in remove:
            tables[source].pop(relation, None)
        for relation, policy in add.items():
            given_policy = {"exclude": list(policy.exclude), "mask": dict(policy.mask)}
            tables[source][relation] = {name: value for name, value in given_policy.items() if value}

    text = path.read_text(encoding="utf-8")
    found = tomllib.loads(text)
    for source in found["source"]:
        source.setdefault("tables", {})
    assert found == expected
    for comment in ("# a comment", "# relative", "# the first"):
        assert comment in text
    settings.load(path, {})


def test_lines_are_found_behind_values_of_many_lines():
    text = 'a = """\nb = 1\n[c]\n"""\n[[t]]\nx = [\n  1,\n]\n[t.u."v w"]\ny = 1\n[[t]]\nx.z = 2\n'

    assert find_line(text, ("a",)) == 1
    assert find_line(text, ("b",)) is None
    assert find_line(text, ("t", 0, "x")) == 6
    assert find_line(text, ("t", 0, "u", "v w", "y")) == 10
    assert find_line(text, ("t", 1, "x", "z")) == 12
    assert find_line(text, ("t", 1, "missing")) == 11
