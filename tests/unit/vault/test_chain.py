"""Records of rows are linked as the changes followed each other, in whatever order a transaction's were captured."""

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from pgseal.vault.chain import Links
from pgseal.vault.records import Record
from pgseal.vault.values import Number, format_key

Image = dict[str, int]


def record(record_id: int, xid: int, before: Image | None, after: Image | None) -> Record:
    """The record of a change of {"id": …, "note": …}, leaf index and id alike; before and after None: TRUNCATE."""
    action = {(False, True): "INSERT", (True, True): "UPDATE", (True, False): "DELETE"}.get(
        (before is not None, after is not None), "TRUNCATE"
    )
    key, old = before or after, before
    if before and after:
        old = {name: value for name, value in before.items() if after[name] != value}
    data = json.dumps({"key": key and {"id": key["id"]}, "new": after, "old": old})
    return Record(
        record_id, "t", 1, record_id, "2026-11-23T09:14:02.000000Z", str(xid), "row", "data_modification", action,
        "success", "public.item", "{}", b"", data, b"",
    )  # fmt: skip


def follow(records: list[Record]) -> dict[int, int]:
    """The ids of the records that follow each other, over all keys."""
    keys = {key for one in records for key in (one.key_before, one.key_after) if key}
    followers: dict[int, int] = {}
    for key in keys:
        here = [one for one in records if key in (one.key_before, one.key_after) or not one.key]
        links = Links(key, here)
        for former, following in links.after.items():
            assert following.action == "TRUNCATE" or links.before[following.id].id == former
            followers[former] = following.id
    return followers


@st.composite
def stories(draw, notes: st.SearchStrategy[int] | None = None):
    """Records of some rows, and the ids of each row's in the order of its changes.

    Within a transaction records are captured in any order; without ``notes`` every version is another.
    """
    versions = iter(range(1000))
    there: list[tuple[Image, list[tuple[int, Image | None, Image | None]]]] = []
    gone: list[list[tuple[int, Image | None, Image | None]]] = []
    changes: list[list[tuple[int, Image | None, Image | None]]] = []
    for transaction in range(draw(st.integers(1, 5))):
        changes.append([])
        for _ in range(draw(st.integers(1, 5))):
            image = {"id": draw(st.integers(1, 3)), "note": next(versions) if notes is None else draw(notes)}
            number = draw(st.integers(0, len(there)))
            if number == len(there):
                there.append((image, []))
                change = (transaction, None, image)
            elif draw(st.integers(0, 3)):
                change = (transaction, there[number][0], image)
                there[number] = (image, there[number][1])
            else:
                change = (transaction, there[number][0], None)
            row = there[number][1] if number < len(there) else []
            row.append(change)
            changes[-1].append(change)
            if change[2] is None:
                gone.append(there.pop(number)[1])
    captured = [change for some in changes for change in draw(st.permutations(some))]
    ids = {id(change): number for number, change in enumerate(captured, start=1)}
    rows = [[ids[id(change)] for change in row] for row in [*gone, *(row for _, row in there)]]
    return [record(ids[id(change)], *change) for change in captured], rows


@given(stories())
def test_rows_are_followed_through_keys_and_captured_disorder(story):
    records, rows = story

    assert follow(records) == {former: following for row in rows for former, following in pairwise(row)}


@given(stories(st.integers(1, 2)))
def test_versions_that_repeat_make_no_circle_at_a_key(story):
    records, _ = story
    for key in {one.key_after for one in records} - {None}:
        here = [one for one in records if key in (one.key_before, one.key_after)]
        links = Links(key, here)
        for one in here:
            step, steps = one, 0
            while (step := links.after.get(step.leaf_index)) is not None:
                steps += 1
                assert steps <= len(here)


def test_a_change_and_its_undoing_captured_inside_out_are_put_right():
    first, second = {"id": 1, "note": 1}, {"id": 1, "note": 2}
    records = [record(1, 1, None, first), record(2, 2, second, first), record(3, 2, first, second)]

    assert follow(records) == {1: 3, 3: 2}


def test_what_fits_nothing_goes_on_in_order_of_id_and_says_so():
    images = [{"id": 1, "note": note} for note in range(4)]
    links = Links('{"id":1}', [record(1, 1, None, images[0]), record(2, 2, images[2], images[3])])

    assert links.after[1].id == 2
    assert links.unexplained == {2}
    assert links.gaps == [(1, 2)]


def test_a_truncate_ends_what_is_there():
    image = {"id": 1, "note": 1}
    links = Links('{"id":1}', [record(1, 1, None, image), record(2, 2, None, None), record(3, 3, None, image)])

    assert links.after[1].id == 2
    assert 3 not in links.before


def test_numbers_in_keys_keep_their_digits():
    assert format_key({"b": Number("1.50"), "a": "x"}) == '{"a":"x","b":1.50}'
