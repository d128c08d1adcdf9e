"""``pkcs11:`` URIs (RFC 7512): what is understood, and that nothing else is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgseal.errors import FormatError
from pgseal.signing.uri import TokenUri, parse_token_uri

LIBRARY = "?module-path=/usr/lib/softhsm/libsofthsm2.so"


def test_a_uri_names_token_key_library_and_where_the_pin_is():
    text = f"pkcs11:token=My%20token;serial=a1;object=cli%6eic;id=%01%ff;type=private{LIBRARY}&pin-source=env:PIN"
    found = parse_token_uri(text, source="key")
    assert found == TokenUri(
        "/usr/lib/softhsm/libsofthsm2.so", token="My token", serial="a1", object="clinic", id=b"\x01\xff",
        pin_source="env:PIN",
    )  # fmt: skip
    assert str(found) == "'clinic' in token 'My token'"
    # In any order, as the RFC has it; the PIN's place may be left out where nothing is signed.
    assert parse_token_uri(f"pkcs11:id=%01;model=m{LIBRARY}", source="key").id == b"\x01"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pkcs12:object=a", "begins with pkcs11:"),
        ("pkcs11:object=a", "module-path"),
        ("pkcs11:object=a?module-path=libsofthsm2.so", "module-path"),
        (f"pkcs11:token=a{LIBRARY}", "which key"),
        (f"pkcs11:object=a{LIBRARY}&pin-value=4711", "pin-source"),
        (f"pkcs11:object=a;pin-value=4711{LIBRARY}", "pin-source"),
        (f"pkcs11:object=a{LIBRARY}&pin-source=|cat%20/pin", "env:NAME"),
        (f"pkcs11:object=a{LIBRARY}&pin-source=4711", "env:NAME"),
        (f"pkcs11:object=a;object=b{LIBRARY}", "twice"),
        (f"pkcs11:object={LIBRARY}", "empty"),
        (f"pkcs11:object=a b{LIBRARY}", "percent-encoded"),
        (f"pkcs11:object=%zz{LIBRARY}", "percent-encoded"),
        (f"pkcs11:object=a;type=public{LIBRARY}", "type=private"),
        (f"pkcs11:object=a;slot-id=4711{LIBRARY}", "not understood"),
        (f"pkcs11:object=a{LIBRARY}&max-pin=4711", "not understood"),
        (f"pkcs11:object={'a' * 3000}{LIBRARY}", "begins with"),
    ],
)
def test_what_is_not_understood_is_refused_and_not_quoted(text: str, problem: str):
    with pytest.raises(FormatError, match=problem) as caught:
        parse_token_uri(text, source="key")
    assert "4711" not in str(caught.value)


PIECES = st.sampled_from(
    ["token=", "object=", "id=%", "?", "&", ";", "module-path=/", "pin-source=", "env:", "%41", "é"]
)


@given(st.lists(st.one_of(st.text(max_size=8), PIECES), max_size=12).map("".join))
def test_nothing_but_its_own_error_comes_of_any_text(text: str):
    try:
        found = parse_token_uri(f"pkcs11:{text}", source="key")
    except FormatError:
        return
    assert found.module_path.startswith("/")
    assert found.object is not None or found.id is not None
