"""Chunks: the numbers of a stretch of a long list, stored once as an element of their own.

Messages of tasks that ran at once have numbers in the order in which they were stored, not in that
of the list, so that run-length encoding breaks, and a body would grow with the thread. Where a list
is that fragmented, stretches of it become chunks, to which its bodies refer. Chunks end where a
number says so, not a place in the list (content-defined chunking): they stay the same when the
beginning of the list is removed.
"""

from collections.abc import Iterable, Iterator, Sequence

import ormsgpack

from langmem_isolated._codecs.checkpoints.layout import (
    CHUNK_V1,
    run_length_decode,
    run_length_encode,
)

# A list with fewer runs is written out: about 100 bytes.
FRAGMENTED_RUNS = 32
# An element costs a row of 200 bytes; a run costs 2 bytes in every body that follows.
_CHUNK_RUNS = 8
# A chunk ends behind a number that is one less than a multiple of this.
_STRIDE = 64


def encode_chunk(runs: Iterable[range]) -> bytes:
    """Numbers as the plaintext of an element."""
    return CHUNK_V1 + ormsgpack.packb(run_length_encode(runs))


def decode_chunk(plaintext: bytes) -> list[int]:
    """The numbers of which :func:`encode_chunk` was given the runs."""
    return run_length_decode(ormsgpack.unpackb(plaintext[1:]))


def stretches(numbers: Iterable[range]) -> Iterator[tuple[list[range], bool]]:
    """Numbers in their order as stretches of runs, and whether each is to be a chunk."""
    runs: list[range] = []
    for given in numbers:
        start = given.start
        while start < given.stop:
            end = start - start % _STRIDE + _STRIDE
            _append(runs, range(start, min(end, given.stop)))
            start = end
            if end <= given.stop:
                yield runs, len(runs) >= _CHUNK_RUNS
                runs = []
    if runs:
        yield runs, False


def _append(runs: list[range], run: range) -> None:
    if runs and runs[-1].stop == run.start:
        runs[-1] = range(runs[-1].start, run.stop)
    else:
        runs.append(run)


def is_fragmented(references: Sequence[object]) -> bool:
    """Whether references to the elements of a list are many runs."""
    if len(references) <= FRAGMENTED_RUNS:
        return False
    end, breaks = None, 0
    for reference in references:
        if not isinstance(reference, range):
            break
        breaks += reference.start != end
        end = reference.stop
    return breaks > FRAGMENTED_RUNS
