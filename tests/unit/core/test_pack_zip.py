"""The container: what the standard library and we write is read; tricks that ZIP readers fall for are refused."""

import io
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.packs import NAMES, archive, check, kinds, morning

from pgseal.core.pack_zip import ZipWriter
from pgseal.errors import FormatError
from pgseal.verifier.pack_file import PackFile

MEMBERS = morning().pack()
ARCHIVE = archive(MEMBERS)
STORED = archive(MEMBERS, method=0)
END = len(ARCHIVE) - 22
DIRECTORY = ARCHIVE.index(b"PK\x01\x02")


def read(data: bytes) -> dict[str, bytes]:
    pack = PackFile(io.BytesIO(data))
    return {name: pack.read(name) for name in NAMES}


def refuse(data: bytes, expected: str) -> None:
    with pytest.raises(FormatError, match=expected):
        read(data)
    assert kinds(check(data)) == ["format"]


def patch(data: bytes, position: int, form: str, *values: int) -> bytes:
    packed = struct.pack("<" + form, *values)
    return data[:position] + packed + data[position + len(packed) :]


def rezip(change, members=MEMBERS, **options) -> bytes:
    """The archive as the standard library makes it, with `change` for each member's ZipInfo."""
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, **options) as file:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, (2026, 11, 23, 9, 0, 0))
            info.compress_type = zipfile.ZIP_DEFLATED
            change(info)
            file.writestr(info, content)
    return output.getvalue()


def test_what_the_standard_library_writes_is_read():
    assert read(ARCHIVE) == read(STORED) == MEMBERS
    assert read(rezip(lambda _info: None)) == MEMBERS


@given(st.lists(st.lists(st.binary(max_size=2000), max_size=5), min_size=6, max_size=6))
def test_what_we_write_is_read_by_us_and_by_the_standard_library(contents):
    output = io.BytesIO()
    writer = ZipWriter(output, (2026, 11, 23), (9, 14, 2))
    for name, pieces in zip(NAMES, contents, strict=True):
        writer.add(name, pieces)
    assert writer.finish() == len(output.getvalue())

    assert read(output.getvalue()) == {name: b"".join(pieces) for name, pieces in zip(NAMES, contents, strict=True)}
    with zipfile.ZipFile(output) as file:
        assert file.testzip() is None
        assert file.namelist() == list(NAMES)
        assert {file.read(name) for name in NAMES} == {b"".join(pieces) for pieces in contents}
        assert file.infolist()[0].date_time == (2026, 11, 23, 9, 14, 2)


def test_other_members_are_refused():
    for name in NAMES:
        refuse(archive({one: content for one, content in MEMBERS.items() if one != name}), "6 members")
        refuse(archive({**MEMBERS, "more": b""}), "6 members")
        for other in ("../" + name, "/" + name, name + "/", name.upper(), " " + name, "é"):
            refuse(
                archive({(other if one == name else one): content for one, content in MEMBERS.items()}), "member|file"
            )


def test_a_name_that_stands_twice_is_refused():
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as file:
        for name in NAMES[:5]:
            file.writestr(name, MEMBERS[name])
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr(NAMES[3], MEMBERS[NAMES[3]])
    refuse(output.getvalue(), "'records.jsonl' twice")


def test_comments_and_bytes_that_belong_to_nothing_are_refused():
    commented = io.BytesIO(ARCHIVE)
    with zipfile.ZipFile(commented, "a") as file:
        file.comment = b"hello"
    refuse(commented.getvalue(), "comment")
    refuse(ARCHIVE + b"\0", "at its end")
    refuse(b"MZ" + ARCHIVE, "belong to no member")
    refuse(ARCHIVE[:END] + b"gap" + ARCHIVE[END:], "belong to no member")
    # The same before the directory and between members, with all offsets mended.
    gap = ARCHIVE[:DIRECTORY] + b"gap" + ARCHIVE[DIRECTORY:]
    refuse(patch(gap, END + 3 + 16, "I", DIRECTORY + 3), "belong to no member")
    inner = archive({"hidden": b"x", **MEMBERS})
    first = inner.index(b"PK\x01\x02")
    cut = inner[:first] + inner[first + 46 + len("hidden") :]
    refuse(
        patch(patch(cut, len(cut) - 22 + 12, "I", len(cut) - 22 - first), len(cut) - 22 + 8, "2H", 6, 6), "begin where"
    )
    refuse(rezip(lambda info: setattr(info, "comment", b"hello")), "comment")
    refuse(rezip(lambda info: setattr(info, "extra", b"\x99\x99\x00\x00")), "extra field")


