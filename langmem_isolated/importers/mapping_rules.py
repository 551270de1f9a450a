"""Rules of a mapping: each tells some parts of the owner of a unit, and raises where it cannot."""

from __future__ import annotations

import csv
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from io import StringIO
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import MappingRefused
from langmem_isolated.lifecycle import ForeignUnit
from langmem_isolated.scope import Scope, checked_id

PARTS = ("user", "module", "project", "name")
# What a field has besides text, and becomes an id all the same.
_AS_TEXT = (int, UUID)
_MOST_NAMES = 8
# A pattern may take time that grows fast with the id, and ids are of the source; ours have 255.
_LONGEST_ID = 1024


class Unmapped(Exception):
    """A unit of a source has no scope by the rules.

    Args:
        reason: Why, by types and lengths; no id and no content.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Owner:
    """What rules tell of the owner of a unit."""

    user: str | None = field(default=None, repr=False)
    module: str | None = field(default=None, repr=False)
    project: str | None = field(default=None, repr=False)
    name: str | None = field(default=None, repr=False)
    """The new id of a session or thread."""

    def joined(self, other: Owner) -> Owner:
        """Both; no part is in both."""
        if self == _NOBODY:
            return other
        mine, theirs = ((o.user, o.module, o.project, o.name) for o in (self, other))
        return Owner(*(a if a is not None else b for a, b in zip(mine, theirs, strict=True)))


_NOBODY = Owner()


@dataclass(frozen=True, slots=True)
class Field:
    """A column, or a path into documents of JSON, of what a source tells besides ids.

    Args:
        path: ``"owner"``, or ``"metadata.user_id"``: names of JSON and numbers of list elements
            behind a column. A column that is called that, dots included, has precedence.
    """

    path: str

    def __post_init__(self) -> None:
        if type(self.path) is not str or not self.path.strip("."):
            raise MappingRefused(
                f'A field is a column or path, such as Field("metadata.user_id"), got '
                f"{kind_of(self.path) if self.path else 'nothing'}."
            )

    def value_in(self, fields: Mapping[str, Any]) -> str:
        """The id that stands there.

        Raises:
            Unmapped: Nothing stands there, or no text, whole number or UUID.
        """
        value = fields[self.path] if self.path in fields else self._walked(fields)
        if isinstance(value, _AS_TEXT) and not isinstance(value, bool):
            return str(value)
        if value is None or value == "":
            raise Unmapped(f"the field {self.path!r} is empty")
        if type(value) is not str:
            raise Unmapped(f"the field {self.path!r} is no text or number but {kind_of(value)}")
        return value

    def _walked(self, fields: Mapping[str, Any]) -> Any:
        value: Any = fields
        for name in self.path.removeprefix("$.").split("."):
            if isinstance(value, Mapping) and name in value:
                value = value[name]
            elif isinstance(value, list | tuple) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                raise Unmapped(f"there is no field {self.path!r}; {self._near(fields)}")
        return value

    def _near(self, fields: Mapping[str, Any]) -> str:
        """Names of the fields, or of what is in the one in which it was looked for."""
        first, _, rest = self.path.removeprefix("$.").partition(".")
        inside = fields.get(first)
        # Not deeper, where names may be content.
        if rest and isinstance(inside, Mapping) and inside:
            return f"in {first!r} {_names(inside)}"
        return _names(fields)


def _names(fields: Mapping[str, Any]) -> str:
    names = sorted(str(name) for name in fields if str(name).isidentifier())
    if not names:
        return "this source tells none"
    more = ", …" if len(names) > _MOST_NAMES else ""
    return f"there are {', '.join(names[:_MOST_NAMES])}{more}"


class Rule(ABC):
    """Tells some parts of owners."""

    tells: frozenset[str]

    @abstractmethod
    def owner_of(self, unit: ForeignUnit) -> Owner:
        """What it tells of the owner of a unit.

        Raises:
            Unmapped: It cannot.
        """

    @abstractmethod
    def canonical(self) -> Any:
        """JSON that stands for it, the same in each process."""


class Fixed(Rule):
    """The same for all of the source."""

    def __init__(self, ids: dict[str, str]) -> None:
        for part, value in ids.items():
            checked_id(f"{part}_id", value)
        self._owner = Owner(**ids)
        self._ids = ids
        self.tells = frozenset(ids)

    def owner_of(self, unit: ForeignUnit) -> Owner:  # noqa: ARG002 - it is the same for each
        """These, whatever the unit is."""
        return self._owner

    def canonical(self) -> Any:
        """The ids."""
        return ["fixed", self._ids]


class Fields(Rule):
    """Columns and paths."""

    def __init__(self, fields: dict[str, Field]) -> None:
        self._fields = fields
        self.tells = frozenset(fields)

    def owner_of(self, unit: ForeignUnit) -> Owner:
        """What stands in the fields."""
        return Owner(**{part: one.value_in(unit.fields) for part, one in self._fields.items()})

    def canonical(self) -> Any:
        """The paths."""
        return ["fields", {part: one.path for part, one in self._fields.items()}]


class Pattern(Rule):
    """Named groups of a regular expression that the whole id matches."""

    _PART_OF = {part: part for part in PARTS[:3]} | {"session": "name", "thread": "name"}

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = re.compile(pattern)
        except (re.error, TypeError) as error:
            raise MappingRefused(f"The pattern is no regular expression: {error}.") from None
        groups = self._pattern.groupindex
        if not groups or not set(groups) <= set(self._PART_OF):
            raise MappingRefused(
                "The pattern's groups must be named user, module, project, session or thread, as "
                f"in (?P<user>[^:]+):(?P<session>.+); it has {len(groups)} with names, of which "
                f"{len(set(groups) - set(self._PART_OF))} are others."
            )
        if {"session", "thread"} <= set(groups):
            raise MappingRefused("The pattern names a session and a thread; a unit is one of them.")
        self.tells = frozenset(self._PART_OF[name] for name in groups)

    def owner_of(self, unit: ForeignUnit) -> Owner:
        """What the groups matched."""
        found = self._match(unit.id)
        parts = {self._PART_OF[name]: value for name, value in found.groupdict().items()}
        if missing := next((part for part in ("user", "module") if parts.get(part, 1) is None), ""):
            raise Unmapped(f"the pattern matched its id without the group {missing}")
        return Owner(**parts)

    def other_labels(self, namespace: tuple[str, ...]) -> tuple[str, ...]:
        """Labels of a namespace in which no group for a user, module or project has anything.

        Raises:
            Unmapped: There are none.
        """
        found = self._match(".".join(namespace))
        taken = [found.span(name) for name in self._pattern.groupindex if name in PARTS]
        kept, at = [], 0
        for label in namespace:
            end = at + len(label)
            if not any(at < stop and start < end for start, stop in taken):
                kept.append(label)
            at = end + 1
        if not kept:
            raise Unmapped("no label of its namespace is left when those that name it are dropped")
        return tuple(kept)

    def _match(self, name: str) -> re.Match[str]:
        if len(name) > _LONGEST_ID:
            raise Unmapped(f"its id has {len(name):,} characters; at most {_LONGEST_ID:,} are read")
        found = self._pattern.fullmatch(name)
        if found is None:
            raise Unmapped("the pattern does not match its id")
        return found

    def canonical(self) -> Any:
        """Its text."""
        return ["pattern", self._pattern.pattern]


class Table(Rule):
    """A CSV file of ids and owners; in memory, some 300 bytes a row."""

    def __init__(self, path: Path) -> None:
        try:
            content = path.read_bytes()
            text = content.decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise MappingRefused(f"The table of owners cannot be read: {why}.") from None
        self._digest = hashlib.sha256(content).hexdigest()
        rows = csv.reader(StringIO(text, newline=""), strict=True)
        try:
            self._columns = _header(next(rows, []))
            self._owners = dict(self._read(rows))
        except csv.Error as error:
            raise MappingRefused(f"Line {rows.line_num} of the table is no CSV: {error}.") from None
        self.tells = frozenset(self._columns) - {"id"}

    def _read(self, rows: Any) -> Iterator[tuple[str, Owner]]:
        seen: set[str] = set()
        for row in rows:
            if not row:
                continue
            if len(row) != len(self._columns):
                raise MappingRefused(
                    f"Line {rows.line_num} of the table has {len(row)} columns, its header "
                    f"{len(self._columns)}."
                )
            told = dict(zip(self._columns, row, strict=True))
            name = told.pop("id")
            if name in seen:
                raise MappingRefused(f"Line {rows.line_num} of the table has an id a second time.")
            seen.add(name)
            yield name, Owner(**{part: value or None for part, value in told.items()})

    def owner_of(self, unit: ForeignUnit) -> Owner:
        """What the row of its id tells."""
        owner = self._owners.get(unit.id)
        if owner is None:
            raise Unmapped("its id is not in the table of owners")
        for part in ("user", "module"):
            if part in self.tells and getattr(owner, part) is None:
                raise Unmapped(f"the table of owners has no {part} for its id")
        return owner

    def canonical(self) -> Any:
        """The digest of the file: it may change under its name."""
        return ["table", self._digest]


def _header(row: Sequence[str]) -> tuple[str, ...]:
    columns = tuple(name.strip() for name in row)
    known = {"id", *PARTS}
    if "id" not in columns or len(columns) < 2 or len(set(columns)) < len(columns):  # noqa: PLR2004
        raise MappingRefused(
            "The table of owners needs a header, id,user and module, project or name, each once; "
            f"its first line has {len(columns)} columns, {len(known & set(columns))} of these."
        )
    if others := len(set(columns) - known):
        raise MappingRefused(
            f"{others} columns of the table of owners have other names than id, user, module, "
            "project and name. One that is misspelled would not be missed: leave them out."
        )
    return columns


class Function(Rule):
    """A function of the application."""

    tells = frozenset(PARTS)

    def __init__(self, function: str | Callable[[ForeignUnit], Any]) -> None:
        self._function = _loaded(function) if isinstance(function, str) else function
        if not callable(self._function):
            raise MappingRefused(f"The function cannot be called; it is {kind_of(function)}.")
        # What is made by exec() or partial() may have neither.
        named = (getattr(self._function, name, None) for name in ("__module__", "__qualname__"))
        self._name = function if isinstance(function, str) else ":".join(map(str, named))

    def owner_of(self, unit: ForeignUnit) -> Owner:
        """What the function returns."""
        try:
            found = self._function(unit)
        except Unmapped:
            raise
        except Exception as error:  # noqa: BLE001 - its text may have content
            raise Unmapped(f"the function raised {type(error).__name__}") from None
        if isinstance(found, Scope):
            return Owner(found.user_id, found.module_id, found.project_id)
        if found is None:
            raise Unmapped("the function found no owner")
        if not isinstance(found, Owner) or found.user is None or found.module is None:
            raise Unmapped(
                f"the function returned {kind_of(found)}; expected a Scope, an Owner with a user "
                "and a module, or None"
            )
        return found

    def canonical(self) -> Any:
        """Its name: what it does is not known."""
        return ["function", self._name]


def _loaded(name: str) -> Callable[[ForeignUnit], Any]:
    module, _, function = name.partition(":")
    if not module or not function.isidentifier():
        raise MappingRefused('A function is named "package.module:function".')
    try:
        return cast("Callable[[ForeignUnit], Any]", getattr(import_module(module), function))
    except (ImportError, AttributeError) as error:
        raise MappingRefused(
            f"The function cannot be loaded ({type(error).__name__}). Expected "
            "package.module:function, and the package where Python finds it: PYTHONPATH=. for this "
            "folder."
        ) from None
