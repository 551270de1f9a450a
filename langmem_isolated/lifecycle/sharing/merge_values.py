"""Merge values: what a merge or a copy would do, did, and what of it was undone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, NamedTuple

from langmem_isolated._runtime.calls import made_by
from langmem_isolated.lifecycle.guests.transferred import NewName

MergeConflicts = Literal["rename", "skip", "refuse"]
"""For a name under which the target has something else: ``"rename"`` gives what comes the next free
one (``monday-2``), ``"skip"`` leaves it out, ``"refuse"`` merges nothing at all. Entries of caches,
indexes and profiles are found by their keys: of two the target's stays in either case."""


class Named(NamedTuple):
    """Something by its kind and names.

    Of an item these are its key and namespace, of a document its collection and id, of a part of
    the profile its name or id and the part, of a session or thread its id.
    """

    kind: str
    names: tuple[str, ...]


@made_by("memory.merge_modules(…, dry_run=True)", first=dict)
@dataclass(frozen=True, slots=True)
class MergePlan:
    """What a merge would do, as both modules are now; the ``repr`` has numbers alone."""

    counts: dict[str, int]
    """What would be put in, by kind; what the target has just so is not counted."""
    conflicts: tuple[Named, ...] = field(repr=False)
    """What the target has otherwise under the same name."""


@made_by("memory.merge_modules(…, dry_run=False)", first=str)
@dataclass(frozen=True, slots=True)
class MergeReceipt:
    """What a merge or a copy did, and by which it is undone; names are left out of the ``repr``.

    It is kept, sealed, with the module that was copied into, for 30 days.
    """

    id: str = field(repr=False)
    """128 random bits, 32 characters."""
    what: str
    """``"merge"`` or ``"facts"``."""
    user_id: str = field(repr=False)
    from_module: str = field(repr=False)
    into_module: str = field(repr=False)
    project_id: str = field(repr=False)
    begun: datetime
    finished: datetime | None
    """``None`` for one that was interrupted: the same call again goes on with it."""
    counts: dict[str, int]
    """What was put in, by kind: sessions and threads count as one each."""
    renamed: tuple[NewName, ...] = field(repr=False)


@made_by("memory.undo(receipt)", first=dict)
@dataclass(frozen=True, slots=True)
class Undone:
    """What was taken out again, and what was left; the ``repr`` has numbers alone."""

    removed: dict[str, int]
    left: tuple[Named, ...] = field(repr=False)
    """What was changed since it was put in; it is the module's own now."""


def by_kind(kinds: Iterable[str]) -> dict[str, int]:
    """How many there are of each kind, sorted."""
    counts: dict[str, int] = {}
    for kind in kinds:
        counts[kind] = counts.get(kind, 0) + 1
    return dict(sorted(counts.items()))
