"""Layout of encoded values: msgpack extension codes, run-length encoded element numbers."""

from collections.abc import Iterable, Sequence
from typing import Any

import ormsgpack

from langmem_isolated._codecs.values import decode_value, text_from_ext

VALUE_V1 = b"\x02"
CHUNK_V1 = b"\x03"
# Codes below 64 are those of values.
ELEMENT, SEND, _, SNAPSHOT, VALUE, ELEMENTS, MESSAGE, DICT, DEQUE, CHUNKED = range(64, 74)


def runs_of(numbers: Sequence[int]) -> list[range]:
    """Numbers as ranges; those that follow each other make one."""
    run = range(numbers[0], numbers[0] + len(numbers)) if numbers else range(0)
    if [*run] == [*numbers]:
        return [run]
    return [range(number, number + 1) for number in numbers]


def run_length_encode(runs: Iterable[range]) -> list[int]:
    """How far each run begins behind the end of the one before, and its length."""
    lengths: list[int] = []
    end = 0
    for run in runs:
        if lengths and run.start == end:
            lengths[-1] += len(run)
        else:
            lengths += (run.start - end, len(run))
        end = run.stop
    return lengths


def run_length_decode(runs: list[int]) -> list[int]:
    """The numbers of the runs that :func:`run_length_encode` was given."""
    numbers: list[int] = []
    end = 0
    for gap, length in zip(runs[::2], runs[1::2], strict=True):
        start = end + gap
        end = start + length
        numbers.extend(range(start, end))
    return numbers


def structure(packed: bytes) -> Any:
    """An encoded value with ``None`` for every part that needs an element or a type."""
    return ormsgpack.unpackb(packed, ext_hook=_outline, option=ormsgpack.OPT_NON_STR_KEYS)


def _outline(code: int, packed: bytes) -> Any:
    if code == DICT:
        keys, values = structure(packed)
        return dict(zip(decode_value(keys), values, strict=True))
    return text_from_ext(code, packed)
