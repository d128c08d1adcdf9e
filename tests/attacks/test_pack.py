"""Attacks 24 and 32: whoever makes or passes on a pack changes it, leaves something out, answers another question."""

import io
import json
import time
import zipfile
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from tests.acceptance.shell import Shell
from tests.attacks.attack import Attack
from tests.deployments import ORIGIN, Deployment, deploy, query
from tests.packs import NAMES, Members, archive

from pgseal.core.keys import SignerKey
from pgseal.core.merkle import leaf_hashes, prove_range, tree_root
from pgseal.core.note import sign_note
from pgseal.ledger.reader import LedgerReader
from pgseal.ledger.store import DirectoryStore
from pgseal.sealer.seal import Sealer

_SOON = "at once, when the pack is verified"
STAGED = (
    Attack(
        24, "pack forger", "change, drop, add or reorder a line; another checkpoint, key or proof",
        "verify PACK: `altered_record`, `missing_record`, `forged_record`, `proof`, `signature`", _SOON,
    ),
    Attack(
        24, "pack forger", "an archive with two readings: duplicate and other names, hidden bytes, a bomb",
        "verify PACK: `format`", _SOON,
    ),
    Attack(
        24, "pack forger", "withhold a matching record; answer another question than was asked",
        "verify PACK says “incomplete”: the auditor brings the filter", _SOON,
    ),
    Attack(
        24, "pack forger", "call a part erased", "verify PACK: `unauthorized_erasure`", _SOON,
    ),
    Attack(
        32, "pack maker", "choose leaves, or an old checkpoint, that leave a matching record just outside",
        "verify PACK says “complete for these leaves only”: bounds are sealed HEARTBEAT records", _SOON,
    ),
)  # fmt: skip


@pytest.fixture
def deployment(database: str, vault_database: str, tmp_path: Path, monkeypatch) -> Deployment:
    monkeypatch.setattr("pgseal.sealer.heartbeat._MARGIN", 0)  # one clock, so nothing to wait for
    query(database, "CREATE TABLE item (id int PRIMARY KEY, note text)")
    deployment = deploy(database, vault_database, tmp_path)
    deployment.track("item")
    return deployment


def beat(deployment: Deployment) -> None:
    with closing(Sealer.open(deployment.settings)) as sealer:
        sealer.beat()


def moment() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now := time.time())) + f".{int(now % 1 * 1e6):06d}Z"


def change(deployment: Deployment, first: int, last: int) -> tuple[str, str]:
    """Insert rows; a time before and one after."""
    before = moment()
    query(
        deployment.source,
        "INSERT INTO item SELECT g, 'note ' || g FROM generate_series(%s::int, %s::int) AS g",
        first,
        last,
    )
    return before, moment()


class Auditor(Shell):
    """Has the key and a question, and gets packs."""

    def __init__(self, deployment: Deployment, since: str, until: str) -> None:
        super().__init__(deployment.directory)
        self.key = str(deployment.settings.read_verifier())
        self.question = ("--since", since, "--until", until, "--table", "public.item")

    def verify(self, pack: bytes | Members, *question: str, key: str | None = None, code: int = 0) -> dict[str, Any]:
        data = pack if isinstance(pack, bytes) else archive(pack)
        (self.directory / "forged.zip").write_bytes(data)
        return self.json("verify", "forged.zip", "--vkey", key or self.key, *(question or self.question), code=code)

    def catch(self, pack: bytes | Members, kind: str, index: int | None = None) -> None:
        report = self.verify(pack, code=1)
        found = [(one["kind"], one["where"], one["index"]) for one in report["findings"]]
        assert found == [(kind, "pack", index)], report["findings"]
        assert (report["ok"], report["complete"], report["verdict"]) == (False, False, "not ok")


def make(deployment: Deployment, *options: str) -> Members:
    path = deployment.directory / "pack.zip"
    deployment.call("pack", "-o", str(path), "--force", *options)
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in NAMES}


