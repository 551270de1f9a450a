"""Equality conditions of a filter, and forms of values that are alike where the values are equal.

An index by them may let too much pass, and never too little: what it lets pass is opened, and
filtered by its value. So only values whose equality is plain have a form: texts, numbers, ``True``,
``False`` and ``None``. ``1``, ``1.0`` and ``True`` have one form, because filters of a store take
them for equal. What else may be equal to one of these in a way of its own (a Decimal, an enum) has
none, and its item is looked at each time.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

from langmem_isolated._runtime.arguments import kind_of

Path = tuple[str, ...]

_MOST_FIELDS = 16
_ADVICE = 'Write equality=["category", "author.name"]. Nothing was read or written.'
# Of these very types nothing equals a text, a number or ``None``.
_UNLIKE = frozenset((list, tuple, dict, set, frozenset, bytes))
_OTHER = b"o"
_NONE = b"0"


class Term(NamedTuple):
    """A field and the form of a value."""

    path: tuple[bytes, ...]
    form: bytes


def _form(value: Any) -> bytes | None:
    """The form that a value shares with all that equal it; ``None`` if it has none."""
    kind = type(value)
    if kind is str:
        text: bytes = value.encode(errors="surrogatepass")
        return b"s" + text
    if value is None:
        return _NONE
    if kind is float and not value.is_integer():
        # Nothing equals NaN.
        return b"f" + struct.pack(">d", value) if value == value else None  # noqa: PLR0124
    if kind in (int, bool, float):
        number = int(value)
        return b"n" + number.to_bytes(number.bit_length() // 8 + 1, signed=True)
    return None


class EqualityFields:
    """The fields that a store or a collection is indexed by.

    Args:
        equality: Their names; a period goes into a mapping.

    Raises:
        TypeError: They are no list of texts.
        ValueError: One has no meaning, or there are too many.
    """

    def __init__(self, equality: Sequence[str]) -> None:
        self._paths = {path: _encoded(path) for path in map(_path, _checked(equality))}

    def terms(self, value: Mapping[str, Any]) -> list[Term]:
        """What a stored value has in the fields; those are left out that have no form."""
        found = ((encoded, _stored_form(value, path)) for path, encoded in self._paths.items())
        return [Term(path, form) for path, form in found if form is not None]

    def conditions(self, wanted: Mapping[str, Any] | None, *, has_and: bool = False) -> list[Term]:
        """What a filter says a value must have in the fields, if nothing else is to pass.

        Args:
            wanted: The filter, checked.
            has_and: Whether ``$and`` is an operator of it, and no key.
        """
        found = (
            Term(self._paths[path], form)
            for path, limit in _equalities(wanted or {}, (), has_and=has_and)
            if path in self._paths and (form := _form(limit)) is not None
        )
        # A statement is kept for each number of them, and SQLite takes no 1,000. Fewer let pass
        # more, and never too little.
        return [*islice(dict.fromkeys(found), _MOST_FIELDS)]


def _checked(equality: object) -> Sequence[str]:
    if not isinstance(equality, list | tuple) or not all(isinstance(one, str) for one in equality):
        got = kind_of(equality)
        if isinstance(equality, list | tuple):
            got = f"a {got} with {kind_of(next(x for x in equality if not isinstance(x, str)))}"
        raise TypeError(f"equality must be a list of field names, got {got}. {_ADVICE}")
    if not 1 <= len(equality) <= _MOST_FIELDS:
        raise ValueError(
            f"equality must name 1 to {_MOST_FIELDS} fields, got {len(equality)}. {_ADVICE}"
        )
    return equality


def _path(field: str) -> Path:
    path = tuple(field.split("."))
    if not all(path) or any(part.startswith("$") for part in path):
        raise ValueError(
            "A field of equality must be names with periods between them, none of them empty or "
            f"with $ in front, got one of {len(field)} characters. {_ADVICE}"
        )
    return path


def _encoded(path: Path) -> tuple[bytes, ...]:
    return tuple(part.encode(errors="surrogatepass") for part in path)


def _stored_form(value: Any, path: Path) -> bytes | None:
    for part in path:
        if type(value) is not dict:
            # Where there is no mapping, the filter lets nothing pass.
            return _OTHER if _form(value) is not None or type(value) in _UNLIKE else None
        value = value.get(part)
    return _OTHER if type(value) in _UNLIKE else _form(value)


def _equalities(
    wanted: Mapping[Any, Any], path: Path, *, has_and: bool
) -> Iterator[tuple[Path, Any]]:
    """The conditions that must all hold: which field is which value."""
    for key, part in wanted.items():
        if has_and and key == "$and":
            for one in part:
                yield from _equalities(one, path, has_and=True)
        elif not isinstance(part, dict):
            yield (*path, key), part
        elif "$eq" in part:
            yield (*path, key), part["$eq"]
        else:
            yield from _equalities(part, (*path, key), has_and=has_and)
