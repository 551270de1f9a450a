"""Chat sessions of a scope: list, create, rename, summarize, remove."""

import os
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from types import NoneType

from langmem_isolated._codecs.headers import Header, decode_header, encode_header
from langmem_isolated._runtime.arguments import kind_of, whole_number
from langmem_isolated._runtime.calls import ONE_SCOPE, explains_calls, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.container_state import BIRTH_BYTES, ContainerState
from langmem_isolated._storage.containers import Listed
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import listing
from langmem_isolated._storage.sessions.reading import LATEST
from langmem_isolated.errors import SessionNotFound, ValueNotStorable
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
    damaged: bool
    """Whether the row was tampered with; then ``id`` and all that people wrote are ``None``, and a
    time that cannot be is 1970."""
    position: tuple[int, bytes] = field(repr=False)
    """Where it stands in the list."""

    def __repr__(self) -> str:
        return f"Session(messages={self.messages}, size={self.size}, damaged={self.damaged})"


@made_by(f"{ONE_SCOPE}.sessions", first=ScopedDatabase)
@explains_calls
class Sessions:
    """The chat sessions of one scope, as ``memory.scope(…).sessions`` gives them.

    Calling it lists them: ``tutor.sessions()``.

    >>> session_id = scope.sessions.create(title="Fractions")
    >>> scope.sessions.rename(session_id, "Ratios")
    >>> [session.title for session in scope.sessions(limit=10)]
    ['Ratios']
    >>> scope.sessions.delete(session_id)
    """

    def __init__(self, records: ScopedDatabase) -> None:
        self._records = records

    def __call__(self, *, limit: int = 100, before: Session | None = None) -> list[Session]:
        """The sessions by last activity, newest first.

        Args:
            limit: At most this many.
            before: For the next page, the last session of this one.

        Raises:
            ValueError: ``limit`` is negative.
            TypeError: ``limit`` is no number, or ``before`` no session.
        """
        limit = whole_number("limit", limit)
        if not isinstance(before, Session | None):
            raise TypeError(
                f"before must be a Session or None, got {kind_of(before)}. Give the last session "
                "of the page before."
            )
        position = (LATEST, b"") if before is None else before.position
        listed = self._records.read(
            listing.list_sessions, [], position, min(whole_number("limit", limit), LATEST), now()
        )
        return [_as_session(row) for row in listed]

    async def alist(self, *, limit: int = 100, before: Session | None = None) -> list[Session]:
        """The sessions, newest first; see :meth:`__call__`."""
        return await self._records.arun(self, limit=limit, before=before)

    def create(
        self,
        session_id: str | None = None,
        *,
        title: str | None = None,
        channel: str | None = None,
    ) -> str:
        """Make an empty session and return its id; one that exists already is left as it is.

        Args:
            session_id: 1 to 255 bytes; by default 128 random bits, 22 characters.
            title: What people call it; sealed.
            channel: Where it takes place, for example ``"general"``; sealed.

        Raises:
            ScopeError: ``session_id`` is malformed.
            LimitExceeded: Title and channel are beyond ``message_bytes``.
        """
        session_id = checked_id(
            "session_id", secrets.token_urlsafe(16) if session_id is None else session_id
        )
        header = self._encoded(Header(session_id, _text("title", title), _text("channel", channel)))
        birth = os.urandom(BIRTH_BYTES)
        self._records.write(listing.create, session_id, header, birth, now())
        return session_id

    async def acreate(
        self,
        session_id: str | None = None,
        *,
        title: str | None = None,
        channel: str | None = None,
    ) -> str:
        """Make an empty session; see :meth:`create`."""
        return await self._records.arun(self.create, session_id, title=title, channel=channel)

    def rename(self, session_id: str, title: str | None) -> None:
        """Give the session another title.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        checked_id("session_id", session_id)

        def with_title(header: bytes, _: ContainerState) -> bytes:
            return self._encoded(decode_header(header)._replace(title=_text("title", title)))

        if not self._records.write_if_exists(listing.rewrite, False, session_id, with_title, now()):
            raise SessionNotFound

    async def arename(self, session_id: str, title: str | None) -> None:
        """Give the session another title; see :meth:`rename`."""
        await self._records.arun(self.rename, session_id, title)

    def get(self, session_id: str) -> Session:
        """One session.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        checked_id("session_id", session_id)
        row = self._records.read(listing.find, None, session_id, now())
        if row is None:
            raise SessionNotFound
        return _as_session(row)

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
        checked_id("session_id", session_id)

        def with_summary(header: bytes, state: ContainerState) -> bytes:
            end = state.next_sequence if until is None else until
            if not 0 <= end <= state.next_sequence:
                raise ValueError(
                    f"until must be 0 to {state.next_sequence}, the number of messages so far, got "
                    f"{end}. Leave it out for all of them. Nothing was changed."
                )
            summarized = None if summary is None else end
            changed = decode_header(header)._replace(
                summary=_text("summary", summary), summarized=summarized
            )
            return self._encoded(changed)

        if not self._records.write_if_exists(
            listing.rewrite, False, session_id, with_summary, now()
        ):
            raise SessionNotFound

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
        checked_id("session_id", session_id)

        def confirmed(header: bytes, _: ContainerState) -> bytes:
            return encode_header(decode_header(header)._replace(is_untrusted=None))

        if not self._records.write_if_exists(listing.rewrite, False, session_id, confirmed, now()):
            raise SessionNotFound

    async def aconfirm(self, session_id: str) -> None:
        """Confirm a session that was claimed; see :meth:`confirm`."""
        await self._records.arun(self.confirm, session_id)

    def delete(self, session_id: str) -> None:
        """Remove the session and its messages.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        checked_id("session_id", session_id)
        if not self._records.write_if_exists(listing.remove, False, session_id):
            raise SessionNotFound

    def _encoded(self, header: Header) -> bytes:
        return self._records.limits.checked_size("message_bytes", encode_header(header))

    async def adelete(self, session_id: str) -> None:
        """Remove the session and its messages; see :meth:`delete`."""
        await self._records.arun(self.delete, session_id)


def _text(name: str, value: object) -> str | None:
    if value is None or type(value) is str:
        return value
    raise ValueNotStorable(
        type(value).__name__,
        f"a session's {name}",
        cause="it must be a str or None",
        advice="Give its text, or leave it out.",
    )


def _as_session(row: Listed) -> Session:
    header = None if row.sound_header is None else decode_header(row.sound_header)
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
        damaged=header is None,
        position=(row.updated_at, row.digest),
    )
