"""`serve`: the admin page as a server, behind a token that is printed once."""

from __future__ import annotations

import ipaddress
import os
import secrets
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langmem_isolated._adapters.audit_actor import current_actor
from langmem_isolated._runtime.environment import JOBS_VARIABLE
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    ErasureLogOption,
    KeyStoreOption,
)
from langmem_isolated.cli.reasons import user_of_system
from langmem_isolated.errors import LangmemIsolatedError

if TYPE_CHECKING:
    from langmem_isolated.memory import IsolatedMemory

PORT = 8321
_EXTRA = ("jinja2", "starlette", "uvicorn")
_LOOPBACK = "127.0.0.1"
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_TOKEN_BYTES = 32
_OTHERS = 0o007
# How long pages and jobs have to end: containers are killed after 10 s.
_GRACE_SECONDS = 5
_FAR = (
    "Other machines can reach it. It speaks HTTP: put a proxy with TLS before it, and name the "
    "proxy's host with --allowed-host."
)
_NO_TERMINAL = (
    "The output is no terminal: whoever reads where it goes has the token. --token-file keeps it "
    "out of there."
)


class _NotServed(LangmemIsolatedError):
    """Nothing was served."""


def serve(
    *,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="Which port; 0 takes a free one.")
    ] = PORT,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            help="Which address; by default this machine alone can reach it. In a container "
            "0.0.0.0, behind a proxy that has TLS.",
        ),
    ] = _LOOPBACK,
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            help="A file with the token, 32 characters or more, closed to others; by default one "
            "is made and printed once.",
        ),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed-host",
            help="A name under which it is asked, such as a proxy's; may be given more than once.",
        ),
    ] = None,
    root_path: Annotated[
        str, typer.Option("--root-path", help="The path that a proxy strips, such as /memory.")
    ] = "",
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
    erasure_log: ErasureLogOption = None,
) -> None:
    """Serve the admin page until SIGTERM or Ctrl-C. Needs the root key and the extra `admin`.

    Without the token every page is 401. --actor says who acts, for the audit log.
    """
    from langmem_isolated.cli.databases import existing_memory

    _require_extra()
    root_path = _path_in(root_path)
    token = secrets.token_urlsafe(_TOKEN_BYTES) if token_file is None else _token_in(token_file)
    jobs_url = os.environ.get(JOBS_VARIABLE) or None
    with (
        existing_memory(database, key_store, erasure_log=erasure_log, jobs_url=jobs_url) as memory,
        _bound(host, port) as bound,
    ):
        _tell(bound, host, root_path, token if token_file is None else None)
        hosts = _allowed(host, allowed_host or [])
        _serve(memory, bound, token, hosts, root_path)


def _require_extra() -> None:
    if not all(map(find_spec, _EXTRA)):
        raise _NotServed(
            "The admin page needs packages that are not installed. Nothing was served. Run: "
            'pip install "langmem-isolated[admin]"'
        )


def _path_in(root_path: str) -> str:
    """The path before every address, without a slash at its end."""
    if root_path and not root_path.startswith("/"):
        raise _NotServed(
            "--root-path must begin with /, such as /memory: browsers take every link for one "
            "below the page that has it. Nothing was served."
        )
    return root_path.rstrip("/")


def _token_in(path: Path) -> str:
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(4096)
    except OSError as error:
        raise _NotServed(
            f"The file of --token-file cannot be read: {type(error).__name__}. Nothing was served."
        ) from None
    if mode & _OTHERS and os.name == "posix":
        raise _NotServed(
            f"Others may use the file of --token-file (mode {mode & 0o777:04o}). Nothing was "
            "served. Run chmod 600 on it, or mount it with mode 0440."
        )
    token = text.decode("ascii", errors="ignore").strip()
    if len(token) < _TOKEN_BYTES:
        raise _NotServed(
            f"The file of --token-file must hold {_TOKEN_BYTES} characters or more of ASCII, got "
            f"{len(token)}. Nothing was served. Make one: openssl rand -hex 32"
        )
    return token


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _allowed(host: str, names: list[str]) -> tuple[str, ...]:
    """Under which names it may be asked; any, where others reach it and none is given."""
    if not names and not _is_loopback(host):
        return ()
    return (*_LOOPBACK_NAMES, _shown(host).lower(), *(name.lower() for name in names))


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        bound = socket.create_server((host, port), family=family)
    except OSError as error:
        raise _NotServed(
            f"Port {port} of that address cannot be had: {type(error).__name__} "
            f"({os.strerror(error.errno) if error.errno else 'not an address'}). Nothing was "
            "served. Give another --port or --host."
        ) from None
    with bound:
        yield bound


def _tell(bound: socket.socket, host: str, root_path: str, token: str | None) -> None:
    typer.echo(f"Admin page: http://{_shown(host)}:{bound.getsockname()[1]}{root_path}/")
    if token is not None:
        typer.echo(f"Token, shown this once: {token}")
        if not sys.stdout.isatty():
            typer.echo(_NO_TERMINAL, err=True)
    if not _is_loopback(host):
        typer.echo(_FAR, err=True)
    # Who waits for the address may read it from a pipe.
    sys.stdout.flush()


def _serve(
    memory: IsolatedMemory,
    bound: socket.socket,
    token: str,
    hosts: tuple[str, ...],
    root_path: str,
) -> None:
    import uvicorn

    from langmem_isolated.admin import standalone_app

    operator = current_actor().name or user_of_system()
    app = standalone_app(memory, token=token, operator=operator, allowed_hosts=hosts)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", server_header=False,
        root_path=root_path, timeout_graceful_shutdown=_GRACE_SECONDS, ws="none",
    )  # fmt: skip
    # The server sends itself the signal again when it has ended, which would end us before the
    # memory is closed.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _ignore)
    uvicorn.Server(config).run(sockets=[bound])
    app.state.jobs.stop(_GRACE_SECONDS)


def _ignore(*_: Any) -> None:
    """Ends nothing."""
