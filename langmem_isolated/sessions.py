"""Chat sessions of a scope: list, create, rename, close, archive, pin, summarize, remove."""

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import NoneType
from typing import TYPE_CHECKING, NoReturn

from langmem_isolated._adapters.appending import tell_begun
from langmem_isolated._adapters.session_lifecycle import SessionLifecycle
from langmem_isolated._adapters.summaries import seal_summary
from langmem_isolated._codecs.headers import Header, decode_header
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.calls import ONE_SCOPE, explains_calls, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import observed, one
from langmem_isolated._runtime.session_rules import SessionRules, checked_channel_limits
from langmem_isolated._storage.container_listing import Listed, Position
from langmem_isolated._storage.container_state import BIRTH_BYTES, ContainerState
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import beginning
from langmem_isolated._storage.sessions.beginning import NewSession
from langmem_isolated.scope import checked_id


@made_by(f"{ONE_SCOPE}.sessions()", first=(str, NoneType))
@dataclass(frozen=True, slots=True)
class Session:
    """One chat session as a list shows it; its names are left out of the ``repr``.

    >>> session_id = scope.sessions.create(title="Fractions", channel="web")
    >>> session = scope.sessions.get(session_id)
    >>> session.title, session.channel, session.messages
    ('Fractions', 'web', 0)
    """

    id: str | None
    title: str | None
    channel: str | None
    summary: str | None
    summarized: int | None
    """The summary stands for the messages with a sequence number below this."""
    origin: str | None
    """Where it came from, if it did not begin here: ``"anonymous"`` for one that was claimed."""
    is_untrusted: bool
    """Whether it came from elsewhere and nobody has confirmed it: it is not recalled."""
    messages: int
    size: int
    """Bytes of the sealed messages."""
    created: datetime
    last_activity: datetime
    expires: datetime | None
    """When it is gone, if nothing is said in it before; ``None`` for never."""
    pinned: bool
    archived: bool
    closed: bool
    """Whether it takes no more messages."""
    damaged: bool
    """Whether the row was tampered with; then ``id`` and all that people wrote are ``None``, and a
    time that cannot be is 1970."""
    position: Position = field(repr=False)
    """Where it stands in the list."""

    def __repr__(self) -> str:
        return f"Session(messages={self.messages}, size={self.size}, damaged={self.damaged})"


