"""Keys in a token behind a PKCS#11 library (an HSM, a smart card, SoftHSM): Ed25519, by ``CKM_EDDSA``.

Needs the extra ``pkcs11``.

The private key never leaves the token; this process has a session, and holds the PIN only while it logs in. What goes
wrong is told apart by what a person can do about it:

- ``UnavailableError``: the token is gone, or does not answer. Worth trying again: a sealer waits, with growing pauses.
- ``ConfigError``: there is no such key, or the token refuses the PIN. Never tried again by itself: after a few wrong
  PINs a token locks itself.

A library is one for the whole process (PKCS#11 has no other way). After an error it is shut down, so that the next
attempt finds tokens that were plugged in meanwhile.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pkcs11
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass
from pkcs11 import exceptions as errors

from pgseal.core.keys import VerifierKey
from pgseal.errors import ConfigError, UnavailableError
from pgseal.signing.uri import TokenUri

_KEY_BYTES = 32
_OCTET_STRING = b"\x04\x20"
#: The name of Ed25519's curve as a PrintableString, which is how PKCS#11 3.0 and libraries before it know it.
_CURVE = b"\x13\x0cedwards25519"
_MAX_PIN_BYTES = 4096

_REFUSED = (
    errors.PinIncorrect, errors.PinInvalid, errors.PinLocked, errors.PinExpired, errors.PinLenRange,
    errors.UserPinNotInitialized,
)  # fmt: skip
_UNSUITABLE = (
    errors.MechanismInvalid, errors.KeyTypeInconsistent, errors.FunctionNotSupported, errors.AttributeTypeInvalid,
    errors.AttributeValueInvalid, errors.TemplateInconsistent, errors.TokenWriteProtected, errors.DomainParamsInvalid,
)  # fmt: skip


class Token:
    """The token and the key that a URI names."""

    def __init__(self, uri: TokenUri, base: Path, environ: Mapping[str, str]) -> None:
        """Use ``uri``; its PIN is in ``environ``, or in a file relative to ``base``."""
        self._uri = uri
        self._base = base
        self._environ = environ

    def read_verifier(self, name: str) -> VerifierKey:
        """Return the public half of the key, to verify ``name`` with; logs in only if it is not shown otherwise."""
        with self._translated():
            session = self._open(login=False)
            try:
                found = self._find_public(session)
            finally:
                session.close()
            if found is None and self._uri.pin_source is not None:
                session = self._open(login=True)
                try:
                    found = self._find_public(session)
                finally:
                    session.close()
        if found is None:
            raise ConfigError(f"{self._uri}: there is no such Ed25519 public key; pgseal key new makes one")
        return VerifierKey(name, found)

    def open_signer(self, name: str) -> "TokenSigner":
        """Return the key, ready to sign as ``name``; the session stays open as long as the signer is used."""
        with self._translated():
            session = self._open(login=True)
            public_key = self._find_public(session)
            found = list(session.get_objects(self._template(ObjectClass.PRIVATE_KEY)))
            if public_key is None or len(found) != 1:
                session.close()
        if public_key is None or not found:
            raise ConfigError(f"{self._uri}: there is no such Ed25519 key pair; pgseal key new makes one")
        if len(found) > 1:
            raise ConfigError(f"{self._uri}: there are {len(found)} such keys: say which one with id=%…")
        return TokenSigner(VerifierKey(name, public_key), session, found[0], self._translated)

    def make_key(self, name: str) -> VerifierKey:
        """Make the key pair in the token, to stay there, and return its public half; raises if there is one already."""
        if self._uri.object is None:
            raise ConfigError("a new key needs a label: object=LABEL")
        with self._translated():
            session = self._open(login=True, rw=True)
            try:
                for kind in (ObjectClass.PUBLIC_KEY, ObjectClass.PRIVATE_KEY):
                    if any(True for _ in session.get_objects({**self._template(kind)})):
                        raise ConfigError(f"{self._uri}: there is a key already, and it stays")
                curve = session.create_domain_parameters(KeyType.EC_EDWARDS, {Attribute.EC_PARAMS: _CURVE}, local=True)
                curve.generate_keypair(
                    mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN, store=True, label=self._uri.object, id=self._uri.id
                )
                public_key = self._find_public(session)
            finally:
                session.close()
        if public_key is None:
            raise ConfigError(f"{self._uri}: the token made a key and does not show it")
        return VerifierKey(name, public_key)

    def _open(self, *, login: bool, rw: bool = False) -> Any:
        library: Any = _load(self._uri.module_path)
        tokens = [token for token in library.get_tokens() if self._is_meant(token)]
        if not tokens:
            raise UnavailableError(f"{self._uri}: there is no such token behind {self._uri.module_path}: is it there?")
        if len(tokens) > 1:
            raise ConfigError(f"{self._uri}: {len(tokens)} tokens are called so: add serial=…")
        if not login:
            return tokens[0].open(rw=rw)
        try:
            return tokens[0].open(rw=rw, user_pin=self._read_pin())
        except errors.UserAlreadyLoggedIn:
            # A login counts for all sessions of a process: somebody else here uses a key of this token.
            return tokens[0].open(rw=rw)

    def _is_meant(self, token: Any) -> bool:
        uri = self._uri
        return all(
            wanted is None or wanted == (found.decode("utf-8", "replace") if isinstance(found, bytes) else found)
            for wanted, found in (
                (uri.token, token.label),
                (uri.serial, token.serial),
                (uri.model, token.model),
                (uri.manufacturer, token.manufacturer_id),
            )
        )

    def _read_pin(self) -> str:
        where = self._uri.pin_source
        if where is None:
            raise ConfigError(f"{self._uri}: to sign it needs a PIN: add pin-source=env:NAME or pin-source=file:PATH")
        kind, _, name = where.partition(":")
        if kind == "env":
            pin = self._environ.get(name, "")
            if not pin:
                raise ConfigError(f"{self._uri}: environment variable {name!r}, for its PIN, is not set")
            return pin
        try:
            with (self._base / name).open(encoding="utf-8") as file:
                pin = file.read(_MAX_PIN_BYTES).strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigError(f"{self._uri}: cannot read the file {name!r} with its PIN") from None
        if not pin:
            raise ConfigError(f"{self._uri}: the file {name!r}, for its PIN, is empty")
        return pin

    def _template(self, kind: ObjectClass) -> dict[Attribute, Any]:
        template: dict[Attribute, Any] = {Attribute.CLASS: kind, Attribute.KEY_TYPE: KeyType.EC_EDWARDS}
        if self._uri.object is not None:
            template[Attribute.LABEL] = self._uri.object
        if self._uri.id is not None:
            template[Attribute.ID] = self._uri.id
        return template

    def _find_public(self, session: Any) -> bytes | None:
        found = list(session.get_objects(self._template(ObjectClass.PUBLIC_KEY)))
        if len(found) > 1:
            raise ConfigError(f"{self._uri}: there are {len(found)} such keys: say which one with id=%…")
        if not found:
            return None
        point = bytes(found[0][Attribute.EC_POINT])
        point = point.removeprefix(_OCTET_STRING) if len(point) > _KEY_BYTES else point
        if len(point) != _KEY_BYTES:
            raise ConfigError(f"{self._uri}: expected a key on Ed25519's curve, got one of {len(point)} bytes")
        return point

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Turn what the library raises into what a person can act on. None of it holds the PIN."""
        try:
            yield
        except _REFUSED as error:
            raise ConfigError(
                f"{self._uri}: the token refuses the PIN ({_describe(error)}); correct what {self._uri.pin_source} "
                "holds before you try again, a token locks itself after a few wrong ones"
            ) from None
        except _UNSUITABLE as error:
            raise ConfigError(f"{self._uri}: the token cannot do this with Ed25519 ({_describe(error)})") from None
        except errors.PKCS11Error as error:
            _unload(self._uri.module_path)
            raise UnavailableError(f"{self._uri}: the token does not answer ({_describe(error)})") from None


