"""Metadata filters: which documents pass, alike in every vector store.

``{"year": 2020, "topic": {"$in": ["a", "b"]}, "$or": [{…}, {…}]}``: what stands side by side must
all pass. A missing key is ``None``. ``True`` is not 1; numbers are compared with numbers, texts
with texts, times with times, and nothing else is ordered.
"""

from collections.abc import Callable, Mapping
from typing import Any

from langmem_isolated._search.store_filters import ORDERING, checked_limit, equal

Filter = Mapping[str, Any]
MetadataTest = Callable[[Mapping[str, Any]], bool]
Test = Callable[[Any], bool]

# Each level takes four frames of the interpreter when it is tested, and has 1,000.
_MOST_DEPTH = 32
_LISTS = (list, tuple, set, frozenset)


def metadata_test(wanted: Filter | None) -> MetadataTest:
    """A test of metadata; ``None`` and ``{}`` let everything pass.

    Plain values must be equal, a mapping without operators must pass part by part. Operators of a
    value: ``$eq $ne $in $nin $gt $gte $lt $lte $contains $not``; of filters: ``$and $or`` (lists),
    ``$not``. ``$contains`` passes a list that has the element, and a text that has the text in it,
    case and all.

    Raises:
        ValueError: The filter has no meaning; the message has none of its content.
    """
    return _of_keys({} if wanted is None else wanted, 0)


def _of_keys(wanted: Any, depth: int) -> Test:
    if not isinstance(wanted, Mapping):
        raise _malformed(
            f"A filter must be a mapping, got {type(wanted).__name__}. Write "
            'filter={"year": 2026}, or {"year": {"$gte": 2026}}.'
        )
    _check(depth)
    tests = [_of_key(key, part, depth + 1) for key, part in wanted.items()]
    return lambda value: isinstance(value, Mapping) and all(test(value) for test in tests)


def _of_key(key: Any, wanted: Any, depth: int) -> Test:
    if not isinstance(key, str):
        raise _malformed(f"The keys of a filter must be str, got {type(key).__name__}.")
    if key in ("$and", "$or"):
        return _of_filters(any if key == "$or" else all, wanted, depth)
    if key == "$not":
        return _not(_of_keys(_not_empty(wanted), depth))
    if key.startswith("$"):
        raise _unsupported()
    test = _of_value(wanted, depth)
    return lambda metadata: test(metadata.get(key))


def _of_filters(combine: Callable[[Any], bool], wanted: Any, depth: int) -> Test:
    if not isinstance(wanted, list | tuple) or not wanted:
        raise _malformed("$and and $or take a list of filters that is not empty.")
    tests = [_of_keys(_not_empty(part), depth) for part in wanted]
    return lambda metadata: combine(test(metadata) for test in tests)


def _of_value(wanted: Any, depth: int) -> Test:
    if not isinstance(wanted, Mapping):
        return _OPERATORS["$eq"](wanted)
    if not any(isinstance(key, str) and key.startswith("$") for key in _not_empty(wanted)):
        return _of_keys(wanted, depth)
    tests = [_of_operator(name, limit, depth + 1) for name, limit in wanted.items()]
    return lambda value: all(test(value) for test in tests)


def _of_operator(name: Any, limit: Any, depth: int) -> Test:
    _check(depth)
    if name == "$not":
        return _not(_of_value(limit, depth))
    if name not in _OPERATORS:
        raise _unsupported()
    return _OPERATORS[name](limit)


def _check(depth: int) -> None:
    if depth > _MOST_DEPTH:
        raise _malformed(f"A filter may be {_MOST_DEPTH} levels deep, this one is deeper.")


def _not(test: Test) -> Test:
    return lambda value: not test(value)


def _not_empty(wanted: Any) -> Any:
    # Whoever builds a filter and ends up with an empty part meant a condition that is not there.
    if isinstance(wanted, Mapping) and not wanted:
        raise _malformed("A part of the filter is empty; leave it out.")
    return wanted


def _malformed(reason: str) -> ValueError:
    # One class for values and types: a filter may come from a model or a request.
    return ValueError(reason)


def _unsupported() -> ValueError:
    return _malformed(
        "A filter has an unsupported operator, or one beside plain keys; supported are "
        f"{', '.join(_OPERATORS)}, $and, $or, $not."
    )


def _same(value: Any, limit: Any) -> bool:
    return isinstance(value, bool) == isinstance(limit, bool) and equal(value, limit)


def _comparing(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Test]:
    def build(limit: Any) -> Test:
        if callable(limit):
            raise _malformed("A filter has a function for a value; give the value.")
        return lambda value: compare(value, limit)

    return build


def _one_of(limits: Any) -> Test:
    if not isinstance(limits, _LISTS):
        raise _malformed(f"$in and $nin take a list of values, got {type(limits).__name__}.")
    tests = [_OPERATORS["$eq"](limit) for limit in limits]
    return lambda value: any(test(value) for test in tests)


def _ordering(compare: Callable[[Any, Any], bool]) -> Callable[[Any], Test]:
    build = _comparing(compare)
    return lambda limit: build(checked_limit(limit))


def _containing(part: Any) -> Test:
    if part == "" or not isinstance(part, str | int | float):
        raise _malformed(
            "$contains takes one element of a list, or some text: a str that is not empty, a "
            f"number, True or False; got {'an empty' if part == '' else 'a'} {type(part).__name__}."
        )
    return lambda value: (
        any(_same(element, part) for element in value)
        if isinstance(value, _LISTS)
        else isinstance(value, str) and isinstance(part, str) and part in value
    )


_OPERATORS: Mapping[str, Callable[[Any], Test]] = {
    "$eq": _comparing(_same),
    "$ne": _comparing(lambda value, limit: not _same(value, limit)),
    "$in": _one_of,
    "$nin": lambda limits: _not(_one_of(limits)),
    "$contains": _containing,
    **{name: _ordering(compare) for name, compare in ORDERING.items()},
}
