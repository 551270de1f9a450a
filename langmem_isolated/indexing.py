"""Record manager for LangChain's `index`, isolated and encrypted."""

import math
from collections.abc import Sequence

from langchain_core.indexing import RecordManager

from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.statements import NO_LIMIT
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.arguments import whole_number
from langmem_isolated._runtime.calls import ONE_SCOPE, made_by
from langmem_isolated._runtime.clock import SECOND, now
from langmem_isolated._runtime.operations import found, given, observed, present
from langmem_isolated._storage import entries
from langmem_isolated._storage.entries import Entry, Names
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.scope import checked_id

# Times beyond, in µs, are none that a clock shows; doubles hold those before exactly.
_LAST = 2**53


@made_by(f"{ONE_SCOPE}.record_manager(name)", first=ScopedDatabase)
class IsolatedRecordManager(RecordManager):
    """What one scope has indexed, for `index` and `aindex` with that scope's vector store.

    Made by ``memory.scope(…).record_manager(name)``. Whatever `index` cleans up, it finds here: so
    no ``cleanup=`` reaches another scope's documents. Keys and sources are sealed. One object
    serves any number of threads, tasks and event loops.

    Its clock never goes back: what is recorded is later than what was recorded before and than any
    ``time_at_least``, also where machines' clocks differ. A document just indexed would otherwise
    be taken for one that is out of date, and deleted.

    >>> from langchain_core.indexing import index
    >>> notes, manager = scope.vector_store(embeddings), scope.record_manager("notes")
    >>> documents = [Document("Fractions are parts.", metadata={"source": "book"})]
    >>> options = {"cleanup": "full", "source_id_key": "source", "key_encoder": "sha256"}
    >>> index(documents, manager, notes, **options)["num_added"]
    1
    >>> index(documents, manager, notes, **options)["num_skipped"]
    1

    Args:
        records: The scope's records.
        name: 1 to 255 bytes; one for each vector store. Those of other names, and of other scopes,
            are apart.

    Raises:
        ScopeError: ``name`` is missing or malformed.
    """

    def __init__(self, records: ScopedDatabase, name: str) -> None:
        super().__init__(checked_id("name", name))
        self._records = records
        self._names = (b"indexed documents", name.encode())

    def create_schema(self) -> None:
        """Nothing to do: the memory makes its tables."""

    async def acreate_schema(self) -> None:
        """Nothing to do: the memory makes its tables."""

    @observed("search_memory", "entry")
    def get_time(self) -> float:
        """A time, in seconds, later than everything recorded and earlier than what will be."""
        time = now()
        newest = self._records.read(entries.newest, 0, self._names, time)
        return (max(time - 1, newest) + 0.5) / SECOND

    async def aget_time(self) -> float:
        """A time; see :meth:`get_time`."""
        return await self._records.arun(self.get_time)

    @observed("upsert_memory", "entry", given)
    def update(
        self,
        keys: Sequence[str],
        *,
        group_ids: Sequence[str | None] | None = None,
        time_at_least: float | None = None,
    ) -> None:
        """Record ``keys`` as indexed now.

        Args:
            keys: Of documents.
            group_ids: The source of each; without it they have none any more.
            time_at_least: If the clock has not come to this time, it is the one recorded.

        Raises:
            ValueError: There are not as many ``group_ids`` as ``keys``.
            LimitExceeded: There are more keys than ``limits`` allow.
            KeyDestroyed: The scope was erased.
            DatabaseError: The database refused or failed.
        """
        self._records.limits.check("batch_items", len(keys))
        groups = group_ids or [None] * len(keys)
        if len(groups) != len(keys):
            raise ValueError("There must be as many group_ids as keys. Nothing was written.")
        new = [
            Entry(_encoded(key), b"", _encoded(group))
            for key, group in zip(keys, groups, strict=True)
        ]
        if new:
            at_least = 0 if time_at_least is None else math.ceil(_microseconds(time_at_least))
            self._records.write(_recorded, self._names, new, at_least)

    async def aupdate(
        self,
        keys: Sequence[str],
        *,
        group_ids: Sequence[str | None] | None = None,
        time_at_least: float | None = None,
    ) -> None:
        """Record ``keys`` as indexed now; see :meth:`update`."""
        await self._records.arun(
            self.update, keys, group_ids=group_ids, time_at_least=time_at_least
        )

    @observed("search_memory", "entry", present)
    def exists(self, keys: Sequence[str]) -> list[bool]:
        """Whether each of ``keys`` is recorded.

        Raises:
            RecordDoesNotOpen: A record was changed, moved or exchanged.
        """
        encoded = self._checked(keys)
        nothing: list[bytes | None] = [None] * len(encoded)
        found = self._records.snapshot(entries.get, nothing, self._names, encoded, now())
        return [value is not None for value in found]

    async def aexists(self, keys: Sequence[str]) -> list[bool]:
        """Whether each of ``keys`` is recorded; see :meth:`exists`."""
        return await self._records.arun(self.exists, keys)

    @observed("search_memory", "entry", found)
    def list_keys(
        self,
        *,
        before: float | None = None,
        after: float | None = None,
        group_ids: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """Keys recorded last before and after these times, the times themselves left out.

        Args:
            before: A time in seconds.
            after: A time in seconds.
            group_ids: Sources; only their keys are listed, and none for an empty list.
            limit: At most so many.

        Raises:
            ValueError: ``limit`` is negative.
            RecordDoesNotOpen: A record was changed, moved or exchanged.
        """
        found = self._records.snapshot(
            entries.updated_between,
            [],
            self._names,
            after=-1 if after is None else math.floor(_microseconds(after)),
            before=_LAST + 1 if before is None else math.ceil(_microseconds(before)),
            tags=None if group_ids is None else self._checked(group_ids),
            limit=NO_LIMIT if limit is None else min(whole_number("limit", limit), NO_LIMIT),
            now=now(),
        )
        return [*map(decode_value, found)]

    async def alist_keys(
        self,
        *,
        before: float | None = None,
        after: float | None = None,
        group_ids: Sequence[str] | None = None,
        limit: int | None = None,
    ) -> list[str]:
        """Keys recorded between two times; see :meth:`list_keys`."""
        return await self._records.arun(
            self.list_keys, before=before, after=after, group_ids=group_ids, limit=limit
        )

    @observed("delete_memory", "entry", given)
    def delete_keys(self, keys: Sequence[str]) -> None:
        """Forget ``keys``, where they are recorded."""
        self._records.write_if_exists(entries.remove, None, self._names, self._checked(keys))

    def _checked(self, names: Sequence[str]) -> list[bytes]:
        return self._records.limits.checked_count("ids", [*map(_encoded, names)])

    async def adelete_keys(self, keys: Sequence[str]) -> None:
        """Forget ``keys``; see :meth:`delete_keys`."""
        await self._records.arun(self.delete_keys, keys)


def _recorded(
    transaction: Transaction, keys: ScopeKeys, names: Names, new: list[Entry], at_least: int
) -> None:
    time = now()
    newest = entries.newest(transaction, keys, names, time)
    entries.put(transaction, keys, names, new, max(time, newest + 1, at_least))


def _encoded(name: str | None) -> bytes:
    return encode_value(name, "a key or a source of an index")


def _microseconds(seconds: float) -> float:
    return min(max(seconds * SECOND, 0), _LAST)
