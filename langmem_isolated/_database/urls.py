"""URLs of databases: read, checked, and given the driver that we use."""

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal, cast

from sqlalchemy import exc, make_url
from sqlalchemy.engine import URL

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import DatabaseError

_EXPECTED = "expected sqlite:///memory.db or postgresql://user:password@host/name"
_SLASHES = (
    "A file takes three slashes, sqlite:///memory.db, and an absolute path four, "
    "sqlite:////var/lib/memory.db."
)
# By backend, the drivers that a URL may name: those that are used in any case.
_DRIVERS = {"sqlite": ("pysqlite",), "postgresql": ("psycopg", "psycopg_async")}

# A name, or an address of IPv6 in brackets; and a port.
_HOST = re.compile(r"(\[[^]]*\]|[^:]*)(?::(\d*))?")
# What asks for the server that writes, and so says that it may be another one tomorrow.
_OF_PRIMARY = ("read-write", "primary")

Pooler = Literal["transaction", "none"]
"""Whether a pooler hands sessions on between transactions, where that is not to be found out."""
_POOLERS = ("transaction", "none")


def checked_url(url: object) -> URL:
    """A database's URL with the driver that we use; ``postgres://`` is ``postgresql://``.

    Raises:
        DatabaseError: It cannot be read, or is for another database or driver. The message quotes
            nothing of it but the scheme, since the rest may hold a password.
    """
    parsed = url if isinstance(url, URL) else _parsed(url)
    backend, _, driver = parsed.drivername.partition("+")
    backend = "postgresql" if backend == "postgres" else backend
    if backend not in _DRIVERS:
        raise DatabaseError(
            f"The database URL must be for sqlite or postgresql, got {backend!r}: {_EXPECTED}. "
            "SQLite needs no server; servers of PostgreSQL's kind take several processes."
        )
    if driver and driver not in _DRIVERS[backend]:
        used = "psycopg" if backend == "postgresql" else "sqlite3"
        raise DatabaseError(
            f"The database URL names the driver {driver!r}; {_EXPECTED}. Write {backend}:// alone: "
            f"{used} is used, for sync and async calls alike, and no other driver is needed."
        )
    return _with_sqlite_path(parsed) if backend == "sqlite" else _with_psycopg(parsed)


def _parsed(url: object) -> URL:
    if not isinstance(url, str):
        advice = 'Write f"sqlite:///{path}".' if isinstance(url, os.PathLike) else "Write a str."
        raise DatabaseError(
            f"The database URL must be a str, got {kind_of(url)}: {_EXPECTED}. {advice}"
        )
    try:
        # No database opens a name of other bytes.
        url.encode()
        return make_url(_with_hosts_as_options(url))
    except (exc.ArgumentError, ValueError):
        # The message quotes the text, which may hold a password (that of a port, the end of one).
        received = _received(url)
    raise DatabaseError(f"The database URL cannot be read: {_EXPECTED}, got {received}")


def _with_hosts_as_options(url: str) -> str:
    """``postgresql://user@a:1,b:2/name`` as SQLAlchemy takes it; any other URL as it is."""
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    user, at, hosts = authority.rpartition("@")
    if "," not in hosts or ":" not in hosts or "?" in authority:
        return url
    found = [_HOST.fullmatch(host) for host in hosts.split(",")]
    read = [host.groups() for host in found if host]
    if len(read) < len(found):
        return url
    names = ",".join(name.strip("[]") for name, _ in read)
    options = f"host={names}&port={','.join(port or '' for _, port in read)}"
    return f"{scheme}://{user}{at}/{path}{'&' if '?' in path else '?'}{options}"


def _received(url: str) -> str:
    if not url:
        return "an empty str. Is the variable that it comes from set?"
    if not url.isascii() and url.encode(errors="replace").decode() != url:
        return f"{len(url)} characters that are not all UTF-8. Give the file another name."
    scheme, found, _ = url.partition("://")
    if not found:
        return f"{len(url)} characters without ://. For a file write sqlite:///memory.db."
    if scheme.partition("+")[0] in ("postgres", "postgresql"):
        return (
            f"{len(url)} characters. A port is a number, and @ : / in a password are written "
            "%40 %3A %2F (urllib.parse.quote_plus)."
        )
    return f"{len(url)} characters. {_SLASHES}"


def _with_sqlite_path(parsed: URL) -> URL:
    path = parsed.database or ""
    if parsed.host or "\0" in path:
        what = "a host" if parsed.host else "NUL in its path"
        raise DatabaseError(
            f"The database URL cannot be read: {_EXPECTED}, got one with {what}. {_SLASHES}"
        )
    if path.startswith("~"):
        raise DatabaseError(
            f"The database URL has a path that begins with ~, not expanded: {_EXPECTED}. "
            "Write f\"sqlite:///{Path('~/memory.db').expanduser()}\"."
        )
    return parsed.set(drivername="sqlite+pysqlite")


def _with_psycopg(parsed: URL) -> URL:
    if find_spec("psycopg") is None:
        raise DatabaseError(
            "PostgreSQL needs a driver that is not installed, psycopg, an extra: run "
            "pip install 'langmem-isolated[postgres]'."
        )
    for host in _hosts(parsed):
        try:
            # The driver would do so at first use, and raise an error that quotes it.
            host.encode("idna")
        except UnicodeError:
            raise DatabaseError(
                "The database URL names a host that is none: a name has parts of 1 to 63 letters "
                f"(RFC 1035), got {len(host)} characters. Nothing was written."
            ) from None
    if parsed.query.get("pooler", "none") not in _POOLERS:
        raise DatabaseError(
            "The database URL says pooler=…, and another than transaction or none. Leave it out: "
            "whether a pooler is in between is found out."
        )
    return parsed.set(drivername="postgresql+psycopg")


def without_pooler(url: URL) -> tuple[URL, Pooler | None]:
    """A URL as the driver takes it, and what it said of a pooler; see :func:`checked_url`."""
    pooler = cast("Pooler | None", url.query.get("pooler"))
    return url.difference_update_query(["pooler"]), pooler


def fails_over(url: URL) -> bool:
    """Whether a URL has several hosts, or asks for the one that writes: it may change."""
    given = url.query.get("host", ())
    hosts = ",".join((url.host or "", *([given] if isinstance(given, str) else given)))
    return "," in hosts.strip(",") or url.query.get("target_session_attrs") in _OF_PRIMARY


def _hosts(url: URL) -> Iterator[str]:
    """The names of the hosts that a URL has, but for folders of sockets."""
    given = url.query.get("host", ())
    for hosts in (url.host or "", *([given] if isinstance(given, str) else given)):
        yield from (host for host in hosts.split(",") if not host.startswith("/"))
