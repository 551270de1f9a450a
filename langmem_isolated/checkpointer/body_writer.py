"""Body writer: stores one body of a thread, by compare-and-swap where its state is known."""

import os
from collections.abc import Callable
from functools import partial
from typing import Any

from langmem_isolated._codecs.checkpoints.element_cache import ElementCache, ElementCaches
from langmem_isolated._codecs.checkpoints.encoder import Encoder
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.headers import Header, encode_header
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.container_state import BIRTH_BYTES, GENERATION_BYTES
from langmem_isolated._storage.containers import Beginning
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated._storage.threads import writing
from langmem_isolated._storage.threads.addresses import Slot, mac_of
from langmem_isolated._storage.threads.writing import NewBody, NewThread, Stored
from langmem_isolated.checkpointer.arguments import Lifetimes
from langmem_isolated.checkpointer.new_bodies import new_body, run_of
from langmem_isolated.checkpointer.opened_elements import OpenedElements
from langmem_isolated.checkpointer.write_chain import MOST_ROWS, WaitingWrite, WriteChain
from langmem_isolated.errors import RecordDoesNotOpen

Encode = Callable[[Encoder], bytes]


class BodyWriter:
    """Stores the body at one slot, in any number of attempts.

    Args:
        records: Of the scope.
        known: What this process knows of threads' elements.
        opened: What it has of them opened.
        serde: Which types may be stored.
        lifetimes: Of threads.
        keys: Of the scope, as this call found them.
        thread_id: Of the thread.
        slot: Where the body stands.
        tag: Of a checkpoint: what finds its run.
    """

    __slots__ = (
        *("_digest", "_keys", "_known", "_lifetimes", "_opened", "_records", "_serde", "_slot"),
        *("_tag", "_thread_id"),
    )

    def __init__(
        self,
        records: ScopedDatabase,
        known: ElementCaches,
        opened: OpenedElements,
        serde: Serde,
        lifetimes: Lifetimes,
        keys: ScopeKeys,
        thread_id: str,
        slot: Slot,
        tag: bytes | None = None,
    ) -> None:
        self._records, self._known, self._opened = records, known, opened
        self._serde, self._lifetimes, self._keys = serde, lifetimes, keys
        self._thread_id, self._slot, self._tag = thread_id, slot, tag
        self._digest = slot.thread_digest

    def store(self, encode: Encode, replaces: bytes | None = None) -> bool:
        """Try once; ``False`` when the thread was swept, or the body to replace changed.

        Args:
            encode: Gives the body.
            replaces: See :class:`NewBody`.

        Raises:
            Conflict: A body stands there already, and none was to be replaced.
        """
        keys, digest, known = self._keys, self._digest, self._known_or_new()
        encoder = Encoder(known, lambda plaintext: mac_of(keys, digest, plaintext), self._serde)
        packed, limits = encode(encoder), self._records.limits
        body = new_body(encoder, packed, self._slot, self._tag, replaces, limits)
        moment, idle = now(), self._lifetimes.idle
        expires_at = None if idle is None else moment + idle
        stored = self._put_if_unchanged(body, known, moment, expires_at)
        if stored is None:
            # A body without numbers that were known before is right in any generation.
            has_known = encoder.chunks or any(type(one) is range for one in encoder.references)
            found_in = known if has_known else None
            stored = self._put_locked(body, found_in, moment, expires_at)
            if stored is None:
                self._known.forget(digest)
                return False
            known = self._begin_chain(stored, known.history)
        for fingerprint, reference in encoder.seen:
            known.put(fingerprint, run_of(reference, stored.numbers).start)
        if body.elements:
            new = {stored.numbers[mac]: plaintext for mac, plaintext in body.elements}
            self._opened.keep(keys, digest, stored.state, new)
        return True

    def _known_or_new(self) -> ElementCache:
        """What is known of the thread; one of which nothing is known is taken to be new."""
        known = self._known.last(self._digest, self._records.database.history)
        if known.chain is None:
            new = self._new_thread()
            known = ElementCache(new.birth[:GENERATION_BYTES], known.history)
            known.chain = WriteChain.of_new(known, new, self._keys)
            known = self._known.last_or(self._digest, known)
        return known

    def _new_thread(self) -> NewThread:
        beginning = Beginning(absolute_lifetime=self._lifetimes.absolute)
        header = encode_header(Header(self._thread_id))
        return NewThread(header, os.urandom(BIRTH_BYTES), beginning)

    def _put_if_unchanged(
        self, body: NewBody, known: ElementCache, now: int, expires_at: int | None
    ) -> Stored | None:
        """Try to store onto the state that this process knows of the thread."""
        chain: WriteChain | None = known.chain
        if body.replaces is not None or chain is None:
            return None
        if not chain.may_store(self._lifetimes.absolute):
            return None
        records, write = self._records, WaitingWrite(self._keys, body, now, expires_at)
        if records.is_postgres and write.rows > MOST_ROWS:
            return None
        run = partial(records.run_with_keys, self._keys, records.database.write_once)
        return chain.store(write, run)

    def _put_locked(
        self, body: NewBody, found_in: ElementCache | None, now: int, expires_at: int | None
    ) -> Stored | None:
        """Store under the lock of the thread's row, whatever its state is by now."""
        database = self._records.database

        def store(*args: Any) -> Stored | None:
            is_past = found_in and found_in.history != database.history
            return None if is_past else writing.put(*args)

        try:
            return self._records.run_with_keys(
                self._keys,
                database.write,
                store,
                self._digest,
                self._new_thread(),
                body,
                found_in.generation if found_in else b"",
                now,
                expires_at,
            )
        except Conflict:
            if body.replaces is None:
                raise
            raise RecordDoesNotOpen(
                Kind.ELEMENT.label, "one stands where the thread's next belongs"
            ) from None

    def _begin_chain(self, stored: Stored, history: object) -> ElementCache:
        """Go on from what was stored under the lock; what is known of the thread by now."""
        known = self._known.of(self._digest, stored.state.generation, history)
        WriteChain.of(known).begin(stored.state, self._keys)
        for mac, number in stored.numbers.items():
            known.put_mac(mac, number)
        return known
