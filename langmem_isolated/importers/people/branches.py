"""Branches: what of a tree of messages is seen, from its root to one of its leaves."""

from __future__ import annotations

from collections.abc import Mapping


def branch(parents: Mapping[str, str | None], leaf: str | None) -> list[str]:
    """The nodes from the root to ``leaf``; a circle, or a parent that is not there, is a root.

    Args:
        parents: The parent of each node, in the order of the export.
        leaf: Where the branch ends; one that is not there counts as the last leaf.
    """
    here = leaf if leaf in parents else next(reversed(leaves(parents)), None)
    found: dict[str, None] = {}
    while here is not None and here in parents and here not in found:
        found[here] = None
        here = parents[here]
    return list(found)[::-1]


def leaves(parents: Mapping[str, str | None]) -> list[str]:
    """The nodes without children, in order; the last node, if all are in circles."""
    inner = set(parents.values())
    found = [node for node in parents if node not in inner]
    return found or list(parents)[-1:]


def branches(parents: Mapping[str, str | None], leaf: str | None) -> list[list[str]]:
    """The branch that is seen, to ``leaf``, and then those to every other leaf."""
    seen = branch(parents, leaf)
    others = (branch(parents, other) for other in leaves(parents))
    return [seen, *(found for found in others if found[-1:] != seen[-1:])]
