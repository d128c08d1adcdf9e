"""Who a record says it was, and when it says nobody."""

import json

import pytest

from pgseal.cli.records import describe_actor, format_records
from pgseal.vault.records import Record


def make_record(claimed: object) -> Record:
    who = {"role": "app_rw", "application": "psql"} | ({} if claimed is None else {"claimed": claimed})
    return Record(
        0, "clinic", 1, 7, "2026-11-23T09:14:02.118000Z", "700", "row", "data_modification", "UPDATE", "success",
        "public.patients", json.dumps(who), None, '{"key": {"id": 1}, "new": {"id": 1}, "old": {}}', None,
    )  # fmt: skip


@pytest.mark.parametrize("claimed", [None, {}, {"actor": None}, {"actor": ""}, {"actor": "", "request": "r-17"}, []])
def test_who_does_not_say_who_acts_is_no_actor(claimed):
    record = make_record(claimed)

    assert describe_actor(record) == "app_rw (psql)"
    [line, *_] = format_records([record], 1, utc=True, table=False)
    assert ("   no actor set", "yellow") in line


@pytest.mark.parametrize("actor", ["dr.okafor", " ", 0, {"id": 3}])
def test_whatever_else_is_said_is_an_actor(actor):
    record = make_record({"actor": actor})

    assert describe_actor(record).endswith(" (app_rw)")
    [line, *_] = format_records([record], 1, utc=True, table=False)
    assert ("   no actor set", "yellow") not in line
