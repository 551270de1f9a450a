"""Opened elements: those of threads used last, kept in the plaintext cache where there is one."""

from collections.abc import Mapping
from sys import getsizeof
from types import MappingProxyType

from langmem_isolated._codecs.checkpoints.decoder import OpenedElement
from langmem_isolated._codecs.messages import decode_prototype
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.database import Database
from langmem_isolated._runtime.plaintext_cache import Key, PlaintextCache
from langmem_isolated._storage.container_state import ContainerState

NONE: Mapping[int, OpenedElement] = MappingProxyType({})
# Of a dict's entry, beside its bytes: the number, the header of the bytes, and the slot. Of that of
# a message taken apart, beside its values: the message's dict, too.
_ENTRY_BYTES, _PROTOTYPE_BYTES = 128, 288


class OpenedElements:
    """Elements of threads as they were opened, for one call; without a cache there are none.

    An element never changes in a thread's life, and a number is given once. So what was opened
    stands for its row as long as birth and generation, which the thread's row tells at each read
    under its MAC, are the same, and no commit can have been lost. Plaintexts are kept, and messages
    taken apart: each read makes objects of its own, and what it shares nobody can change.

    Args:
        cache: Where they stay. What was opened with keys that were taken back since this was made
            does not get there.
        database: Whose history says whether a commit may have been lost.
    """

    def __init__(self, cache: PlaintextCache | None, database: Database) -> None:
        self._cache, self._database = cache, database
        if cache is not None:
            self._begun_in, self._epoch = database.history, cache.epoch

    def of(
        self, keys: ScopeKeys, digest: bytes, state: ContainerState
    ) -> Mapping[int, OpenedElement]:
        """Those of a thread that is in ``state``, by number; others may add to them meanwhile."""
        if self._cache is None:
            return NONE
        kept: Mapping[int, OpenedElement] | None = self._cache.get(
            _key(keys, digest), _token(state, self._database.history)
        )
        if not kept:
            return NONE
        if max(kept) >= state.next_sequence:
            # An older state was put back: it will give these numbers to others.
            self.drop(keys, digest)
            return NONE
        return kept

    def keep(
        self, keys: ScopeKeys, digest: bytes, state: ContainerState, elements: Mapping[int, bytes]
    ) -> None:
        """Keep elements of a thread that is in ``state``."""
        if self._cache is not None and elements:
            token = _token(state, self._begun_in)
            parts = {number: _part(plaintext) for number, plaintext in elements.items()}
            self._cache.merge(_key(keys, digest), token, parts, self._epoch)

    def drop(self, keys: ScopeKeys, digest: bytes) -> None:
        """Let go of those of a thread."""
        if self._cache is not None:
            self._cache.drop(_key(keys, digest))


def _part(plaintext: bytes) -> tuple[OpenedElement, int]:
    """What is kept of an element, and about how many bytes it has."""
    prototype = decode_prototype(plaintext)
    if prototype is None:
        return plaintext, _ENTRY_BYTES + len(plaintext)
    # Text takes up to four bytes a character as soon as one of them needs so many.
    values = sum(map(getsizeof, prototype.values.values()))
    return prototype, _PROTOTYPE_BYTES + values + len(prototype.packed)


def _key(keys: ScopeKeys, digest: bytes) -> Key:
    return keys.scope_id, keys.birth, ("elements", digest)


def _token(state: ContainerState, history: object) -> tuple[bytes, bytes, object]:
    return state.birth, state.generation, history
