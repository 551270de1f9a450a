"""Inbox messages: what waits for a locked user, and how it comes into its session at unlock."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from typing import NamedTuple

from langmem_isolated._adapters.message_ids import left_out
from langmem_isolated._codecs.headers import Header, encode_header
from langmem_isolated._codecs.messages import (
    MessageMetadata,
    decode_message_with_metadata,
    encode_message,
)
from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._codecs.versions import later_form
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.session_rules import SessionRules
from langmem_isolated._storage import inbox
from langmem_isolated._storage.container_state import BIRTH_BYTES
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.sessions import writing
from langmem_isolated._storage.sessions.beginning import NewSession
from langmem_isolated._storage.sessions.listing import ROWS, session_digest
from langmem_isolated._storage.sessions.writing import Message, Repeated
from langmem_isolated._storage.usage import Use
from langmem_isolated._storage.working_locked import works_locked
from langmem_isolated.errors import MemoryLocked, RecordDoesNotOpen, SessionClosed

_log = logging.getLogger("langmem_isolated.sessions")

_FORM = b"\x01"


class Said(NamedTuple):
    """How some messages were said: all that stands beside them in one call."""

    session_id: str
    session_channel: str | None
    """Of the session, if the messages begin it."""
    channel: str | None
    moment: int
    is_idempotent: bool
    """Whether those that the session has, word for word, are left out."""
    place: str = ""
    behind: int = -1
    """As `left_out` takes them."""

    @classmethod
    def by(
        cls,
        session_id: str,
        session_channel: str | None,
        channel: str | None,
        moment: int,
        repeated: Repeated | None,
    ) -> Said:
        """Of a call that treats messages whose ids are known as ``repeated`` says."""
        ours = getattr(repeated, "keywords", {})
        idempotent = repeated is not None
        return cls(session_id, session_channel, channel, moment, idempotent, **ours)

    @property
    def repeated(self) -> Repeated:
        """What is done with a message whose id the session has."""
        if not self.is_idempotent:
            return writing.without_alias
        return partial(left_out, place=self.place, behind=self.behind)


def let_wait(records: ScopedDatabase, said: Said, messages: Sequence[Message]) -> None:
    """Put messages for a locked user into the inbox, in their order, all or none.

    Raises:
        SessionClosed: The session takes no more; nothing was stored.
        MemoryLocked: The user has no inbox.
        KeyDestroyed: The scope was erased.
        RecordDoesNotOpen: The session's row, or the inbox, was tampered with.
    """
    waiting = [_encoded(said, message) for message in messages]
    records.write(_put, said.session_id, waiting, os.urandom(BIRTH_BYTES), said.moment)
    # Unlocked, or for good, since it was tried: who did that has emptied the inbox already.
    if not records.write(_is_locked):
        with suppress(MemoryLocked):
            collect(records, records.inbox_keys())


@works_locked
def _is_locked(_: Transaction, keys: ScopeKeys) -> bool:
    return keys.is_locked


@works_locked
def _put(
    transaction: Transaction,
    keys: ScopeKeys,
    session_id: str,
    waiting: Sequence[bytes],
    birth: bytes,
    now: int,
) -> None:
    digest = session_digest(keys, session_id)
    state = ROWS.locked(transaction, keys, digest)
    if state is not None and state.is_closed and not state.is_expired(now):
        raise SessionClosed
    inbox.put(transaction, keys, digest, waiting, birth, now)


def collect(
    records: ScopedDatabase,
    private: Sequence[SecretBytes],
    told: Callable[[int], object] = lambda _: None,
) -> tuple[int, int]:
    """Bring what waits in the inbox of a scope into its sessions.

    A batch of each session is one transaction: killed between two, the rest waits.

    Args:
        records: The scope's.
        private: The keys of the user's inbox, the latest first.
        told: How many messages were brought so far, behind each batch.

    Returns:
        How many messages it was, and of how many sessions the inbox was tampered with: it stays.

    Raises:
        MemoryLocked: The user is locked again.
    """
    done = damaged = 0
    for digest, count in records.read(inbox.waiting, []):
        left = count
        try:
            while left:
                taken, left = records.write(_take, digest, private, records.session_rules)
                done += taken
                told(done)
        except RecordDoesNotOpen:
            # Nobody is kept out of their own memory by what a stranger put into the inbox.
            _log.error("An inbox was tampered with: scope %s.", records.keys().scope_id.hex())
            damaged += 1
    return done, damaged


def _take(
    transaction: Transaction,
    keys: ScopeKeys,
    digest: bytes,
    private: Sequence[SecretBytes],
    rules: SessionRules,
) -> tuple[int, int]:
    # In the order of who says something: the session's row, and then that of its inbox.
    ROWS.locked(transaction, keys, digest)
    append = partial(_append, transaction, keys, rules)
    return inbox.take(transaction, keys, digest, private, append)


def _append(
    transaction: Transaction, keys: ScopeKeys, rules: SessionRules, opened: Sequence[bytes]
) -> None:
    for said, messages in _calls(opened):
        header = encode_header(Header(said.session_id, channel=said.session_channel))
        writing.append(
            transaction,
            keys,
            said.session_id,
            NewSession(header, os.urandom(BIRTH_BYTES), rules),
            messages,
            said.moment,
            repeated=said.repeated,
            look_first=True,
            retimed=partial(_retimed, messages, said.channel),
            channel=None if said.channel is None else said.channel.encode(),
            even_closed=True,
        )


def _calls(opened: Sequence[bytes]) -> Iterator[tuple[Said, list[Message]]]:
    """Messages as they were said, those of one call together."""
    decoded = map(_decoded, opened)
    for said, group in groupby(decoded, key=lambda one: one[0]):
        yield said, [message for _, message in group]


def _retimed(messages: Sequence[Message], channel: str | None, moment: int) -> list[Message]:
    metadata = MessageMetadata(moment, channel)
    return [
        one._replace(
            plaintext=encode_message(decode_message_with_metadata(one.plaintext)[0], metadata)
        )
        for one in messages
    ]


def _encoded(said: Said, message: Message) -> bytes:
    plaintext, message_id, use = message
    parts = [*said], plaintext, message_id, None if use is None else [*use]
    return _FORM + encode_value([*parts], "a waiting message")


def _decoded(plaintext: bytes) -> tuple[Said, Message]:
    if plaintext[:1] != _FORM:
        raise later_form("waiting message", plaintext[:1], _FORM)
    said, message, message_id, use = decode_value(plaintext[1:])
    return Said(*said), Message(message, message_id, None if use is None else Use(*use))
