"""Filter translation: owner and conditions in the languages that several stores share."""

from collections.abc import Callable, Mapping
from typing import Any

from langmem_isolated._adapters.document_tags import OWNER
from langmem_isolated._search.metadata_filters import Filter, metadata_test
from langmem_isolated.wrapping.filter_conditions import Condition, OneOf, Within


def owner_test(owners: list[str], wanted: Filter | None) -> Callable[[Mapping[str, Any]], bool]:
    """A predicate over metadata, for stores that filter by a function."""
    passes = metadata_test(wanted)
    return lambda metadata: metadata.get(OWNER) in owners and passes(metadata)


def filter_of(
    parts: list[Condition], word: Callable[[OneOf | Within], dict[str, Any] | None]
) -> dict[str, Any]:
    """Conditions in the language that Chroma and PGVectorStore share; ``None`` leaves one out."""
    return _joined("$and", [said for part in parts if (said := _said(part, word))])


def _said(
    part: Condition, word: Callable[[OneOf | Within], dict[str, Any] | None]
) -> dict[str, Any] | None:
    if isinstance(part, OneOf | Within):
        return word(part)
    branches = [[_said(one, word) for one in branch] for branch in part.branches]
    known = [[said for said in branch if said] for branch in branches]
    return _joined("$or", [_joined("$and", branch) for branch in known]) if all(known) else None


def _joined(operator: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return parts[0] if len(parts) == 1 else {operator: parts}
