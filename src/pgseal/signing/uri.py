"""``pkcs11:`` URIs (RFC 7512): which key in which token, behind which library, and where its PIN is kept.

::

    pkcs11:token=pgseal;object=clinic?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=env:PGSEAL_PIN

Of the path, ``token``, ``manufacturer``, ``model`` and ``serial`` choose the token, ``object`` and ``id`` the key. Of
the query, ``module-path`` is the PKCS#11 library and ``pin-source`` says where the PIN is: ``env:NAME`` or
``file:PATH``.
``pin-value`` is refused: a PIN that stands in a configuration or on a command line is no secret. So is everything that
is not known here, as the RFC wants it for the path.
"""

import re
from dataclasses import dataclass
from urllib.parse import unquote, unquote_to_bytes

from pgseal.errors import FormatError

SCHEME = "pkcs11:"
_PATH = ("token", "manufacturer", "model", "serial", "object", "id", "type")
_QUERY = ("module-path", "pin-source")
_MAX_CHARACTERS = 2048
_VALUE = re.compile(r"(?:[A-Za-z0-9\-._~:\[\]@!$'()*+,=&/?|]|%[0-9A-Fa-f]{2})*")


@dataclass(frozen=True, slots=True)
class TokenUri:
    """What a URI says; None for what it leaves open. It holds no secret."""

    module_path: str
    token: str | None = None
    manufacturer: str | None = None
    model: str | None = None
    serial: str | None = None
    object: str | None = None
    id: bytes | None = None
    pin_source: str | None = None

    def __str__(self) -> str:
        """Name the key for people."""
        name = repr(self.object) if self.object is not None else f"id {self.id.hex()}" if self.id else "any key"
        token = self.token or self.serial or self.model or self.manufacturer
        return f"{name} in {'the token' if token is None else f'token {token!r}'}"


def parse_token_uri(text: str, *, source: str) -> TokenUri:
    """Return what a ``pkcs11:`` URI says; raises ``FormatError``, which quotes no value: one may be a PIN."""
    if not text.startswith(SCHEME) or len(text) > _MAX_CHARACTERS:
        raise FormatError(f"expected a URI that begins with {SCHEME}", source=source)
    path, _, query = text.removeprefix(SCHEME).partition("?")
    if "pin-value" in query or "pin-value" in path:
        raise FormatError(
            "pin-value shows the PIN to whoever sees this: give pin-source=env:NAME or pin-source=file:PATH",
            source=source,
        )
    said = _parse(path, ";", _PATH, source) | _parse(query, "&", _QUERY, source)
    if said.get("type", "private") != "private":
        raise FormatError("expected type=private, or none: what signs is a private key", source=source)
    module_path, pin_source = (said.get(name) for name in _QUERY)
    if module_path is None or not unquote(module_path).startswith("/"):
        raise FormatError(
            "expected ?module-path=/… with the path of the token's PKCS#11 library, such as "
            "/usr/lib/softhsm/libsofthsm2.so",
            source=source,
        )
    if "object" not in said and "id" not in said:
        raise FormatError("expected object=LABEL or id=%01…: which key in the token", source=source)
    pin_source = None if pin_source is None else unquote(pin_source)
    if pin_source is not None and not pin_source.startswith(("env:", "file:")):
        raise FormatError("expected pin-source=env:NAME or pin-source=file:PATH", source=source)
    return TokenUri(
        unquote(module_path),
        **{name: unquote(said[name]) for name in _PATH[:5] if name in said},
        id=unquote_to_bytes(said["id"]) if "id" in said else None,
        pin_source=pin_source,
    )


def _parse(part: str, separator: str, names: tuple[str, ...], source: str) -> dict[str, str]:
    said: dict[str, str] = {}
    for attribute in filter(None, part.split(separator)):
        name, equals, value = attribute.partition("=")
        if not equals or name not in names:
            known = ", ".join(names)
            raise FormatError(f"there is an attribute that is not understood here; known are {known}", source=source)
        if name in said or not value or not _VALUE.fullmatch(value):
            raise FormatError(
                f"attribute {name!r} stands here twice, is empty or is not percent-encoded", source=source
            )
        said[name] = value
    return said
