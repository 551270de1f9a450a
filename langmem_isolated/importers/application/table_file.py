"""Table file: which tables of an application hold what, and by which joins its owner is found.

It is written in TOML by who moves in. Columns are expressions of SQL, so that a constant
(``module = "'tutor'"``) and a joined table's column (``user = "p.owner_id"``) are one thing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.application.queries import quoted

OWNERS = ("user", "module", "project")
_TIMES = ("created_at", "updated_at")
SESSION = ("id", *OWNERS, "title", *_TIMES, "archived", "pinned", "messages")
MESSAGE = ("session", "id", "role", "content", "time", "name", "channel")
ITEM = (*OWNERS, "key", "value", *_TIMES, "expires_at")
PROFILE = (*OWNERS, "attribute", "value", "fact", "time", "interest", "summary")

_KINDS = ("sessions", "items", "profiles")
_REQUIRED = {
    "sessions": ("id", "user"),
    "messages": ("session", "role", "content"),
    "items": ("user", "key", "value"),
    "profiles": ("user",),
}
_KNOWN = {"sessions": SESSION, "messages": MESSAGE, "items": ITEM, "profiles": PROFILE}
_OF_A_TABLE = ("name", "from", "where", "fields", "order")
_OF_A_KIND = {"items": ("namespace", "labels"), "profiles": ("cross_module",)}


@dataclass(frozen=True, slots=True)
class Table:
    """One table, with what is joined to it."""

    name: str
    """By which places in it are told."""
    columns: Mapping[str, str]
    """Expressions of SQL by what they mean."""
    source: str
    """What follows FROM: a table, joins, or a query in parentheses."""
    where: str | None = None
    fields: Sequence[str] = ()
    """Which of the columns are further fields for rules of a mapping."""
    order: Sequence[str] = ()
    """Which of the columns rows are ordered by."""
    namespace: tuple[str, ...] = ()
    labels: Sequence[str] = ()
    """Which of the columns are further labels of the namespace."""
    is_cross_module: bool = False
    """Whether a profile is what all modules of the user share."""
    messages: Table | None = None

    @property
    def query(self) -> str:
        """A SELECT of its columns, named by what they mean."""
        chosen = ", ".join(f"{sql} AS {quoted(name)}" for name, sql in self.columns.items())
        # What the table file says is the words of who moves in, on a connection that only reads.
        where = f" WHERE {self.where}" if self.where else ""
        return f"SELECT {chosen} FROM {self.source}{where}"  # noqa: S608


@dataclass(frozen=True, slots=True)
class TableFile:
    """What a table file says."""

    sessions: Sequence[Table] = field(default=())
    items: Sequence[Table] = field(default=())
    profiles: Sequence[Table] = field(default=())


def read_table_file(path: Path) -> TableFile:
    """Read a table file.

    Raises:
        SourceRefused: It cannot be read, is no TOML, or says what this does not know.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _refused(f"cannot be read: {error.strerror}") from None
    except ValueError as error:
        told = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "it is no UTF-8"
        raise _refused(f"is no TOML: {told}") from None
    # Rules of a mapping may stand in the same file.
    tables = {kind: _tables(kind, document.get(kind, [])) for kind in _KINDS}
    if not any(tables.values()):
        raise _refused("names no table: it has no [[sessions]], [[items]] or [[profiles]]")
    return TableFile(**tables)


def _tables(kind: str, entries: object) -> list[Table]:
    if not isinstance(entries, list):
        raise _refused(f"has {kind} that are no [[{kind}]], but {kind_of(entries)}")
    return [_table(kind, entry, number) for number, entry in enumerate(entries, start=1)]


def _table(kind: str, entry: object, number: int) -> Table:
    where = f"[[{kind}]] number {number}"
    if not isinstance(entry, dict):
        raise _refused(f"has in {where} {kind_of(entry)} where a table is expected")
    given = dict(entry)
    nested = given.pop("messages") if isinstance(given.get("messages"), dict) else None
    _check_names(kind, given, where)
    source = _text(given, "from", where)
    fields = given.get("fields", {})
    if not isinstance(fields, dict):
        raise _refused(f"has in {where} fields that are no table, but {kind_of(fields)}")
    columns = {name: _text(given, name, where) for name in _KNOWN[kind] if name in given}
    columns |= {f"field {name}": _text(fields, name, f"{where}, fields") for name in fields}
    for name, each in (("order", "order"), ("labels", "label")):
        columns |= {f"{each} {place}": sql for place, sql in enumerate(_texts(given, name, where))}
    # Of messages it is the column of their authors' names.
    is_named = "name" in given and "name" not in columns
    return Table(
        name=_text(given, "name", where) if is_named else _name_in(source, kind),
        columns=columns,
        source=source,
        where=_text(given, "where", where) if "where" in given else None,
        fields=tuple(fields),
        order=_order(columns),
        namespace=tuple(_texts(given, "namespace", where)),
        labels=[name for name in columns if name.startswith("label ")],
        is_cross_module=_truth(given, "cross_module", where),
        messages=_table("messages", nested, number) if nested is not None else None,
    )


def _name_in(source: str, kind: str) -> str:
    """The first table that is named; a query in parentheses has none."""
    first = source.split(maxsplit=1)[0]
    return kind if first.startswith("(") else first.strip('"')


def _order(columns: Mapping[str, str]) -> tuple[str, ...]:
    told = tuple(name for name in columns if name.startswith("order "))
    return told or tuple(name for name in ("time", "id") if name in columns)


def _check_names(kind: str, given: Mapping[str, Any], where: str) -> None:
    known = (*_KNOWN[kind], *_OF_A_TABLE, *_OF_A_KIND.get(kind, ()))
    if unknown := sorted(set(given) - set(known)):
        raise _refused(f"has in {where} {unknown[0]!r}; known are {', '.join(known)}")
    if missing := [name for name in ("from", *_REQUIRED[kind]) if name not in given]:
        raise _refused(f"lacks in {where} {missing[0]!r}, an expression of SQL")


def _text(given: Mapping[str, Any], name: str, where: str) -> str:
    value = given[name]
    if not isinstance(value, str) or not value.strip():
        raise _refused(f"has in {where} {name} = {kind_of(value)} where an expression is expected")
    return value


def _texts(given: Mapping[str, Any], name: str, where: str) -> list[str]:
    value = given.get(name, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise _refused(f"has in {where} {name} = {kind_of(value)} where texts in [] are expected")
    return value


def _truth(given: Mapping[str, Any], name: str, where: str) -> bool:
    value = given.get(name, False)
    if not isinstance(value, bool):
        raise _refused(f"has in {where} {name} = {kind_of(value)} where true or false is expected")
    return value


def _refused(what: str) -> SourceRefused:
    return SourceRefused(
        f"The table file {what}",
        "docs/how-to/from-applications.md shows one with all that it can say.",
    )
