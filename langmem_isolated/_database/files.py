"""Database files: a SQLite file that we make is closed to other users from its first moment."""

import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def path_of(name: str | None, *, is_uri: bool) -> Path | None:
    """The file that SQLite opens by ``name``, a path or a ``file:`` URI; ``None`` in memory."""
    if is_uri and name and name.startswith("file:"):
        name = "" if _mode_of(name) == "memory" else unquote(urlsplit(name).path)
    return None if name in (None, "", ":memory:") else Path(str(name))


def make_private(
    _dialect: object, _record: object, args: list[str], options: Mapping[str, object]
) -> None:
    """Make the file of a SQLite connection that is about to be opened, with mode 0600.

    SQLite itself would make it with what the umask leaves, mostly 0644. Its log and shared memory
    take the mode of the main file. A file that is there keeps its mode: its owner chose it.
    """
    is_uri = bool(options.get("uri"))
    path = path_of(args[0], is_uri=is_uri) if args else None
    if path is None or (is_uri and _mode_of(args[0]) not in (None, "rwc")):
        return
    # What else is wrong with the place, SQLite says when it opens it.
    with suppress(OSError, ValueError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def why_it_cannot_be_opened(path: Path | None) -> str:
    """What stands in the way of a database file, without its name."""
    if path is None:
        return "the URL names no file"
    if path.is_dir():
        return "a folder stands in its place; name a file in it"
    if not path.parent.exists():
        return (
            "its folder is not there, and SQLite makes the file alone; make the folder first, with "
            "Path(…).parent.mkdir(parents=True), or name another. Three slashes begin a path from "
            "the working folder, four an absolute one"
        )
    return "this user may not open it there"


def mode_for_others(path: Path) -> int:
    """A file's mode if users besides its owner may use it; 0 if they may not."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return mode if os.name == "posix" and mode & _OTHERS else 0


def _mode_of(uri: str) -> str | None:
    return parse_qs(urlsplit(uri).query).get("mode", [None])[-1]