@made_by(f"{ONE_SCOPE}.sessions", first=ScopedDatabase)
@explains_calls
class Sessions(SessionLifecycle):
    """The chat sessions of one scope, as ``memory.scope(…).sessions`` gives them.

    Calling it lists them: ``tutor.sessions()``.

    >>> session_id = scope.sessions.create(title="Fractions")
    >>> scope.sessions.rename(session_id, "Ratios")
    >>> [session.title for session in scope.sessions(limit=10)]
    ['Ratios']
    >>> scope.sessions.delete(session_id)
    """

    def __call__(
        self,
        *,
        limit: int = 100,
        before: Session | None = None,
        archived: bool | None = False,
        search: str | None = None,
    ) -> list[Session]:
        """The sessions, pinned ones first, then by last activity, newest first.

        >>> monday = scope.sessions.create(title="Équations du second degré")
        >>> [session.title for session in scope.sessions(search="equation")]
        ['Équations du second degré']

        Args:
            limit: At most this many.
            before: For the next page, the last session of this one.
            archived: Whether those that are archived, or those that are not; ``None`` for both.
            search: Only those whose title has these words, or words of which these are parts; upper
                and lower case and diacritics make no difference. Titles are sealed: all are opened,
                500 at a time.

        Raises:
            ValueError: ``limit`` is negative.
            TypeError: ``limit`` is no number, ``before`` no session, ``archived`` no bool, or
                ``search`` no text.
            LimitExceeded: ``search`` is beyond ``query_characters``.
        """
        if not isinstance(before, Session | None):
            raise TypeError(
                f"before must be a Session or None, got {kind_of(before)}. Give the last session "
                "of the page before."
            )
        position = None if before is None else before.position
        return [
            as_session(row) for row in self._catalogue.listed(position, limit, archived, search)
        ]

    async def alist(
        self,
        *,
        limit: int = 100,
        before: Session | None = None,
        archived: bool | None = False,
        search: str | None = None,
    ) -> list[Session]:
        """The sessions, newest first; as calling this object gives them."""
        return await self._records.arun(
            self, limit=limit, before=before, archived=archived, search=search
        )

    if not TYPE_CHECKING:  # where a checker saw it, it would take any name for one that is there

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(
                f"Sessions has no attribute {name!r}. To list them, call it: scope.sessions(), or "
                "await scope.sessions.alist(); both take limit=, before=, archived= and search=.",
                name=name,
                obj=self,
            )

    def count(self, *, archived: bool | None = None) -> int:
        """How many sessions there are, without opening any.

        Args:
            archived: Of those that are archived, or those that are not; by default of both.

        Raises:
            TypeError: ``archived`` is no bool.
        """
        return self._catalogue.count(archived)

    async def acount(self, *, archived: bool | None = None) -> int:
        """How many sessions there are; see :meth:`count`."""
        return await self._records.arun(self.count, archived=archived)

    @observed("create_memory", "session", one)
    def create(
        self,
        session_id: str | None = None,
        *,
        title: str | None = None,
        channel: str | None = None,
        idle: timedelta | None = None,
        absolute: timedelta | None = None,
        channel_limits: Mapping[str, int] | None = None,
    ) -> str:
        """Make an empty session and return its id; one that exists already is left as it is.

        >>> hour, day = timedelta(hours=1), timedelta(days=1)
        >>> session_id = scope.sessions.create(idle=hour, absolute=day, channel_limits={"ai": 20})

        Args:
            session_id: 1 to 255 bytes; by default 128 random bits, 22 characters.
            title: What people call it; sealed.
            channel: Where it takes place, for example ``"general"``; sealed.
            idle: How long it lives after the last message, a microsecond or more; by default what
                ``session_rules`` of the memory say, and if they do not, for ever. What expired is
                absent; the next message begins a session of the same id, under these rules.
            absolute: How long it lives after it was made, whatever is said in it.
            channel_limits: How many messages of each channel it keeps, in place of those that
                ``session_rules`` keep; see :meth:`set_channel_limits`.

        Raises:
            ScopeError: ``session_id`` or a channel is malformed.
            LimitExceeded: Title and channel are beyond ``message_bytes``.
            TypeError: A lifetime is no `timedelta`, ``channel_limits`` no dict of whole numbers.
            ValueError: A lifetime is below a microsecond, or a limit below 1.
        """
        session_id = checked_id(
            "session_id", secrets.token_urlsafe(16) if session_id is None else session_id
        )
        text = self._catalogue.text
        header = self._catalogue.encoded(
            Header(session_id, text("title", title), text("channel", channel))
        )
        limits = None if channel_limits is None else checked_channel_limits(channel_limits)
        rules = _with_lifetimes(self._records.session_rules, idle, absolute)
        new = NewSession(header, os.urandom(BIRTH_BYTES), rules, limits)
        if self._records.write(beginning.create, session_id, new, now()):
            tell_begun(self._records)
        return session_id

    async def acreate(
        self,
        session_id: str | None = None,
        *,
        title: str | None = None,
        channel: str | None = None,
        idle: timedelta | None = None,
        absolute: timedelta | None = None,
        channel_limits: Mapping[str, int] | None = None,
    ) -> str:
        """Make an empty session; see :meth:`create`."""
        return await self._records.arun(
            self.create,
            session_id,
            title=title,
            channel=channel,
            idle=idle,
            absolute=absolute,
            channel_limits=channel_limits,
        )

    def rename(self, session_id: str, title: str | None) -> None:
        """Give the session another title.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        self._catalogue.rename(checked_id("session_id", session_id), title)

    async def arename(self, session_id: str, title: str | None) -> None:
        """Give the session another title; see :meth:`rename`."""
        await self._records.arun(self.rename, session_id, title)

    def get(self, session_id: str) -> Session:
        """One session.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        return as_session(self._catalogue.get(checked_id("session_id", session_id)))

    async def aget(self, session_id: str) -> Session:
        """One session; see :meth:`get`."""
        return await self._records.arun(self.get, session_id)

    def set_summary(
        self, session_id: str, summary: str | None, *, until: int | None = None
    ) -> None:
        """Seal a summary beside the session's messages, in place of the one it had.

        It belongs to this module alone, as the session does, and goes when the messages are
        cleared.

        Args:
            session_id: Which session.
            summary: The text; ``None`` removes what there is.
            until: It stands for the messages with a sequence number below this; by default for
                all there are.

        Raises:
            SessionNotFound: This scope has no such session.
            LimitExceeded: The summary is beyond ``message_bytes``.
            ValueError: The session has no messages up to ``until``.
        """
        seal_summary(self._records, checked_id("session_id", session_id), summary, until)

    async def aset_summary(
        self, session_id: str, summary: str | None, *, until: int | None = None
    ) -> None:
        """Seal a summary beside the session's messages; see :meth:`set_summary`."""
        await self._records.arun(self.set_summary, session_id, summary, until=until)

    def confirm(self, session_id: str) -> None:
        """Confirm, for the user, a session that was claimed: it is recalled into prompts, too.

        Raises:
            SessionNotFound: This scope has no such session.
        """

        def confirmed(header: Header, state: ContainerState) -> tuple[Header, ContainerState]:
            return header._replace(is_untrusted=None), state

        self._catalogue.change(checked_id("session_id", session_id), confirmed)

    async def aconfirm(self, session_id: str) -> None:
        """Confirm a session that was claimed; see :meth:`confirm`."""
        await self._records.arun(self.confirm, session_id)

    def delete(self, session_id: str) -> None:
        """Remove the session and its messages.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        self._catalogue.remove(checked_id("session_id", session_id))

    async def adelete(self, session_id: str) -> None:
        """Remove the session and its messages; see :meth:`delete`."""
        await self._records.arun(self.delete, session_id)


def _with_lifetimes(
    rules: SessionRules, idle: timedelta | None, absolute: timedelta | None
) -> SessionRules:
    if idle is None and absolute is None:
        return rules
    return replace(
        rules,
        idle=rules.idle if idle is None else idle,
        absolute=rules.absolute if absolute is None else absolute,
    )


def as_session(row: Listed) -> Session:
    """A session's row as a list shows it."""
    sound = row.sound_header
    header = None if sound is None else decode_header(sound)
    return Session(
        id=header and header.session_id,
        title=header and header.title,
        channel=header and header.channel,
        summary=header and header.summary,
        summarized=header and header.summarized,
        origin=header and header.origin,
        is_untrusted=bool(header and header.is_untrusted),
        messages=row.count,
        size=row.size,
        created=row.created,
        last_activity=row.last_activity,
        expires=row.expires,
        pinned=row.is_pinned == 1,
        archived=row.is_archived,
        closed=row.is_closed,
        damaged=header is None,
        position=row.position,
    )
