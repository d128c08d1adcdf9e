"""``pgseal key``: the key that signs the log."""

import secrets
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pgseal.cli.invocation import find_invocation, load_settings
from pgseal.cli.key_file import changing_key, replace_key, write_new_key
from pgseal.cli.options import AsJson
from pgseal.errors import ConfigError, FormatError, StorageError

if TYPE_CHECKING:
    from pgseal.core.keys import VerifierKey
    from pgseal.sealer.rotate import KeyState
    from pgseal.settings import Settings

app = typer.Typer(help="The key that signs the log.", rich_markup_mode=None)

_FILE = "file:"


@app.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """Hold the commands about the key; alone, say which there are."""
    if context.invoked_subcommand is None:
        sys.stdout.write(f"{context.get_help()}\n")


@app.command(epilog="Example: pgseal key show > clinic.vkey")
def show(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="All keys this log ever had, from the vault.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print the verifier key, one line: what others verify this log with.

    While the key is rotated that is the new one; the old one, which signs as well, is named on standard error.
    """
    settings = load_settings(context)
    if every:
        _show_all(settings, as_json=as_json)
        return
    new, *old = settings.read_verifiers()
    if as_json:
        from pgseal.cli.output import print_json

        print_json({"origin": new.name, "vkey": str(new), "old_vkey": str(old[0]) if old else None})
        return
    sys.stdout.write(f"{new}\n")
    sys.stdout.flush()
    for key in old:
        sys.stderr.write(f"being rotated; this one signs, too, until pgseal key rotate --finish: {key}\n")


@app.command(epilog="Example: pgseal key new --origin clinic.example/prod --key pgseal.key")
def new(
    context: typer.Context,
    key: Annotated[
        str, typer.Option("--key", metavar="FILE", help="A new file, or pkcs11:… for a key that is made in a token.")
    ],
    origin: Annotated[
        str | None, typer.Option(metavar="NAME", help="The log's name (default: that of pgseal.toml).")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a signing key, and print its verifier key.

    Nothing is ever overwritten. A key that a log has signed with already is changed with pgseal key rotate.
    """
    from pgseal.core.checkpoint import check_origin
    from pgseal.core.keys import SEED_BYTES, generate_signer
    from pgseal.signing import is_token_uri

    name = load_settings(context).origin if origin is None else origin
    try:
        check_origin(name, source="--origin")
    except FormatError as error:
        raise ConfigError(str(error)) from error
    if is_token_uri(key):
        verifier = _make_in_token(key, name, find_invocation(context).path.absolute().parent)
    else:
        signer = generate_signer(name, secrets.token_bytes(SEED_BYTES))
        write_new_key(Path(key.removeprefix(_FILE)).absolute(), signer)
        verifier = signer.verifier
    if as_json:
        from pgseal.cli.output import print_json

        print_json({"origin": name, "vkey": str(verifier)})
    else:
        sys.stdout.write(f"{verifier}\n")


@app.command(epilog="Example: pgseal key rotate")
def rotate(
    context: typer.Context,
    *,
    to: Annotated[
        str | None,
        typer.Option(metavar="KEY", help="The new key: file:PATH or pkcs11:… (default: one that is made now)."),
    ] = None,
    finish: Annotated[bool, typer.Option("--finish", help="End the overlap: the old key signs no more.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="--finish: though a witness does not know the new key.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Pass the log to a new key: both sign from now on, until --finish.

    Safe to repeat: after a crash, or an error that has been mended, the same command goes on. A sealer that is at work
    takes the key up by itself.
    """
    settings = load_settings(context)
    if settings.key.path is None:
        raise ConfigError(
            f"{settings.key.where}: the key is not in a file that could be changed here. Put two lines there, the "
            "new key and below it the old one, and restart the sealer, which records the rotation; a key in a token "
            'rotates from key = "file:…" with its pkcs11: URI in the file'
        )
    if force and not finish:
        raise ConfigError("--force goes with --finish")
    if finish and to is not None:
        raise ConfigError("--to begins a rotation, --finish ends one: one after the other")
    if finish:
        _finish(settings, settings.key.path, force=force, as_json=as_json)
    else:
        _begin(settings, settings.key.path, to, as_json=as_json)


def _begin(settings: "Settings", path: Path, to: str | None, *, as_json: bool) -> None:
    from pgseal.cli.output import print_json, printable, say
    from pgseal.sealer.rotate import ensure_sealed
    from pgseal.signing import is_token_uri, split_ring

    with changing_key(path):
        lines = split_ring(settings.key.reveal(), source=settings.key.where)
        if not all(is_token_uri(line) or line.startswith("PRIVATE+") for line in lines):
            raise ConfigError(f"{path} holds a verifier key: rotate where the log is sealed")
        if len(lines) == 1:
            # A crash before this leaves everything as it was; after it, the next run, or the next sealer, goes on.
            replace_key(path, [_make_line(settings, to), *lines])
        elif to is not None and _make_line(settings, to) != lines[0]:
            raise ConfigError("a rotation to another key is under way: pgseal key rotate --finish ends it")
    state = ensure_sealed(settings)
    if as_json:
        print_json({"origin": settings.origin, **state.to_json(), "finished": False})
        return
    assert state.rotation is not None  # noqa: S101 - it is sealed
    say(("✓", "green"), f" recorded at leaf {state.rotation.leaf_index:,}; from there on both keys sign")
    say(f"  new key  {printable(str(state.new))}")
    say(f"  old key  {printable(str(state.old))}")
    say(f"  {printable(str(path))} holds both now (0600): keep a copy somewhere else")
    _say_next(settings, state)


def _say_next(settings: "Settings", state: "KeyState") -> None:
    from pgseal.cli.output import printable, say

    if settings.witnesses:
        say(f"  next: each witness: pgseal witness add-log {printable(settings.origin)} {printable(str(state.new))}")
    say("  next: give the new key to everyone who verifies, then pgseal key rotate --finish")


def _finish(settings: "Settings", path: Path, *, force: bool, as_json: bool) -> None:
    from pgseal.cli.output import print_json, say
    from pgseal.sealer.rotate import ensure_sealed, find_unaware_witnesses
    from pgseal.signing import is_token_uri, split_ring

    lines = split_ring(settings.key.reveal(), source=settings.key.where)
    is_done = len(lines) == 1
    # Also if somebody has interrupted `pgseal key rotate`: the old key must not go before the record is sealed.
    state = _read_state(settings) if is_done else ensure_sealed(settings)
    if not is_done:
        unaware = [] if force else find_unaware_witnesses(settings, state.new)
        if unaware:
            raise StorageError(
                f"witness {'; witness '.join(unaware)}: without the old key it would cosign no more. On its side: "
                "pgseal witness add-log ORIGIN NEWKEY; then seal something and run this again (or with --force)"
            )
        with changing_key(path):
            if split_ring(settings.key.reveal(), source=settings.key.where) != lines:
                raise ConfigError("somebody else has changed the key meanwhile: run it again")
            replace_key(path, lines[:1])
    if as_json:
        print_json({"origin": settings.origin, **state.to_json(), "old_vkey": None, "finished": True})
        return
    say(("✓", "green"), " the new key alone signs" if not is_done else " no rotation is under way")
    if not is_done and is_token_uri(lines[1]):
        say("  the old key is still in its token: remove it there, with the token's own tools")
    elif not is_done:
        say(
            "  the old key is gone from here: destroy the copies of it, too, but keep its verifier key (key show --all)"
        )


def _make_line(settings: "Settings", to: str | None) -> str:
    """Return the line of the new key, which is made unless it is given; raises ``ConfigError`` if it cannot be used."""
    from pgseal.core.keys import SEED_BYTES, format_signer_key, generate_signer
    from pgseal.settings import Secret
    from pgseal.signing import is_token_uri, read_signer

    if to is None:
        return format_signer_key(generate_signer(settings.origin, secrets.token_bytes(SEED_BYTES)))
    if not to.startswith(_FILE) and not is_token_uri(to):
        raise ConfigError("--to: expected file:PATH or pkcs11:…, got something else (not shown, it may be secret)")
    line = Secret(to, "--to", Path.cwd(), settings.key.environ).reveal().strip()
    try:
        # To sign, and not only to look: a PIN that is wrong shows now, and not when the sealer needs it.
        signer = read_signer(line, settings.origin, source="--to", base=settings.key.base, environ=settings.key.environ)
    except FormatError as error:
        raise ConfigError(str(error)) from None
    signer.close()
    if signer.verifier.name != settings.origin:
        raise ConfigError(f"--to: expected a key of {settings.origin!r}, got one of {signer.verifier.name!r}")
    return line


def _make_in_token(uri: str, origin: str, base: Path) -> "VerifierKey":
    import os

    from pgseal.signing import make_token_key

    try:
        return make_token_key(uri, origin, source="--key", base=base, environ=os.environ)
    except FormatError as error:
        raise ConfigError(str(error)) from None


def _read_state(settings: "Settings") -> "KeyState":
    from pgseal.postgres import connect
    from pgseal.sealer.rotate import read_key_state
    from pgseal.sealer.trails import SEALER_ROLE
    from pgseal.vault.store import VaultStore

    with closing(connect(settings.vault.dsn.reveal(), side="vault", role=SEALER_ROLE)) as connection:
        return read_key_state(settings, VaultStore(connection))


def _show_all(settings: "Settings", *, as_json: bool) -> None:
    from pgseal.cli.output import print_json, printable, say

    state = _read_state(settings)
    first = state.history[0].rotation.old if state.history else state.new
    keys = [(first, 0, None)] + [
        (one.rotation.new, one.rotation.from_size + 1, one.leaf_index) for one in state.history
    ]
    if as_json:
        print_json(
            {
                "origin": settings.origin,
                "keys": [{"vkey": str(key), "begin_size": size, "index": index} for key, size, index in keys],
            }
        )
        return
    for key, size, index in keys:
        record = "" if index is None else f", by the KEY_ROTATE record of leaf {index:,}"
        say(printable(str(key)))
        say(f"  signs checkpoints from size {size:,}{record}" if size else "  signs from the beginning")
