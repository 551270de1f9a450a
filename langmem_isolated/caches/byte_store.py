"""Byte store of LangChain, isolated and encrypted."""

from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial

from langchain_core.stores import BaseStore

from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._runtime.arguments import kind_of, refuse_single
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import given, observed, present
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import ValueNotStorable
from langmem_isolated.scope import checked_id

_BYTES_ALONE = "it stores bytes alone"
# A page of embeddings of 1,536 numbers is 1.5 MB.
_PAGE = 256


@made_by(f'{ONE_SCOPE}.byte_store("parents")', first=ScopedDatabase)
class IsolatedByteStore(BaseStore[str, bytes]):
    """A scope's bytes under keys, for `CacheBackedEmbeddings`, `create_kv_docstore` and others.

    Made by ``memory.scope(…).byte_store(name)``. Keys and values are sealed. One object serves any
    number of threads, tasks and event loops.

    >>> parents = scope.byte_store("parents")
    >>> parents.mset([("chapter-1", b"Fractions are parts.")])
    >>> parents.mget(["chapter-1", "chapter-2"])
    [b'Fractions are parts.', None]

    Args:
        records: The scope's records.
        name: 1 to 255 bytes; stores of other names, and of other scopes, are apart.

    Raises:
        ScopeError: ``name`` is missing or malformed.
    """

    def __init__(self, records: ScopedDatabase, name: str) -> None:
        self._records = records
        self._names = (b"byte store", checked_id("name", name).encode())

    @observed("search_memory", "entry", present)
    def mget(self, keys: Sequence[str]) -> list[bytes | None]:
        """The value under each key, or ``None``.

        Raises:
            RecordDoesNotOpen: A value was changed, moved or exchanged.
            LimitExceeded: There are more keys than ``limits`` allow.
            DatabaseError: The database refused or failed.
        """
        encoded = self._checked_keys(keys)
        nothing: list[bytes | None] = [None] * len(encoded)
        door = self._records.read if len(encoded) == 1 else self._records.snapshot
        return door(entries.get, nothing, self._names, encoded, now())

    async def amget(self, keys: Sequence[str]) -> list[bytes | None]:
        """The value under each key; see :meth:`mget`."""
        return await self._records.arun(self.mget, keys)

    @observed("upsert_memory", "entry", given)
    def mset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Store values in place of what stands under their keys, all or none.

        Raises:
            ValueNotStorable: A value is not bytes, or a key is text with lone surrogates.
            LimitExceeded: A value, or all of them together, are beyond ``limits``.
            KeyDestroyed: The scope was erased.
            DatabaseError: The database refused or failed.
        """
        refuse_single("pairs", key_value_pairs, (), example='store.mset([("key", b"value")])')
        checked = partial(self._records.limits.checked_size, "value_bytes")
        new = [Entry(_key(key), checked(_checked(value))) for key, value in key_value_pairs]
        self._records.limits.check_batch([entry.value for entry in new])
        if new:
            self._records.write(entries.put, self._names, new, now())

    async def amset(self, key_value_pairs: Sequence[tuple[str, bytes]]) -> None:
        """Store values; see :meth:`mset`. If cancelled, they may have been stored."""
        await self._records.arun(self.mset, key_value_pairs)

    @observed("delete_memory", "entry", given)
    def mdelete(self, keys: Sequence[str]) -> None:
        """Remove the values under ``keys``, where there are any."""
        encoded = self._checked_keys(keys)
        self._records.write_if_exists(entries.remove, None, self._names, encoded)

    async def amdelete(self, keys: Sequence[str]) -> None:
        """Remove values; see :meth:`mdelete`."""
        await self._records.arun(self.mdelete, keys)

    def yield_keys(self, *, prefix: str | None = None) -> Iterator[str]:
        """The keys that begin with ``prefix``, in no order, read a page at a time.

        Raises:
            RecordDoesNotOpen: A value was changed, moved or exchanged.
        """
        found, behind = self._page(b"", prefix)
        yield from found
        while behind:
            found, behind = self._page(behind, prefix)
            yield from found

    async def ayield_keys(self, *, prefix: str | None = None) -> AsyncIterator[str]:
        """The keys that begin with ``prefix``; see :meth:`yield_keys`."""
        found, behind = await self._records.arun(self._page, b"", prefix)
        for key in found:
            yield key
        while behind:
            found, behind = await self._records.arun(self._page, behind, prefix)
            for key in found:
                yield key

    def _checked_keys(self, keys: Sequence[str]) -> list[bytes]:
        refuse_single("keys", keys, (), example='["key"]')
        return self._records.limits.checked_count("ids", [*map(_key, keys)])

    @observed("search_memory", "entry", lambda page, *_: len(page[0]))
    def _page(self, behind: bytes, prefix: str | None) -> tuple[list[str], bytes]:
        """Keys of a page that begin with ``prefix``, and what the next page begins behind."""
        found, last = self._records.read(entries.page, ([], b""), self._names, behind, _PAGE, now())
        return [key for key in map(decode_value, found) if key.startswith(prefix or "")], last


def _key(key: object) -> bytes:
    if not isinstance(key, str):
        raise TypeError(f"A key must be a str, got {kind_of(key)}. Write its text, str(…).")
    return encode_value(key, "a key of a byte store")


def _checked(value: object) -> bytes:
    if not isinstance(value, bytes):
        raise ValueNotStorable(
            type(value).__name__, "a byte store", cause=_BYTES_ALONE, advice="Write text.encode()."
        )
    return value
