"""Limits: how much one call may bring, so that one user's call cannot hold up everybody else's."""

from collections.abc import Collection, Mapping, Sequence, Sized
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from langmem_isolated.errors import LimitExceeded

T = TypeVar("T", bound=Sized)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one call may bring; what is beyond is refused before anything is written.

    Each is a whole number of 1 or more. A breach raises
    :class:`~langmem_isolated.errors.LimitExceeded`, which names the limit.

    >>> small = IsolatedMemory("sqlite://", root_key=root_key, limits=Limits(message_bytes=1_000))
    >>> history = small.scope(user_id="alice", module_id="tutor").chat_history("monday")
    >>> history.add_user_message("long " * 1_000)
    Traceback (most recent call last):
    langmem_isolated.errors.LimitExceeded: The limit message_bytes is 1,000, ...
    >>> small.close()

    Args:
        message_bytes: One message of a chat history in its stored form. The default, 1 MB, is 200
            pages of text; to seal and store it takes one writer about 20 ms.
        value_bytes: One value of a store, cache or byte store, and what one checkpoint, or one
            task's writes, adds to its thread. The default, 16 MB, is what other document databases
            allow one record (MongoDB: 16 MiB), and room for a few images in a graph's state.
        document_bytes: Text and metadata of one document, in their stored form. The default, 1 MB,
            is more than any splitter makes.
        batch_items: Messages, documents, operations or entries of one call. The default, 100,000,
            is about ten seconds' work.
        batch_bytes: All of them together. The default, 64 MB, is what a call may hold in memory a
            few times over.
        ids: Ids in one list to read or delete.
        query_characters: The text of a query. The default, 10,000, is beyond what models of
            embeddings read.
        recall_characters: How much of one text recall searches: of a longer one its first so many.
        profile_entries: Facts, interests and attributes of one profile together. Of the default,
            1,000, to read all takes about 10 ms.
        profile_bytes: One of them, or a profile's summary, in its stored form. The default, 16 KB,
            is three pages of text.
        filter_depth: Levels of dicts and lists in a filter. Each takes up to four frames of the
            interpreter's stack, which has 1,000; in a filter of documents conditions stand in at
            most 32 of each other, whatever this allows.
        filter_values: Keys and values of a filter, lists of values included.

    Raises:
        TypeError: One is no whole number.
        ValueError: One is below 1.
    """

    message_bytes: int = 1_000_000
    value_bytes: int = 16_000_000
    document_bytes: int = 1_000_000
    batch_items: int = 100_000
    batch_bytes: int = 64_000_000
    ids: int = 100_000
    query_characters: int = 10_000
    recall_characters: int = 100_000
    profile_entries: int = 1_000
    profile_bytes: int = 16_000
    filter_depth: int = 64
    filter_values: int = 10_000

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int:
                raise TypeError(
                    f"{field.name} must be a whole number, got {type(value).__name__}. There is no "
                    "value for no limit; give a large number."
                )
            if value < 1:
                raise ValueError(f"{field.name} must be 1 or more, got {value}.")

    def check(self, name: str, received: int) -> None:
        """Refuse ``received`` where it is beyond the limit called ``name``.

        Raises:
            LimitExceeded: It is.
        """
        allowed: int = getattr(self, name)
        if received > allowed:
            raise LimitExceeded(name, allowed, received)

    def checked_size(self, name: str, encoded: bytes) -> bytes:
        """Encoded bytes, unless there are more than the limit called ``name`` allows."""
        self.check(name, len(encoded))
        return encoded

    def checked_count(self, name: str, items: T) -> T:
        """A list, unless it has more items than the limit called ``name`` allows."""
        self.check(name, len(items))
        return items

    def check_batch(self, encoded: Collection[bytes]) -> None:
        """Refuse too many items, or too many bytes of them together.

        Raises:
            LimitExceeded: There are.
        """
        self.check("batch_items", len(encoded))
        self.check("batch_bytes", sum(map(len, encoded)))

    def check_query(self, query: object) -> None:
        """Refuse a text that is too long to search for; what is no text is not looked at.

        Raises:
            LimitExceeded: It is.
        """
        if isinstance(query, str):
            self.check("query_characters", len(query))

    def check_filter(self, wanted: object) -> None:
        """Refuse a filter that is nested too deeply, or too long.

        Without recursion, and no further than the limits: a filter that holds itself ends, too.

        Raises:
            LimitExceeded: It is.
        """
        level: list[Any] = [wanted]
        depth = count = 0
        while level := [part for whole in level for part in _parts(whole)]:
            depth, count = depth + 1, count + len(level)
            self.check("filter_depth", depth)
            self.check("filter_values", count)


def _parts(whole: Any) -> Sequence[Any]:
    if isinstance(whole, Mapping):
        return [*whole.values()]
    return [*whole] if isinstance(whole, list | tuple | set | frozenset) else ()


DEFAULT_LIMITS = Limits()
