"""Notes of which third-party stores hold documents of a scope, for its erasure to clear them.

An entry of kind *store note* in the space ``"wrapped stores"`` for each store and owner tag; its
key is both, framed. Its value says whether documents there were ever sealed, by the scope's sealing
key, which must not go before they are sealed anew. It is there before the first document, and
stays: a clear of the scope's memory leaves documents elsewhere, and what is noted. The tag is the
scope's own, or that of a guest who was claimed, and whose keys are gone.
"""

from typing import NamedTuple

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._crypto.sealing import framed, unframed
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.scope_rows import lock_for_share, lock_for_update
from langmem_isolated._storage.scoped_database import prove_life
from langmem_isolated._storage.working_locked import works_locked

_SPACE = (b"wrapped stores",)
_KIND = Kind.STORE_NOTE
_SEALED = b"sealed"


class StoreNote(NamedTuple):
    """A store, and the owner tag by which it has documents."""

    store: str
    tag: str
    is_sealed: bool = False
    """Whether documents there were ever sealed."""

    def framed(self) -> bytes:
        """The key of its entry."""
        return framed(self.store.encode(), self.tag.encode())

    @classmethod
    def of(cls, entry: Entry) -> "StoreNote":
        """What an entry notes."""
        store, tag = (part.decode() for part in unframed(entry.key))
        return cls(store, tag, entry.value == _SEALED)


def note(transaction: Transaction, keys: ScopeKeys, new: StoreNote, moment: int) -> None:
    """Keep a note, unless it is there and says as much; nothing is written then.

    Raises:
        ScopeGone: The scope was erased, or is being erased; nothing was written.
    """
    # An erasure that has begun waits for it in `noted`, or it meets that erasure here.
    lock_for_share(transaction, keys.scope_id)
    prove_life(transaction, keys)
    (known,) = entries.get(transaction, keys, _SPACE, [new.framed()], moment, kind=_KIND)
    if known is None or (new.is_sealed and known != _SEALED):
        entry = Entry(new.framed(), _SEALED if new.is_sealed else b"")
        entries.put(transaction, keys, _SPACE, [entry], moment, kind=_KIND)


def noted(transaction: Transaction, keys: ScopeKeys, moment: int) -> list[StoreNote]:
    """All notes, once those that are being written are there.

    Raises:
        RecordDoesNotOpen: One was changed, moved or exchanged.
    """
    lock_for_update(transaction, keys.scope_id)
    return _all(transaction, keys, moment)


@works_locked
def notes(transaction: Transaction, keys: ScopeKeys, moment: int) -> list[StoreNote]:
    """All notes that are there by now; nothing is waited for.

    Raises:
        RecordDoesNotOpen: One was changed, moved or exchanged.
    """
    return _all(transaction, keys, moment)


@works_locked
def stores_noted(transaction: Transaction, keys: ScopeKeys, moment: int) -> list[str]:
    """The names of the stores that are noted by now; nothing is waited for.

    Raises:
        RecordDoesNotOpen: A note was changed, moved or exchanged.
    """
    return [one.store for one in notes(transaction, keys, moment)]


def take_over(
    transaction: Transaction,
    keys: ScopeKeys,
    reading: Transaction,
    source: ScopeKeys,
    moment: int,
) -> None:
    """Keep the notes of another scope, whose keys are about to go, as this one's.

    Raises:
        ScopeGone: This scope was erased; nothing was written.
    """
    if found := _all(reading, source, moment):
        taken = [Entry(one.framed(), b"") for one in found]
        entries.put(transaction, keys, _SPACE, taken, moment, kind=_KIND)


def _all(transaction: Transaction, keys: ScopeKeys, moment: int) -> list[StoreNote]:
    found = entries.all_of(transaction, keys, _SPACE, moment, kind=_KIND)
    return [StoreNote.of(entry) for entry in found]
