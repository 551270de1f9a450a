"""What becomes of one session: how long it lives, what it keeps, closed, archived, pinned."""

from collections.abc import Mapping
from datetime import timedelta

from langmem_isolated._adapters.container_catalogue import ContainerCatalogue
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import observed, one
from langmem_isolated._runtime.session_rules import checked_channel_limits
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import writing
from langmem_isolated._storage.sessions.listing import LISTING
from langmem_isolated.errors import SessionNotFound
from langmem_isolated.scope import checked_id


@explains_calls
class SessionLifecycle:
    """The lives of one scope's chat sessions, as :class:`Sessions` has them."""

    def __init__(self, records: ScopedDatabase) -> None:
        self._records = records
        self._catalogue = ContainerCatalogue(records, LISTING, "session", SessionNotFound)

    def set_lifetime(
        self,
        session_id: str,
        *,
        idle: timedelta | None = None,
        absolute: timedelta | None = None,
    ) -> None:
        """Say how long the session lives, in place of all that was said before.

        It is absent at once where that time is over. The sweep of retention takes what is absent
        out of the database.

        >>> monday = scope.sessions.create("monday")
        >>> scope.sessions.set_lifetime("monday", idle=timedelta(days=30))
        >>> session = scope.sessions.get("monday")
        >>> session.expires - session.last_activity
        datetime.timedelta(days=30)

        Args:
            session_id: Which session.
            idle: After the last message, a microsecond or more; ``None`` for ever.
            absolute: After it was made; ``None`` for ever.

        Raises:
            SessionNotFound: This scope has no such session.
            TypeError: One is no `timedelta`.
            ValueError: One is below a microsecond.
        """
        self._catalogue.set_lifetime(checked_id("session_id", session_id), idle, absolute)

    async def aset_lifetime(
        self,
        session_id: str,
        *,
        idle: timedelta | None = None,
        absolute: timedelta | None = None,
    ) -> None:
        """Say how long the session lives; see :meth:`set_lifetime`."""
        await self._records.arun(self.set_lifetime, session_id, idle=idle, absolute=absolute)

    @observed("update_memory", "session", one)
    def set_channel_limits(self, session_id: str, limits: Mapping[str, int] | None) -> None:
        """Keep so many messages of each channel in the session, and remove the oldest beyond.

        From now on the oldest drops out in the transaction of the message that is one too many.
        What is said without a channel, or in one that is not named, stays. A message that dropped
        out is not found by its id any more: if it is sent again, it is stored again.

        Args:
            session_id: Which session.
            limits: By the channel, 1 or more each; an empty dict limits none. ``None`` for those of
                the memory's ``session_rules`` again.

        Raises:
            SessionNotFound: This scope has no such session.
            ScopeError: The name of a channel is malformed.
            TypeError: It is no dict, or a number no whole number.
            ValueError: A number is below 1.
            RecordDoesNotOpen: A message was changed, moved, removed, or put into another channel.
        """
        checked_id("session_id", session_id)
        wanted = None if limits is None else checked_channel_limits(limits)
        is_done: bool | None = False
        while is_done is False:
            # Each transaction removes some hundred messages, so that no other writer waits long.
            is_done = self._records.write_if_exists(
                writing.limit_channels,
                None,
                session_id,
                wanted,
                self._records.session_rules,
                now(),
            )
        if is_done is None:
            raise SessionNotFound

    async def aset_channel_limits(self, session_id: str, limits: Mapping[str, int] | None) -> None:
        """Keep so many messages of each channel; see :meth:`set_channel_limits`."""
        await self._records.arun(self.set_channel_limits, session_id, limits)

    def close(self, session_id: str) -> None:
        """Take no more messages: adding one raises ``SessionClosed``. It is read as before.

        >>> session_id = scope.sessions.create()
        >>> scope.sessions.close(session_id)
        >>> scope.chat_history(session_id).add_user_message("One more thing")
        Traceback (most recent call last):
        langmem_isolated.errors.SessionClosed: The session is closed and takes no more messages. ...
        >>> scope.sessions.reopen(session_id)

        Raises:
            SessionNotFound: This scope has no such session.
        """
        self._catalogue.mark(checked_id("session_id", session_id), is_closed=True)

    async def aclose(self, session_id: str) -> None:
        """Take no more messages; see :meth:`close`."""
        await self._records.arun(self.close, session_id)

    def reopen(self, session_id: str) -> None:
        """Take messages again.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        self._catalogue.mark(checked_id("session_id", session_id), is_closed=False)

    async def areopen(self, session_id: str) -> None:
        """Take messages again; see :meth:`reopen`."""
        await self._records.arun(self.reopen, session_id)

    def archive(self, session_id: str) -> None:
        """Leave the session out of lists, unless ``archived=True``; all else goes on as before.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        self._catalogue.mark(checked_id("session_id", session_id), is_archived=True)

    async def aarchive(self, session_id: str) -> None:
        """Leave the session out of lists; see :meth:`archive`."""
        await self._records.arun(self.archive, session_id)

    def unarchive(self, session_id: str) -> None:
        """List the session again.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        self._catalogue.mark(checked_id("session_id", session_id), is_archived=False)

    async def aunarchive(self, session_id: str) -> None:
        """List the session again; see :meth:`unarchive`."""
        await self._records.arun(self.unarchive, session_id)

    def pin(self, session_id: str) -> None:
        """List the session before those that are not pinned; ``max_sessions`` leaves it alone.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        self._catalogue.pin(checked_id("session_id", session_id), is_pinned=True)

    async def apin(self, session_id: str) -> None:
        """List the session first; see :meth:`pin`."""
        await self._records.arun(self.pin, session_id)

    def unpin(self, session_id: str) -> None:
        """List the session among those that are not pinned.

        Raises:
            SessionNotFound: This scope has no such session.
        """
        self._catalogue.pin(checked_id("session_id", session_id), is_pinned=False)

    async def aunpin(self, session_id: str) -> None:
        """List the session among the others; see :meth:`unpin`."""
        await self._records.arun(self.unpin, session_id)
