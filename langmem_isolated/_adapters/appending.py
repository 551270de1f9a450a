"""Appender: adds messages to one chat session, optimistically where it can."""

import os
from collections.abc import Sequence
from functools import partial

from langchain_core.messages import BaseMessage

from langmem_isolated._codecs.headers import Header, encode_header
from langmem_isolated._codecs.messages import MessageMetadata, encode_message
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database.dialects import Conflict
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.container_state import BIRTH_BYTES, ContainerState
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import writing
from langmem_isolated._storage.sessions.writing import Message, Repeated
from langmem_isolated.errors import AddressTaken


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
        self._header = encode_header(Header(session_id, channel=channel))
        self.state: ContainerState | None = None
        """How the session was seen last; appending from it saves PostgreSQL a transaction."""

    def add(
        self, messages: Sequence[BaseMessage], channel: str | None, repeated: Repeated | None
    ) -> None:
        """Add ``messages`` in their order, all or none.

        Args:
            messages: Any of langchain-core's.
            channel: Where they were said, sealed with them.
            repeated: Asked about each whose id the session has; by default it is stored again.

        Raises:
            ValueNotStorable: A message holds a value without a stored form; nothing was added.
            LimitExceeded: One is too large, or all together are; nothing was added.
            RecordDoesNotOpen: The session was tampered with.
            KeyDestroyed: The scope was erased.
            DatabaseError: The database refused or failed.
        """
        moment = now()
        said = MessageMetadata(moment, channel)
        checked = partial(self._records.limits.checked_size, "message_bytes")
        encoded = [Message(checked(encode_message(m, said)), m.id) for m in messages]
        self._records.limits.check_batch([message.plaintext for message in encoded])
        if not encoded:
            return
        placed = encoded, moment, None if channel is None else channel.encode()
        if repeated is None:
            self._add_again(*placed)
            return
        try:
            self._append(*placed, repeated, look_first=True)
        except Conflict:
            raise AddressTaken(Kind.MESSAGE.label) from None

    def _add_again(self, encoded: list[Message], moment: int, channel: bytes | None) -> None:
        placed = encoded, moment, channel
        try:
            if not self._append_optimistically(*placed):
                self._append(*placed, writing.without_alias, look_first=False)
        except Conflict:
            self._append_known(*placed)

    def _append_optimistically(
        self, encoded: list[Message], moment: int, channel: bytes | None
    ) -> bool:
        known = self.state
        if known is None:
            return False
        self.state = self._records.write_once(
            writing.append_optimistically, None, self._session_id, known, encoded, moment, channel
        )
        return self.state is not None

    def _append_known(self, encoded: list[Message], moment: int, channel: bytes | None) -> None:
        try:
            self._append(encoded, moment, channel, writing.without_alias, look_first=True)
        except Conflict:
            raise AddressTaken(Kind.MESSAGE.label) from None

    def _append(
        self,
        encoded: list[Message],
        moment: int,
        channel: bytes | None,
        repeated: Repeated,
        *,
        look_first: bool,
    ) -> None:
        self.state = self._records.write(
            writing.append,
            self._session_id,
            self._header,
            encoded,
            os.urandom(BIRTH_BYTES),
            moment,
            repeated=repeated,
            look_first=look_first,
            channel=channel,
        )
