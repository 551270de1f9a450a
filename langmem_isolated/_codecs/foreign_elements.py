"""Elements of a thread that somebody else wrote, and whether bodies may refer to them."""

from array import array
from bisect import bisect_left
from typing import NamedTuple

from langmem_isolated._codecs.refusals import NotStorable

# A body may refer to an element many times, in several channels; not without any bound, since each
# reference becomes a value of its own when it is read.
_MOST_TIMES = 64
_MOST_REFERENCES = 1_000_000
_MOST_BYTES = 256_000_000


class _Cost(NamedTuple):
    """How many elements references stand for, and their bytes."""

    references: int
    size: int

    def plus(self, other: "_Cost") -> "_Cost":
        return _Cost(self.references + other.references, self.size + other.size)


class Elements:
    """The elements of a thread so far, by their numbers, which rise."""

    def __init__(self) -> None:
        self.end = 0
        """Above all of their numbers."""
        # Numbers of what is no chunk, and how many bytes there are up to each.
        self._numbers, self._sizes = array("Q"), array("Q")
        self._chunks: dict[int, list[range]] = {}
        self._costs: dict[int, _Cost] = {}

    def add(self, number: int, size: int, runs: list[range] | None) -> None:
        """Take in another.

        Args:
            number: Above that of the one before.
            size: Its bytes.
            runs: The numbers that it lists, if it is a chunk.

        Raises:
            NotStorable: Its number is not above the one before.
        """
        if number < self.end:
            raise NotStorable("number must be above that of the element before")
        self.end = number + 1
        if runs is not None:
            self._chunks[number] = runs
            return
        self._numbers.append(number)
        self._sizes.append(self._size + size)

    @property
    def _size(self) -> int:
        return self._sizes[-1] if self._sizes else 0

    def check(self, listed: list[range], chunks: list[range], elements: int, lists: int) -> None:
        """Refuse references of a body that cannot be followed, or that stand for too much.

        Args:
            listed: The numbers of its elements.
            chunks: The numbers of its chunks.
            elements: How many elements its values take.
            lists: How many chunks they take.

        Raises:
            NotStorable: They are that.
        """
        total = self._cost(listed)
        self._refuse_more(total)
        if total.references < elements or sum(map(len, chunks)) < lists:
            raise NotStorable("a body takes more elements than it refers to")
        for number in (number for run in chunks for number in run):
            total = total.plus(self._cost_of_chunk(number))
            self._refuse_more(total)

    def _refuse_more(self, total: _Cost) -> None:
        most = max(_MOST_REFERENCES, _MOST_TIMES * len(self._numbers))
        if total.references > most or total.size > max(_MOST_BYTES, _MOST_TIMES * self._size):
            raise NotStorable("it refers to elements too many times")

    def _cost_of_chunk(self, number: int) -> _Cost:
        if number not in self._costs:
            if number not in self._chunks:
                raise _missing()
            self._costs[number] = self._cost(self._chunks[number])
        # Chunks that list nothing are something as well.
        return self._costs[number].plus(_Cost(1, 0))

    def _cost(self, runs: list[range]) -> _Cost:
        cost = _Cost(0, 0)
        for run in filter(len, runs):
            first = bisect_left(self._numbers, run.start)
            last = first + len(run) - 1
            # As numbers rise, none is missing between two that are as far apart as they stand.
            if last >= len(self._numbers) or self._numbers[last] != run.stop - 1:
                raise _missing()
            before = self._sizes[first - 1] if first else 0
            cost = cost.plus(_Cost(len(run), self._sizes[last] - before))
        return cost


def _missing() -> NotStorable:
    return NotStorable("it refers to elements that are not there")
