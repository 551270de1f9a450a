"""Exports of conversations that branch, where an answer or a question was written anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers.people.branches import branch, branches
from langmem_isolated.importers.people.export import PeopleExport

_VISIBLE, _ALL = "visible", "all"


class Branch(NamedTuple):
    """One way through a conversation, which becomes a session."""

    id: str
    place: str
    nodes: list[str]


class BranchedExport(PeopleExport):
    """An export whose conversations are trees of messages.

    Args:
        location: The path of a file, a folder or a zip.
        branches: ``"visible"``, the branch that people see, or ``"all"``: a session of every other
            one, too.

    Raises:
        SourceRefused: ``branches`` is neither, or there is nothing that can be read.
    """

    def __init__(self, location: str, *, branches: str = _VISIBLE) -> None:
        super().__init__(location)
        if branches not in (_VISIBLE, _ALL):
            raise SourceRefused(
                f"branches must be {_VISIBLE} or {_ALL}, got {len(branches)} characters",
                f"Write {_VISIBLE} for what is seen in the product, {_ALL} for what was rewritten, "
                "too.",
            )
        self._wants_all = branches == _ALL

    def branches_of(
        self, own_id: str, where: str, parents: Mapping[str, str | None], leaf: str | None
    ) -> Iterator[Branch]:
        """The branches that are wanted, the one that is seen first.

        Args:
            own_id: Of the conversation, and so of its first branch.
            where: The conversation's place.
            parents: As of :func:`branch`.
            leaf: Where the branch ends that is seen.
        """
        find = branches if self._wants_all else _only
        for number, nodes in enumerate(find(parents, leaf), 1):
            if number == 1:
                yield Branch(own_id, where, nodes)
            else:
                yield Branch(f"{own_id}:{number}", f"{where}, branch {number}", nodes)


def _only(parents: Mapping[str, str | None], leaf: str | None) -> list[list[str]]:
    return [branch(parents, leaf)]
