"""Filter pushdown: the part of a filter that any store can check itself.

What is pushed down may let more pass than the filter, never less: stores differ on missing keys, on
the order of texts and on ``$ne``, so those are left out.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from langmem_isolated._codecs.values import is_utf8

# Paths and anything else that has a meaning of its own in some store stay here.
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RANGES = ("$gt", "$gte", "$lt", "$lte")
# From here on a float cannot tell whole numbers apart.
_LARGEST = 2**53


class OneOf(NamedTuple):
    """The value of ``key`` is one of ``values``: texts, numbers, or one truth value.

    >>> conditions({"topic": {"$in": ["fractions", "ratios"]}})
    [OneOf(key='topic', values=['fractions', 'ratios'])]
    """

    key: str
    values: list[Any]


class Within(NamedTuple):
    """The value of ``key`` is a number beyond ``limit``; ``operator`` is ``$gt`` or the like.

    >>> conditions({"year": {"$gte": 2026}})
    [Within(key='year', operator='$gte', limit=2026)]
    """

    key: str
    operator: str
    limit: float


class AnyOf(NamedTuple):
    """All conditions of one of ``branches`` hold.

    >>> conditions({"$or": [{"year": 2026}, {"draft": True}]})
    [AnyOf(branches=[[OneOf(key='year', values=[2026])], [OneOf(key='draft', values=[True])]])]
    """

    branches: "list[list[Condition]]"


Condition = OneOf | Within | AnyOf
"""What a filter asks of one field, or of alternatives."""


def conditions(wanted: Mapping[str, Any] | None) -> list[Condition]:
    """What all documents have in common that pass ``wanted``, a filter that is known to be valid.

    Each condition holds for every document that passes; others may satisfy them, too.

    >>> conditions({"year": {"$gte": 2026}, "topic": {"$ne": "ratios"}})  # `$ne` stays here
    [Within(key='year', operator='$gte', limit=2026)]
    """
    found: list[Condition] = []
    for key, part in (wanted or {}).items():
        if key == "$and":
            found += [condition for branch in part for condition in conditions(branch)]
        elif key == "$or":
            found += _any_of([conditions(branch) for branch in part])
        elif _PLAIN_KEY.fullmatch(key):
            found += _of_key(key, part if isinstance(part, Mapping) else {"$eq": part})
    return found


def _any_of(branches: list[list[Condition]]) -> list[Condition]:
    # A branch of which nothing is known could be true of any document.
    return [AnyOf(branches)] if all(branches) else []


def _of_key(key: str, operators: Mapping[str, Any]) -> list[Condition]:
    found: list[Condition] = []
    for operator, limit in operators.items():
        if operator == "$eq" and _is_scalar(limit):
            found.append(OneOf(key, [limit]))
        elif operator == "$in" and isinstance(limit, list | tuple) and _are_alike(limit):
            found.append(OneOf(key, [*limit]))
        elif operator in _RANGES and _is_number(limit):
            found.append(Within(key, operator, limit))
    return found


def _are_alike(values: Sequence[Any]) -> bool:
    if not values:
        return False
    return all(map(_is_number, values)) or all(map(_is_text, values))


def _is_scalar(value: Any) -> bool:
    return isinstance(value, bool) or _is_text(value) or _is_number(value)


def _is_text(value: Any) -> bool:
    # Some stores refuse a query with members of enums, NUL or lone surrogates.
    return type(value) is str and "\x00" not in value and is_utf8(value)


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < _LARGEST
