"""Decides which opened values pass a filter, by the rules of LangGraph's `InMemoryStore`.

A plain filter value must be equal; a mapping without operators must pass part by part, a list item
by item; a missing key is ``None``. Where that store raises for values that cannot be ordered, here
they do not pass: numbers are compared with numbers, texts with texts, times with times.
"""

import datetime as dt
import operator
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

_NUMBERS = (int, float, Decimal)
_ORDERED = (str, dt.datetime, dt.date, dt.time, dt.timedelta)

Compare = Callable[[Any, Any], bool]


def _when_comparable(compare: Compare) -> Compare:
    def passes(value: Any, limit: Any) -> bool:
        kinds = {type(value), type(limit)}
        numbers = isinstance(value, _NUMBERS) and isinstance(limit, _NUMBERS) and bool not in kinds
        if not numbers and not (len(kinds) == 1 and isinstance(value, _ORDERED)):
            return False
        try:
            return compare(value, limit)
        except (TypeError, ArithmeticError):
            # Times with and without zone, and Decimal's NaN, have no order.
            return False

    return passes


_OPERATORS: Mapping[str, Compare] = {
    "$eq": operator.eq,
    "$ne": operator.ne,
    "$gt": _when_comparable(operator.gt),
    "$gte": _when_comparable(operator.ge),
    "$lt": _when_comparable(operator.lt),
    "$lte": _when_comparable(operator.le),
}


def compiled(wanted: Mapping[str, Any] | None) -> Callable[[Mapping[str, Any]], bool] | None:
    """A test of values; ``None`` when every value passes.

    Raises:
        ValueError: An operator is not one of those above, or stands beside plain keys.
    """
    if not wanted:
        return None
    for part in wanted.values():
        _check(part)
    return lambda value: all(_passes(value.get(key), part) for key, part in wanted.items())


def _is_operation(wanted: object) -> bool:
    return isinstance(wanted, dict) and any(str(key).startswith("$") for key in wanted)


def _check(wanted: object) -> None:
    if _is_operation(wanted):
        if not wanted.keys() <= _OPERATORS.keys():  # type: ignore[attr-defined]
            raise ValueError(
                f"A filter has an unsupported operator; supported are {', '.join(_OPERATORS)}."
            )
    elif isinstance(wanted, dict):
        for part in wanted.values():
            _check(part)
    elif isinstance(wanted, list | tuple):
        for part in wanted:
            _check(part)


def _passes(value: Any, wanted: Any) -> bool:
    if _is_operation(wanted):
        return all(_OPERATORS[name](value, limit) for name, limit in wanted.items())
    if isinstance(wanted, dict):
        return isinstance(value, dict) and all(
            _passes(value.get(key), part) for key, part in wanted.items()
        )
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(map(_passes, value, wanted))
        )
    return bool(value == wanted)
