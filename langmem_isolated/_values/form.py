"""Lays out an encoded value: the codes of its parts, and the numbers they refer to."""

from collections.abc import Iterable
from typing import Any

import ormsgpack

VALUE_V1 = b"\x02"
ELEMENT, SEND, DATACLASS, SNAPSHOT, OPAQUE, ELEMENTS, MESSAGE = range(64, 71)


def table(numbers: Iterable[int]) -> list[int]:
    """Numbers as runs: how far each begins behind the end of the one before, and its length."""
    runs: list[int] = []
    end = 0
    for number in numbers:
        if runs and number == end:
            runs[-1] += 1
        else:
            runs += (number - end, 1)
        end = number + 1
    return runs


def numbers_of(runs: list[int]) -> list[int]:
    """What :func:`table` was given."""
    numbers: list[int] = []
    end = 0
    for gap, length in zip(runs[::2], runs[1::2], strict=True):
        start = end + gap
        end = start + length
        numbers.extend(range(start, end))
    return numbers


def structure(packed: bytes) -> Any:
    """An encoded value with ``None`` for every part that needs an element or a type."""
    return ormsgpack.unpackb(
        packed, ext_hook=lambda _code, _packed: None, option=ormsgpack.OPT_NON_STR_KEYS
    )