def test_a_pack_that_is_changed_is_no_evidence(deployment):
    beat(deployment)
    since, until = change(deployment, 1, 6)
    beat(deployment)
    auditor = Auditor(deployment, since, until)
    members = make(deployment, *auditor.question)
    assert auditor.verify(members)["complete"]
    lines = members["records.jsonl"].splitlines(keepends=True)
    begin = json.loads(lines[0])["index"]
    at = next(number for number, line in enumerate(lines) if b'"INSERT"' in line)
    leaf = begin + at

    def with_lines(*changed: bytes) -> Members:
        return {**members, "records.jsonl": b"".join(changed)}

    def with_line(old: bytes, new: bytes) -> Members:
        assert lines[at].count(old) >= 1
        return with_lines(*lines[:at], lines[at].replace(old, new, 1), *lines[at + 1 :])

    auditor.catch(with_line(b"note 1", b"note 7"), "altered_record", leaf)
    auditor.catch(with_line(b'\\"role\\"', b'\\"rule\\"'), "altered_record", leaf)
    auditor.catch(with_line(b'"INSERT"', b'"DELETE"'), "proof")
    auditor.catch(with_line(b"public.item", b"public.ITEM"), "format")
    auditor.catch(with_line(b"public.item", b"public.itom"), "proof")
    auditor.catch(with_lines(*lines[:at], *lines[at + 1 :]), "missing_record", leaf)
    auditor.catch(with_lines(*lines[1:]), "missing_record", begin)
    auditor.catch(with_lines(*lines[:-1]), "missing_record", begin + len(lines) - 1)
    auditor.catch(with_lines(*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]), "missing_record", leaf)
    auditor.catch(with_lines(*lines[: at + 1], *lines[at:]), "forged_record", leaf)
    auditor.catch(with_line(lines[at][9 : lines[at].index(b',"data"')], b'{"erased":0}'), "unauthorized_erasure", leaf)

    # Another checkpoint: a newer one of the same log, one signed with another key, one that is put together.
    change(deployment, 7, 7)
    deployment.seal()
    newer = make(deployment)["checkpoint"]
    auditor.catch({**members, "checkpoint": newer}, "proof")
    text = members["checkpoint"].decode().rpartition("\n\n")[0] + "\n"
    mallory = SignerKey(ORIGIN, bytes(32))
    auditor.catch({**members, "checkpoint": sign_note(text, mallory)}, "signature")
    auditor.catch({**members, "checkpoint": newer.replace(newer.split(b"\n")[2], text.encode().split(b"\n")[2])},
                  "signature")  # fmt: skip
    assert auditor.verify(members, key=str(mallory.verifier), code=1)["findings"][0]["kind"] == "signature"
    # A line that is left out, and everything made anew around it that can be made without the log's key.
    entries = deployment.entries()[: int(text.split("\n")[1])]
    without = entries[:leaf] + entries[leaf + 1 :]
    hashes = leaf_hashes(without)
    proof = prove_range(
        begin, begin + len(lines) - 1, len(without),
        lambda coordinates: [tree_root(hashes[index << level : (index + 1) << level]) for level, index in coordinates],
    )  # fmt: skip
    renumbered = [
        line.replace(b'"index":%d}' % number, b'"index":%d}' % (number - 1 if number > leaf else number))
        for number, line in enumerate(lines, begin)
        if number != leaf
    ]
    forged = with_lines(*renumbered)
    info = json.loads(members["pack.json"])
    forged["pack.json"] = json.dumps({**info, "end": info["end"] - 1}).encode()
    auditor.catch(forged, "proof")
    forged["range-proof"] = b"".join(b64encode(hash_) + b"\n" for hash_ in proof)
    auditor.catch(forged, "proof")


def test_archives_that_can_be_read_in_two_ways_are_refused(deployment):
    beat(deployment)
    since, until = change(deployment, 1, 3)
    beat(deployment)
    auditor = Auditor(deployment, since, until)
    members = make(deployment, *auditor.question)
    right = archive(members)
    changed = members["records.jsonl"].replace(b"note", b"NOTE")

    output = io.BytesIO(right)
    with zipfile.ZipFile(output, "a") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("records.jsonl", changed)
    auditor.catch(output.getvalue(), "format")
    auditor.catch({**members, "../records.jsonl": changed}, "format")
    auditor.catch({name if name != "README.txt" else "../README.txt": data for name, data in members.items()}, "format")
    auditor.catch(archive({**members, "records.jsonl": changed}) + right, "format")
    auditor.catch(right + b"hidden", "format")
    auditor.catch(b"#!/bin/sh\n" + right, "format")
    auditor.catch(right.replace(b"README.txt", b"readme.txt", 1), "format")  # the local header only
    bomb = archive({**members, "README.txt": bytes(200 << 20)})
    assert len(bomb) < 300_000
    auditor.catch(bomb, "format")
    auditor.catch(archive({**members, "records.jsonl": bytes(100 << 20)}), "format")
    assert auditor.verify(right)["complete"]