def test_two_archives_in_one_file_are_refused():
    for first, second in ((ARCHIVE, STORED), (STORED, ARCHIVE), (ARCHIVE[:DIRECTORY], ARCHIVE)):
        refuse(first + second, "belong to no member")


@pytest.mark.parametrize(
    ("position", "form", "value"),
    [
        (4, "H", 45),
        (6, "H", 1),
        (6, "H", 8),
        (6, "H", 0x800),
        (8, "H", 0),
        (10, "H", 1),
        (12, "H", 1),
        (14, "I", 1),
        (18, "I", 1),
        (22, "I", 1),
        (26, "H", 4),
        (28, "H", 1),
        (30, "B", ord("q")),
    ],
)
def test_a_local_header_that_says_something_else_than_the_directory_is_refused(position, form, value):
    refuse(patch(ARCHIVE, position, form, value), "says something else than the central directory")


@pytest.mark.parametrize(
    ("local", "central", "form", "values", "expected"),
    [
        (6, 8, "H", [1], "encrypted"),
        (6, 8, "H", [8], "sizes that stand behind"),
        (6, 8, "H", [0x2000], "encrypted"),
        (4, 6, "H", [45], "version 45"),
        (8, 10, "H", [12], "compression method 12"),
        (8, 10, "H", [0], "two sizes"),
        (14, 16, "I", [0], "damaged"),
        (22, 24, "I", [10], "got more"),
        (22, 24, "I", [2000], "damaged"),
        (22, 24, "I", [2**32 - 1], "at most 65536 bytes in pack.json"),
    ],
)
def test_what_both_headers_say_and_is_not_so_is_refused(local, central, form, values, expected):
    refuse(patch(patch(ARCHIVE, local, form, *values), DIRECTORY + central, form, *values), expected)


@pytest.mark.parametrize(
    ("position", "form", "values", "expected"),
    [
        (0, "I", [0], "not a ZIP archive"),
        (4, "H", [1], "one disk"),
        (8, "2H", [5, 5], "got 5"),
        (8, "2H", [6, 7], "got 7"),
        (8, "2H", [0xFFFF, 0xFFFF], "got 65535"),
        (12, "I", [0], "belong to no member"),
        (12, "I", [2**32 - 1], "belong to no member"),
        (16, "I", [2**32 - 1], "belong to no member"),
        (20, "H", [1], "comment"),
    ],
)
def test_an_end_record_that_lies_is_refused(position, form, values, expected):
    refuse(patch(ARCHIVE, END + position, form, *values), expected)


def test_links_and_directories_are_refused():
    for attributes in (0o120777 << 16, 0o040755 << 16, 0x10, 0o020666 << 16):
        refuse(rezip(lambda info, value=attributes: setattr(info, "external_attr", value)), "regular file")


def test_a_bomb_is_refused_before_it_is_read():
    bomb = archive({**MEMBERS, "README.txt": bytes(50 << 20)})
    assert len(bomb) < 100_000
    refuse(bomb, "at most 1048576 bytes in README.txt, got 52428800")
    # Declared small, it is not inflated beyond that.
    begin = bomb.index(b"PK\x03\x04", bomb.index(b"proofs.jsonl"))
    central = bomb.rindex(b"PK\x01\x02")
    refuse(patch(patch(bomb, begin + 22, "I", 1000), central + 24, "I", 1000), "got more")


@pytest.mark.parametrize("added", [b"\0", zlib.compress(b"x")], ids=["byte", "stream"])
def test_bytes_behind_a_deflated_content_are_refused(added):
    output = io.BytesIO()
    writer = ZipWriter(output, (2026, 1, 1), (0, 0, 0))
    for name in NAMES:
        writer.add(name, [MEMBERS[name]])
    writer.finish()
    whole = output.getvalue()
    # The last member grows by what is added; everything behind it moves.
    directory = whole.index(b"PK\x01\x02")
    grown = whole[:directory] + added + whole[directory:]
    last, local = grown.rindex(b"PK\x01\x02"), whole.rindex(b"PK\x03\x04", 0, directory)
    size = struct.unpack_from("<I", whole, local + 18)[0] + len(added)
    grown = patch(patch(grown, local + 18, "I", size), last + 20, "I", size)
    refuse(patch(grown, len(grown) - 22 + 16, "I", directory + len(added)), "after the end of the deflated content")


def test_a_member_may_be_as_large_as_is_stated_and_no_larger():
    limit = 1 << 20
    assert len(read(archive({**MEMBERS, "README.txt": b"x" * limit}))["README.txt"]) == limit
    refuse(archive({**MEMBERS, "README.txt": b"x" * (limit + 1)}), "at most 1048576")