class TokenSigner:
    """A key in a token, with an open session (``core.keys.Signer``)."""

    def __init__(self, verifier: VerifierKey, session: Any, key: Any, translated: Callable[[], Any]) -> None:
        """Use ``Token.open_signer``."""
        self.verifier = verifier
        self._session = session
        self._key = key
        self._translated = translated

    def sign(self, message: bytes) -> bytes:
        """Return the token's signature of ``message``, after looking whether it is one.

        Raises ``UnavailableError`` and ``ConfigError``.
        """
        with self._translated():
            signature = bytes(self._key.sign(message, mechanism=Mechanism.EDDSA))
        try:
            # What is signed is kept for good and never signed twice, so a token's mistake must not get that far.
            Ed25519PublicKey.from_public_bytes(self.verifier.public_key).verify(signature, message)
        except InvalidSignature:
            raise ConfigError(
                f"the token gave a signature that is not of key {self.verifier.key_id.hex()}: do its public and its "
                "private key belong together?"
            ) from None
        return signature

    def close(self) -> None:
        """Close the session."""
        with suppress(errors.PKCS11Error):  # gone with its token, or with the library
            self._session.close()


def _load(path: str) -> Any:
    try:
        library: Any = pkcs11.lib(path)
    except (errors.PKCS11Error, RuntimeError, OSError):
        if not Path(path).exists():
            raise ConfigError(f"there is no PKCS#11 library {path!r}: correct module-path") from None
        raise UnavailableError(f"the PKCS#11 library {path!r} does not start: are its own settings in order?") from None
    if not library.initialized:
        library.initialize()
    return library


def _unload(path: str) -> None:
    with suppress(errors.PKCS11Error, RuntimeError, OSError):
        library: Any = pkcs11.lib(path)
        library.finalize()


def _describe(error: errors.PKCS11Error) -> str:
    """Return ``token not present`` for TokenNotPresent."""
    name = type(error).__name__
    return "".join(
        f" {letter.lower()}" if letter.isupper() and at else letter.lower() for at, letter in enumerate(name)
    )
