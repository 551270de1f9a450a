"""Container catalogue: what lists, finds and changes a scope's sessions, or its threads."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from operator import attrgetter
from typing import TypeVar

from langmem_isolated._codecs.headers import Header, decode_header, encode_header
from langmem_isolated._runtime.arguments import kind_of, time_to_live, whole_number
from langmem_isolated._runtime.clock import lifetime, now
from langmem_isolated._runtime.operations import counted, found, observed, one
from langmem_isolated._search.titles import has_parts, title_parts
from langmem_isolated._storage.container_listing import (
    BEGINNING,
    ContainerListing,
    Listed,
    Position,
)
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import LangmemIsolatedError, RecordDoesNotOpen, ValueNotStorable

# Rows that are opened at a time while a title is looked for: about 2 ms.
_PAGE = 500
_MOST = 2**63 - 1

_noun_of = attrgetter("_noun")
T = TypeVar("T")
ChangeHeader = Callable[[Header, ContainerState], tuple[Header, ContainerState]]


class ContainerCatalogue:
    """A scope's sessions, or its threads.

    Args:
        records: The scope's records.
        listing: Of sessions or of threads.
        noun: What one is called, for messages.
        not_found: Raised where there is none of an id.
    """

    def __init__(
        self,
        records: ScopedDatabase,
        listing: ContainerListing,
        noun: str,
        not_found: type[LangmemIsolatedError],
    ) -> None:
        self._records, self._listing = records, listing
        self._noun, self._not_found = noun, not_found

    def listed(
        self,
        position: Position | None,
        limit: int | None,
        archived: bool | None,
        search: str | None,
    ) -> list[Listed]:
        """Those behind a position, pinned ones first, then by last activity.

        Args:
            position: Of the last one of the page before.
            limit: At most this many; ``None`` for all.
            archived: Whether those that are archived, or those that are not; ``None`` for both.
            search: Words that the title has.

        Raises:
            TypeError: ``limit`` is no number, ``archived`` no bool, or ``search`` no text.
            ValueError: ``limit`` is negative.
            LimitExceeded: ``search`` is beyond ``query_characters``.
        """
        most = _MOST if limit is None else min(whole_number("limit", limit), _MOST)
        _check_archived(archived)
        begin = BEGINNING if position is None else position
        if search is None and limit is not None:
            return self._page(begin, most, archived)
        return [*self._all(begin, archived, most, self._parts(search))]

    def _parts(self, search: object) -> list[str]:
        if search is None:
            return []
        if not isinstance(search, str):
            raise TypeError(f"search must be a str or None, got {kind_of(search)}. Give its words.")
        self._records.limits.check_query(search)
        return title_parts(search)

    def _all(
        self, position: Position, archived: bool | None, most: int, parts: list[str]
    ) -> Iterator[Listed]:
        """Those whose title has some parts, a page in memory at a time."""
        found = 0
        while found < most:
            page = self._page(position, _PAGE, archived)
            for row in page:
                if found < most and _has_title(row, parts):
                    found += 1
                    yield row
            if len(page) < _PAGE:
                return
            position = page[-1].position

    @observed("search_memory", _noun_of, found)
    def _page(self, position: Position, limit: int, archived: bool | None) -> list[Listed]:
        read, page = self._records.read_lagging, self._listing.page
        return _with_latest_keys(partial(read, page, [], position, limit, archived, now()))

    @observed("search_memory", _noun_of, counted)
    def count(self, archived: bool | None) -> int:
        """How many :meth:`listed` gives in all."""
        return self._records.read_lagging(self._listing.count, 0, _check_archived(archived), now())

    @observed("search_memory", _noun_of, found)
    def get(self, name: str) -> Listed:
        """One of them; where there is none, the error of the catalogue is raised."""
        read, find = self._records.read, self._listing.find
        found = _with_latest_keys(partial(read, find, None, name, now()))
        if found is None:
            raise self._not_found
        return found

    @observed("update_memory", _noun_of, one)
    def change(self, name: str, change: ChangeHeader) -> None:
        """Change the header and the state of one; where there is none, the error is raised."""

        def encoded(header: bytes, state: ContainerState) -> tuple[bytes, ContainerState]:
            changed, new = change(decode_header(header), state)
            return self.encoded(changed), new

        self._expect(
            self._records.write_if_exists(self._listing.rewrite, False, name, encoded, now())
        )

    def encoded(self, header: Header) -> bytes:
        """A header's bytes.

        Raises:
            LimitExceeded: It is beyond ``message_bytes``.
        """
        return self._records.limits.checked_size("message_bytes", encode_header(header))

    def rename(self, name: str, title: str | None) -> None:
        """Give one another title."""
        text = self.text("title", title)
        self.change(name, lambda header, state: (header._replace(title=text), state))

    def text(self, name: str, value: object) -> str | None:
        """A text that people gave.

        Raises:
            ValueNotStorable: It is no text.
        """
        if value is None or type(value) is str:
            return value
        raise ValueNotStorable(
            type(value).__name__,
            f"a {self._noun}'s {name}",
            cause="it must be a str or None",
            advice="Give its text, or leave it out.",
        )

    def pin(self, name: str, *, is_pinned: bool) -> None:
        """Put one before those that are not pinned, or back among them."""
        self.change(name, lambda header, state: (header, state._replace(is_pinned=int(is_pinned))))

    def mark(
        self, name: str, *, is_closed: bool | None = None, is_archived: bool | None = None
    ) -> None:
        """Close or archive one, or take that back; ``None`` leaves it as it is."""

        def marked(header: Header, state: ContainerState) -> tuple[Header, ContainerState]:
            closed = state.is_closed if is_closed is None else is_closed
            archived = state.is_archived if is_archived is None else is_archived
            return header, state.marked(is_closed=closed, is_archived=archived)

        self.change(name, marked)

    def set_lifetime(self, name: str, idle: timedelta | None, absolute: timedelta | None) -> None:
        """Say how long one lives, instead of what was said before.

        Raises:
            TypeError: One is no `timedelta`.
            ValueError: One is below a microsecond.
        """
        idle_lifetime = lifetime(time_to_live(idle, name="idle"))
        absolute_lifetime = lifetime(time_to_live(absolute, name="absolute"))

        def living(header: Header, state: ContainerState) -> tuple[Header, ContainerState]:
            new = state._replace(idle_lifetime=idle_lifetime, absolute_lifetime=absolute_lifetime)
            return header, new._replace(expires_at=new.expiry_after(new.updated_at))

        self.change(name, living)

    @observed("delete_memory", _noun_of, one)
    def remove(self, name: str) -> None:
        """Remove one with all that is below it."""
        self._expect(self._records.write_if_exists(self._listing.remove, False, name))

    def _expect(self, is_there: bool) -> None:
        if not is_there:
            raise self._not_found


def _with_latest_keys(read: Callable[..., T]) -> T:
    """Read rows by the keys that others may have made meanwhile, where these do not open one."""
    try:
        return read(is_final=False)
    except RecordDoesNotOpen:
        # Later keys do not open it either: it was tampered with, and is told as that.
        return read()


def _check_archived(archived: bool | None) -> bool | None:
    if archived is not None and type(archived) is not bool:
        raise TypeError(
            f"archived must be True, False or None (for both), got {kind_of(archived)}. "
            "Write archived=True."
        )
    return archived


def _has_title(row: Listed, parts: list[str]) -> bool:
    if not parts:
        return True
    return row.sound_header is not None and has_parts(decode_header(row.sound_header).title, parts)
