"""``pgseal witness``: run a witness for other people's logs."""

import signal
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from pgseal.cli.key_file import write_new_key
from pgseal.cli.options import AsJson
from pgseal.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from pgseal.core.keys import SignerKey
    from pgseal.ledger.witness import WitnessStore

_DIRECTORY = "witness"
_KEY_NAME = "witness.key"
_MAX_CONNECTIONS = 200
_GRACE_SECONDS = 5
_MAX_PORT = 65535

app = typer.Typer(help="Run a witness for other people's logs.", rich_markup_mode=None)

Directory: TypeAlias = Annotated[
    Path, typer.Option("--dir", metavar="DIR", help="What the witness remembers, one file a log.")
]
KeyFile: TypeAlias = Annotated[
    Path | None, typer.Option("--key", metavar="FILE", help="The witness's own key (default: DIR/witness.key).")
]


@app.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """Hold the commands of a witness; alone, say which there are."""
    if context.invoked_subcommand is None:
        sys.stdout.write(f"{context.get_help()}\n")


@app.command(epilog="Example: pgseal witness init witness.example/paris")
def init(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it signs as: a URL without https://.")],
    directory: Directory = Path(_DIRECTORY),
    key: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Make the directory and the key of a witness, and print its verifier key.

    Safe to repeat. Nothing is ever overwritten.
    """
    signer = _make_key(name, directory, _key_path(directory, key))
    _show_key(signer, as_json=as_json)


@app.command("show-key", epilog="Example: pgseal witness show-key > paris.vkey")
def show_key(directory: Directory = Path(_DIRECTORY), key: KeyFile = None, as_json: AsJson = False) -> None:
    """Print the verifier key, one line: what logs put into their configuration."""
    _show_key(_read_key(_key_path(directory, key)), as_json=as_json)


@app.command("add-log", epilog="Example: pgseal witness add-log clinic.example/prod clinic.example/prod+33d7b496+AeHT…")
def add_log(
    origin: Annotated[str, typer.Argument(metavar="ORIGIN", help="The log's name.")],
    vkey: Annotated[str, typer.Argument(metavar="VKEY", help="Its verifier key, as pgseal key show prints it.")],
    directory: Directory = Path(_DIRECTORY),
    as_json: AsJson = False,
) -> None:
    """Cosign the checkpoints of a log from now on, also while it runs.

    Again with another key: both sign for the log, as while its key is rotated.
    """
    from pgseal.cli.output import print_json, printable, say
    from pgseal.core.keys import parse_verifier_key

    store = _open_store(directory)
    try:
        is_new = store.add_key(origin, parse_verifier_key(vkey.strip()))
    except FormatError as error:
        raise ConfigError(str(error)) from error
    if as_json:
        print_json({"origin": origin, "vkey": vkey.strip(), "added": is_new})
    else:
        say(("✓", "green"), f" {printable(origin)}   {'added' if is_new else 'was there already'}")


@app.command("list", epilog="Example: pgseal witness list")
def list_logs(directory: Directory = Path(_DIRECTORY), as_json: AsJson = False) -> None:
    """Show the logs, and how far each was cosigned."""
    from pgseal.cli.output import format_count, print_json, printable, say
    from pgseal.core.encoding import format_base64

    logs = [(log, log.read_checkpoint()) for log in _open_store(directory).list_logs()]
    if as_json:
        print_json(
            {
                "logs": [
                    {
                        "origin": log.origin,
                        "vkeys": [str(key) for key in log.keys],
                        "size": held.size if held else None,
                        "root": format_base64(held.root) if held else None,
                    }
                    for log, held in logs
                ]
            }
        )
        return
    for log, held in logs:
        state = "nothing cosigned yet"
        if held:
            state = f"{format_count(held.size, 'leaf', 'leaves')}   root {format_base64(held.root)[:8]}…"
        say(f"{printable(log.origin)}   {state}")
    if not logs:
        say("no logs yet:  pgseal witness add-log ORIGIN VKEY")


@app.command(epilog="Example: pgseal witness serve --listen 127.0.0.1:8780")
def serve(
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")
    ] = "127.0.0.1:8780",
    directory: Directory = Path(_DIRECTORY),
    key: KeyFile = None,
) -> None:
    """Cosign over HTTP (C2SP tlog-witness) until stopped.

    Needs pgseal[http]. For TLS put a reverse proxy in front of it.
    """
    import time

    from pgseal.ledger.witness import Witness

    witness = Witness(_open_store(directory), _read_key(_key_path(directory, key)), time.time)
    try:
        import uvicorn

        from pgseal.api.witness import make_app
    except ModuleNotFoundError as error:
        raise ConfigError(f"serving needs {error.name}, which is not installed; pip install 'pgseal[http]'") from error
    from pgseal.cli.output import printable, say

    with closing(_bind(listen)) as listener:
        host, port = listener.getsockname()[:2]
        config = uvicorn.Config(
            make_app(witness),
            access_log=False,
            log_level="warning",
            lifespan="off",
            ws="none",
            limit_concurrency=_MAX_CONNECTIONS,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        # uvicorn ends well at both, then raises them once more for whoever was there before it: us.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda _number, _frame: None)
        say(f"witness {printable(witness.name)} listens on http://{f'[{host}]' if ':' in host else host}:{port}")
        sys.stdout.flush()
        uvicorn.Server(config).run(sockets=[listener])
    say("stopped")


def _bind(listen: str) -> socket.socket:
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isdecimal() or int(port) > _MAX_PORT:
        raise ConfigError(f"--listen: expected HOST:PORT such as 127.0.0.1:8780, got {listen!r}")
    host = host.removeprefix("[").removesuffix("]")
    try:
        return socket.create_server(
            (host, int(port)), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=128
        )
    except OSError as error:
        raise ConfigError(
            f"--listen: cannot listen on {listen} ({(error.strerror or str(error)).lower()}): choose another"
        ) from error


def _open_store(directory: Path) -> "WitnessStore":
    from pgseal.ledger.witness import WitnessStore

    return WitnessStore(directory)


def _key_path(directory: Path, key: Path | None) -> Path:
    return directory / _KEY_NAME if key is None else key


def _read_key(path: Path) -> "SignerKey":
    from pgseal.core.keys import KeyType, parse_signer_key
    from pgseal.settings import Secret

    if not path.exists():
        raise ConfigError(f"there is no key {path}: make one with pgseal witness init NAME")
    try:
        signer = parse_signer_key(Secret(f"file:{path.absolute()}", "--key", Path("/"), {}).reveal(), source=str(path))
    except FormatError as error:
        raise ConfigError(str(error)) from None
    if signer.verifier.type is not KeyType.COSIGNATURE:
        raise ConfigError(f"{path} is the key of a log, which signs no cosignatures: a witness has its own")
    return signer


def _make_key(name: str, directory: Path, path: Path) -> "SignerKey":
    """Return the key, made if there is none; never overwrites anything."""
    import secrets

    from pgseal.core.keys import SEED_BYTES, KeyType, generate_signer

    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot make {directory} ({(error.strerror or 'failed').lower()})") from error
    if path.exists():
        signer = _read_key(path)
        if signer.name != name:
            raise ConfigError(f"{path} is the key of {signer.name!r}, not of {name!r}: give another --key or --dir")
        return signer
    try:
        signer = generate_signer(name, secrets.token_bytes(SEED_BYTES), KeyType.COSIGNATURE)
    except FormatError as error:
        raise ConfigError(str(error)) from error
    write_new_key(path, signer)
    return signer


def _show_key(signer: "SignerKey", *, as_json: bool) -> None:
    if as_json:
        from pgseal.cli.output import print_json

        document: dict[str, Any] = {"name": signer.name, "vkey": str(signer.verifier)}
        print_json(document)
    else:
        sys.stdout.write(f"{signer.verifier}\n")