def test_another_question_or_a_matching_record_withheld_is_no_answer(deployment):
    with psycopg.connect(deployment.source) as connection:
        connection.execute("CREATE TABLE other (id int)")
    deployment.track("other")
    beat(deployment)
    since, until = change(deployment, 1, 3)
    beat(deployment)
    auditor = Auditor(deployment, since, until)
    when = auditor.question[:4]

    other = make(deployment, *when, "--table", "other")
    report = auditor.verify(other)
    assert (report["complete"], report["verdict"], report["withheld"]) == (False, "incomplete", 3)
    assert auditor.verify(make(deployment, *when, "--action", "DELETE"))["verdict"] == "incomplete"
    assert auditor.verify(make(deployment, *when, "--withhold", "data"))["verdict"] == "incomplete"
    assert auditor.verify(other, *when, "--table", "public.other")["verdict"] == "complete"
    assert auditor.verify(make(deployment, *when, "--actor", "nobody"))["verdict"] == "incomplete"
    # One record only, of a pack that is complete.
    members = make(deployment, *auditor.question)
    lines = members["records.jsonl"].splitlines()
    at = next(number for number, line in enumerate(lines) if b'"INSERT"' in line)
    lines[at] = json.dumps(
        {**json.loads(lines[at]), "data": {"withheld": True}}, separators=(",", ":"), ensure_ascii=False, sort_keys=True
    ).encode()
    withheld = {**members, "records.jsonl": b"".join(line + b"\n" for line in lines)}
    report = auditor.verify(withheld)
    assert (report["ok"], report["verdict"], report["withheld"]) == (True, "incomplete", 1)
    assert auditor.verify(withheld, *auditor.question, "--require-complete", code=3)["verdict"] == "incomplete"
    # The actor is withheld of a record that is about another table: it may be theirs all the same.
    assert auditor.verify(make(deployment, *when), *when, "--actor", "postgres")["verdict"] == "incomplete"


def test_leaves_that_leave_something_out_and_stale_packs_say_so(deployment):
    beat(deployment)
    since, middle = change(deployment, 1, 3)
    deployment.seal()
    stale = make(deployment, "--since", since, "--table", "item")
    change(deployment, 4, 6)
    until = moment()
    beat(deployment)
    auditor = Auditor(deployment, since, until)
    only = "complete for these leaves only"

    whole = make(deployment, *auditor.question)
    report = auditor.verify(whole)
    assert (report["verdict"], report["matching"]) == ("complete", 6)
    report = auditor.verify(stale)
    assert (report["ok"], report["verdict"], report["matching"]) == (True, only, 3)
    assert auditor.verify(stale, "--since", since, "--until", middle)["verdict"] == only
    begin, end = report["begin"], auditor.verify(whole)["end"]
    for options in (("--begin", str(begin + 2)), ("--end", str(end - 1)), ("--end", str(end - 3))):
        cut = make(deployment, *auditor.question, *options)
        assert auditor.verify(cut)["verdict"] == only
    # What a source can say of itself bounds nothing.
    query(
        deployment.source,
        "INSERT INTO audit.record SELECT (jsonb_populate_record(r, jsonb_build_object('id', r.id + 1000000, "
        "'action', 'HEARTBEAT', 'source', 'system'))).* FROM audit.record AS r ORDER BY id DESC LIMIT 1",
    )
    deployment.seal()
    reader = LedgerReader(DirectoryStore(deployment.ledger))
    assert b'"HEARTBEAT"' in reader.leaf(deployment.checkpoint().size - 1, deployment.checkpoint().size)
    late = ("--since", since, "--until", moment(), "--table", "public.item")
    assert auditor.verify(make(deployment, *late), *late)["verdict"] == only
