"""Nothing readable asserted: canaries are looked for in files, folders and whole databases."""

import bz2
import gzip
import lzma
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.testing.canaries import Canaries, Canary, overlapping

_BLOCK_BYTES = 1 << 22
_SHOWN = 10
_OPENED: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
"""What a compressed file begins with, as those have it that rotate logs."""
_NAME = "the name of a file"
_NAMED_SO = "what has one in its name"
_ADVICE = (
    "Whoever gets this file, dump or log reads what users said. Seal it, or keep it out of there."
)
Block = tuple[str, bytes]


class ReadableFound(AssertionError):
    """A canary can be read where nothing should be readable.

    Args:
        found: For each: what the canary is called, where it stands, and how it is written.

    >>> Path("app.log").write_text("carol said: My PIN is 1234")
    26
    >>> with pytest.raises(ReadableFound) as caught:
    ...     assert_nothing_readable("app.log", canaries=["My PIN is 1234"])
    >>> caught.value.found
    [('canary 1', 'app.log', 'as it is')]
    """

    def __init__(self, found: list[tuple[str, str, str]]) -> None:
        self.found = found
        more = len(found) - _SHOWN
        super().__init__(
            "\n".join(
                [
                    f"{len(found)} canaries can be read where nothing should be:",
                    *(f"  {label} in {where}, {form}" for label, where, form in found[:_SHOWN]),
                    *([f"  and {more} more, in .found"] if more > 0 else []),
                    _ADVICE,
                ]
            )
        )


def assert_nothing_readable(*places: str | Path, canaries: Iterable[Canary | str]) -> int:
    """Look for canaries in files, folders and databases, and raise if any can be read.

    Each is looked for as it is, backwards, in any case, in UTF-16, hexadecimal, base64,
    JSON-escaped and URL-encoded; those of the kit also by half.

    Args:
        places: Paths of files, with all beside them whose names begin with theirs, as SQLite's WAL
            and journal do; paths of folders, with all below; ``sqlite:///`` URLs, as paths; and
            ``postgresql://`` URLs: every row of every table that this user may read, running
            statements included. Files that gzip, bzip2, xz or zip have packed are unpacked.
        canaries: What to look for: texts of 6 characters or more, or canaries, such as
            ``report.canaries`` of :func:`assert_isolated`.

    Returns:
        How many bytes were looked through.

    Raises:
        ReadableFound: A canary can be read; it says which, where, and how it is written there.
        FileNotFoundError: There is no such file or folder: nothing was looked through there.
        ValueError: No place or no canary was given, the URL is of another database or of one in
            memory, or a place holds nothing at all.
        TypeError: A place or canary is of another kind.

    >>> scope.chat_history("monday").add_user_message("My PIN is 1234")
    >>> memory.close()
    >>> [path] = [path for path in Path().glob("*.db") if path.stat().st_size]
    >>> assert_nothing_readable(path, canaries=["My PIN is 1234"]) > 4096
    True
    """
    looked_for = Canaries(_canaries_of(canaries))
    if not places:
        raise ValueError(
            "assert_nothing_readable takes one place or more to look in, got none. Write "
            'assert_nothing_readable("memory.db", canaries=[…]).'
        )
    found: dict[tuple[str, str], str] = {}
    total = sum(_searched(place, looked_for, found) for place in places)
    if found:
        raise ReadableFound([(label, where, form) for (label, where), form in found.items()])
    return total


def _searched(place: object, looked_for: Canaries, found: dict[tuple[str, str], str]) -> int:
    """How many bytes a place has; what is found there is added to ``found``."""
    size = 0
    for where, block in _blocks_of(place):
        size += len(block) * (where != _NAME)
        for canary, form in looked_for.found_in(block):
            # A failure is read by more people than the place is.
            shown = _NAMED_SO if looked_for.found_in(where) else where
            found.setdefault((canary.label, shown), form)
    if not size:
        raise ValueError("A place holds no byte, so that nothing can be read there. Look at it.")
    return size


def _canaries_of(given: Iterable[Canary | str]) -> list[Canary]:
    if isinstance(given, str):
        raise TypeError('canaries must be several texts, got one str. Write canaries=["…"].')
    found = [
        one if isinstance(one, Canary) else Canary(f"canary {number}", one)
        for number, one in enumerate(given, 1)
    ]
    if not found:
        raise ValueError(
            "canaries must be one text or more, got none: nothing would be looked for. Put one "
            "into the application, Canary.of(…).text, and give it here."
        )
    return found


def _blocks_of(place: object) -> Iterator[Block]:
    if isinstance(place, Path):
        return _blocks_of_path(place)
    if not isinstance(place, str):
        raise TypeError(f"A place must be a path or a URL, got {kind_of(place)}.")
    scheme, separator, rest = place.partition("://")
    if not separator:
        return _blocks_of_path(Path(place))
    if scheme.startswith("sqlite"):
        return _blocks_of_path(_path_of_sqlite(rest))
    if scheme.startswith(("postgresql", "postgres")):
        return _blocks_of_postgres("postgresql://" + rest)
    raise ValueError(
        "A URL must begin with sqlite:/// or postgresql://, got another. Dump the database into a "
        "file, and give its path."
    )


def _path_of_sqlite(rest: str) -> Path:
    path = rest.removeprefix("/").partition("?")[0]
    if path in ("", ":memory:"):
        raise ValueError(
            "This SQLite database is in memory, so there is no file to look into. Give the URL of "
            'one on a disk, such as f"sqlite:///{tmp_path}/memory.db".'
        )
    return Path(path)


def _blocks_of_path(path: Path) -> Iterator[Block]:
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else []
    if path.is_file():
        files = sorted(one for one in path.parent.glob("*") if one.name.startswith(path.name))
    if not path.exists():
        raise FileNotFoundError(
            "There is no such file or folder, so nothing was looked through. Give the path that "
            "the application writes."
        )
    for file in files:
        # Names that callers chose may stand in names of files, too.
        yield _NAME, str(file.relative_to(path.parent)).encode()
        yield from _blocks_of_file(file)


def _blocks_of_file(path: Path) -> Iterator[Block]:
    with path.open("rb") as file:
        yield from ((path.name, block) for block in _overlapping(file))
        file.seek(0)
        begin = file.read(6)
        file.seek(0)
        for magic, opened in _OPENED.items():
            if begin.startswith(magic):
                with opened(file) as unpacked:
                    yield from ((f"{path.name}, unpacked", one) for one in _overlapping(unpacked))
        if zipfile.is_zipfile(file):
            yield from _blocks_of_zip(path.name, file)


def _blocks_of_zip(name: str, file: IO[bytes]) -> Iterator[Block]:
    with zipfile.ZipFile(file) as archive:
        for number, member in enumerate(archive.namelist(), 1):
            with archive.open(member) as unpacked:
                where = f"{name}, packed file {number}"
                yield where, member.encode()
                yield from ((where, block) for block in _overlapping(unpacked))


def _overlapping(file: IO[bytes]) -> Iterator[bytes]:
    return overlapping(iter(lambda: file.read(_BLOCK_BYTES), b""))


def _blocks_of_postgres(url: str) -> Iterator[Block]:
    from langmem_isolated.testing.postgres_dump import dumped

    yield from dumped(url)
