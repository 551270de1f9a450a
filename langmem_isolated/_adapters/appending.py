"""Appender: adds messages to one chat session, optimistically where it can."""

import logging
import os
from collections.abc import Callable, Sequence
from typing import NamedTuple

from langchain_core.messages import BaseMessage

from langmem_isolated._adapters.inbox_messages import Said, let_wait
from langmem_isolated._adapters.token_use import use_of
from langmem_isolated._codecs.headers import Header, encode_header
from langmem_isolated._codecs.messages import MessageMetadata, encode_message
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._runtime.clock import now, witness
from langmem_isolated._runtime.operations import given, observed
from langmem_isolated._storage.container_state import BIRTH_BYTES, ContainerState
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import writing
from langmem_isolated._storage.sessions.beginning import NewSession
from langmem_isolated._storage.sessions.writing import Message, Repeated
from langmem_isolated._storage.usage import Use
from langmem_isolated.errors import AddressTaken, MemoryLocked

_log = logging.getLogger("langmem_isolated.sessions")


def tell_begun(records: ScopedDatabase) -> None:
    """Log that a session was begun, and in which scope."""
    _log.info("A session was begun: scope %s.", records.keys().scope_id.hex())


class Appender:
    """Adds messages to one session of a scope.

    Args:
        records: The scope's records.
        session_id: Which session; it is made with its first message.
        channel: Of the session, if it is made here.
    """

    def __init__(self, records: ScopedDatabase, session_id: str, channel: str | None) -> None:
        self._records = records
        self._session_id = session_id
        self._session_channel = channel
        self._header = encode_header(Header(session_id, channel=channel))
        self._state: ContainerState | None = None
        self.counts_people = False
        """Whether what people say is counted: a quota limits it."""

    @property
    def state(self) -> ContainerState | None:
        """How the session was seen last; appending from it saves PostgreSQL a transaction."""
        return self._state

    @state.setter
    def state(self, seen: ContainerState | None) -> None:
        # What is said from now on follows what was seen, whatever this machine's clock shows.
        if seen is not None:
            witness(seen.updated_at)
        self._state = seen

    @observed("create_memory", "message", given)
    def add(
        self, messages: Sequence[BaseMessage], channel: str | None, repeated: Repeated | None
    ) -> None:
        """Add ``messages`` in their order, all or none; those to a locked user to the inbox.

        Args:
            messages: Any of langchain-core's.
            channel: Where they were said, sealed with them.
            repeated: Asked about each whose id the session has; by default it is stored again.

        Raises:
            ValueNotStorable: A message holds a value without a stored form; nothing was added.
            LimitExceeded: One is too large, or all together are; nothing was added.
            SessionClosed: The session takes no more messages; nothing was added.
            RecordDoesNotOpen: The session was tampered with.
            KeyDestroyed: The scope was erased.
            DatabaseError: The database refused or failed.
        """
        if not messages:
            return
        said = _Said.now(messages, channel, self._use_of)
        self._check_limits(said.encoded)
        try:
            if repeated is not None:
                self._append(said, repeated, look_first=True)
            elif not self._append_optimistically(said):
                self._append(said, writing.without_alias, look_first=False)
        except Conflict:
            self._append_known(said, repeated or writing.without_alias)
        except MemoryLocked:
            self._let_wait(said, repeated)

    def _let_wait(self, said: "_Said", repeated: Repeated | None) -> None:
        """Put messages into the inbox of a user who alone has the keys; the state is not known."""
        self.state = None
        names = self._session_id, self._session_channel, said.channel, said.moment
        let_wait(self._records, Said.by(*names, repeated), said.encoded)

    def _use_of(self, message: BaseMessage) -> Use | None:
        return use_of(message, self._records.model_digest, counts_people=self.counts_people)

    def _check_limits(self, encoded: Sequence[Message]) -> None:
        limits, plaintexts = self._records.limits, [message.plaintext for message in encoded]
        limits.check("message_bytes", max(map(len, plaintexts)))
        limits.check_batch(plaintexts)

    def _append_optimistically(self, said: "_Said") -> bool:
        known = self._state
        if known is None or (known.channels is None and self._records.session_rules.channel_limits):
            return False
        # What is counted besides is another statement.
        door = self._records.write_once if said.is_free else self._records.write_if_exists
        # Of this clock's own time: there is nothing to witness.
        self._state = door(
            writing.append_optimistically, None, self._session_id, known,
            said.encoded, said.moment, said.channel_bytes,
        )  # fmt: skip
        return self._state is not None

    def _append_known(self, said: "_Said", repeated: Repeated) -> None:
        try:
            self._append(said, repeated, look_first=True)
        except Conflict:
            # Among rows that an erasure is removing, a number may be taken.
            self._records.refuse_if_erased()
            raise AddressTaken(Kind.MESSAGE.label) from None

    def _append(self, said: "_Said", repeated: Repeated, *, look_first: bool) -> None:
        birth = os.urandom(BIRTH_BYTES)
        state = self.state = self._records.write(
            writing.append,
            self._session_id,
            NewSession(self._header, birth, self._records.session_rules),
            said.encoded,
            said.moment,
            repeated=repeated,
            look_first=look_first,
            retimed=said.at,
            channel=said.channel_bytes,
        )
        if state.birth == birth:
            tell_begun(self._records)


class _Said(NamedTuple):
    """Messages with one time and channel sealed in each."""

    messages: Sequence[BaseMessage]
    channel: str | None
    moment: int
    uses: list[Use | None]
    encoded: list[Message]

    @classmethod
    def now(
        cls,
        messages: Sequence[BaseMessage],
        channel: str | None,
        use: Callable[[BaseMessage], Use | None],
    ) -> "_Said":
        """Messages that are said now, and what each counts for."""
        moment, uses = now(), [*map(use, messages)]
        encoded = _encoded(messages, uses, MessageMetadata(moment, channel))
        return cls(messages, channel, moment, uses, encoded)

    @property
    def is_free(self) -> bool:
        """Whether no message counts for anything."""
        return not any(self.uses)

    def at(self, moment: int) -> list[Message]:
        """The same messages, said at another time."""
        return _encoded(self.messages, self.uses, MessageMetadata(moment, self.channel))

    @property
    def channel_bytes(self) -> bytes | None:
        """The channel as it is digested."""
        return None if self.channel is None else self.channel.encode()


def _encoded(
    messages: Sequence[BaseMessage], uses: Sequence[Use | None], said: MessageMetadata
) -> list[Message]:
    return [
        Message(encode_message(message, said), message.id, use)
        for message, use in zip(messages, uses, strict=True)
    ]
