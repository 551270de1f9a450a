"""Mapping: says whose each session, thread, item, document or profile of a source becomes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import MappingRefused, ScopeError
from langmem_isolated.importers.mapping_file import read_mapping_file
from langmem_isolated.importers.mapping_rules import (
    PARTS,
    Field,
    Fields,
    Fixed,
    Function,
    Owner,
    Pattern,
    Rule,
    Table,
    Unmapped,
)
from langmem_isolated.lifecycle import ForeignItem, ForeignSession, ForeignThread, ForeignUnit
from langmem_isolated.scope import Scope, checked_thread_id

__all__ = ["Field", "Mapping", "Owner", "Target", "Unmapped"]


@dataclass(frozen=True, slots=True)
class Target:
    """Where a unit of a source goes."""

    scope: Scope
    name: str | None = field(default=None, repr=False)
    """What a session or thread is called there; by default as in the source."""
    namespace: tuple[str, ...] | None = field(default=None, repr=False)
    """Where an item stands there; by default as in the source."""


@dataclass(frozen=True)
class Mapping:
    """Rules that say whose each unit of a source becomes: a user and a module, each told once.

    There is no default user. What no rule maps is `Unmapped`, with the reason.

    >>> from langmem_isolated.importers import Mapping
    >>> mapping = Mapping(module="tutor", pattern=r"(?P<user>[^:]+):(?P<session>.+)")
    >>> len(mapping.digest)
    32

    Args:
        user: A user's id, for all of the source; or the `Field` that has it.
        module: A module's id, or the `Field` that has it.
        project: A project's id, or the `Field` that has it; by default ``"default"``.
        name: The `Field` that has the new id of a session or thread; by default it keeps its own.
        pattern: A regular expression that the whole id of a unit must match, with groups named
            ``user``, ``module``, ``project``, ``session`` or ``thread``, the last two for the new
            id. The id of an item is its namespace, its labels joined by ``.``.
        table: A CSV file with a header ``id,user``, and ``module``, ``project``, ``name`` where
            they are told there: one row for each id.
        function: ``"package.module:function"``, or a function: takes the unit, and returns an
            `Owner`, a `Scope`, or ``None`` for what nobody owns. It tells all parts.
        drop_labels: Whether an item's namespace loses the labels in which ``pattern`` found the
            user, module or project. By default it stays as the application spells it, so that the
            application finds its items where they were.

    Raises:
        MappingRefused: Two rules tell the same, a rule cannot be read, or a file cannot.
        ScopeError: An id is malformed.
    """

    user: str | Field | None = field(default=None, repr=False)
    module: str | Field | None = field(default=None, repr=False)
    project: str | Field | None = field(default=None, repr=False)
    name: Field | None = None
    pattern: str | None = field(default=None, repr=False)
    table: str | os.PathLike[str] | None = field(default=None, repr=False)
    function: str | Callable[[ForeignUnit], Any] | None = field(default=None, repr=False)
    drop_labels: bool = False
    _rules: tuple[Rule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for part in PARTS:
            _refuse_other_types(part, getattr(self, part))
        rules = tuple(self._made_rules())
        told = [part for rule in rules for part in rule.tells]
        if twice := next((part for part in PARTS if told.count(part) > 1), None):
            raise MappingRefused(
                f"Two rules tell the {twice}. Expected one: a fixed id, a field, a pattern's group "
                "or a table's column; a function tells all."
            )
        if self.drop_labels and self.pattern is None:
            raise MappingRefused(
                "Labels are to be dropped, and no pattern says which. Expected a pattern with "
                "groups named user, module or project."
            )
        object.__setattr__(self, "_rules", rules)

    def _made_rules(self) -> Iterable[Rule]:
        given = {part: getattr(self, part) for part in PARTS}
        if fixed := {part: value for part, value in given.items() if isinstance(value, str)}:
            yield Fixed(fixed)
        if fields := {part: value for part, value in given.items() if isinstance(value, Field)}:
            yield Fields(fields)
        if self.pattern is not None:
            yield Pattern(self.pattern)
        if self.table is not None:
            yield Table(Path(self.table))
        if self.function is not None:
            yield Function(self.function)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Self:
        """The mapping that a TOML file describes, by the names of the arguments above.

        A field is ``{ column = "owner" }`` or ``{ path = "metadata.user_id" }``; ``table`` is
        looked up beside the file. Where the file has a table ``[mapping]``, that is read alone.

        Raises:
            MappingRefused: It cannot be read, or has a key that is not known.
        """
        return cls(**read_mapping_file(Path(path)))

    def completed(self, owners: Iterable[str]) -> Self:
        """This mapping, with what a source knows of owners itself for what no rule tells.

        Raises:
            MappingRefused: Nothing tells the user, or the module.
        """
        told = {part for rule in self._rules for part in rule.tells}
        added: dict[str, Any] = {part: Field(part) for part in owners if part not in told}
        known = told.union(owners)
        if missing := [part for part in ("user", "module") if part not in known]:
            raise MappingRefused(
                f"No rule tells the {' and the '.join(missing)}. There is no default. Give "
                f"{missing[0]}=… as an id or a Field, a pattern with a group of that name, a table "
                f"or a function; on the command line --{missing[0]}, --{missing[0]}-column, "
                "--id-pattern, --map or --map-function."
            )
        return replace(self, **added)

    def target_of(self, unit: ForeignUnit) -> Target:
        """The scope of a unit, and its name there.

        Raises:
            Unmapped: It has none by these rules.
            MappingRefused: No rule tells the user or the module of anything.
        """
        owner = Owner()
        for rule in self._rules:
            owner = owner.joined(rule.owner_of(unit))
        if owner.user is None or owner.module is None:
            self.completed(())
        try:
            return self._target(unit, owner)
        except ScopeError as error:
            # It tells a type or a length, never the id.
            raise Unmapped(str(error)) from None

    def _target(self, unit: ForeignUnit, owner: Owner) -> Target:
        project = "default" if owner.project is None else owner.project
        # The checks in Scope refuse None, too.
        scope = Scope(owner.user, owner.module, project_id=project)  # type: ignore[arg-type]
        if isinstance(unit, ForeignSession | ForeignThread):
            kind = "session" if isinstance(unit, ForeignSession) else "thread"
            named = unit.id if owner.name is None else owner.name
            return Target(scope, checked_thread_id(f"The {kind}'s id", named))
        if isinstance(unit, ForeignItem) and self.drop_labels and self.pattern is not None:
            return Target(scope, namespace=Pattern(self.pattern).other_labels(unit.namespace))
        return Target(scope)

    @property
    def digest(self) -> bytes:
        """32 bytes that stand for these rules, the content of ``table`` included."""
        told = {
            "drop_labels": self.drop_labels,
            "rules": [rule.canonical() for rule in self._rules],
        }
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()


def _refuse_other_types(part: str, value: object) -> None:
    # One name for all would be one session of all.
    is_id = type(value) is str and part != "name"
    if value is not None and not is_id and not isinstance(value, Field):
        expected = "a Field" if part == "name" else "an id, as str, or a Field"
        raise MappingRefused(f'{part} must be {expected}, got {kind_of(value)}. Write Field("…").')
