"""Erasure: destroys a user's keys, removes every row, and says in a receipt what that proves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Literal

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import callback
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.clock import EPOCH, as_moment, now
from langmem_isolated._storage.key_sets import KeySet, Purpose, State
from langmem_isolated._storage.removal import remove_rows
from langmem_isolated._storage.scope_rows import ScopeRow
from langmem_isolated.lifecycle.retention import holds
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.retention.sweeping import Progress

Heap = Literal["scrubbed", "pending"]
"""Whether bytes of what was removed may be left in the database's own files."""

_SQLITE_PENDING = (
    "The database's log still holds bytes of it, sealed with keys that are destroyed: somebody was "
    "reading. To complete it: memory.finish_erasure()."
)
_POSTGRES_PENDING = (
    "PostgreSQL keeps removed rows and wrapped keys in dead tuples, its log and its replicas until "
    "it writes over them."
)
_NOT_PROVED = (
    "Backups, replicas and snapshots made before hold the wrapped keys: the root key opens them.",
    "Third-party vector stores were not asked: each module's wrapped store has its own clear().",
    "Other processes go on in third-party stores for key_cache_seconds, with the keys they had.",
    "What the application, its logs or a model's provider kept is not known here.",
)


@dataclass(frozen=True, slots=True)
class ErasureReceipt:
    """What an erasure did, and what that does not prove; it names nobody."""

    principal: str
    """By which the tables knew the user: a keyed digest, in hex."""
    erased_at: datetime
    keys_destroyed: int
    """By this call; 0 where another one did it, or there were none."""
    root_key_ids: tuple[str, ...]
    """Of what had wrapped them: copies made before open with these root keys."""
    scopes: int
    """How many modules and shared spaces were removed."""
    counts: dict[str, int]
    """How many records, sessions, threads and collections this call removed, by kind."""
    heap: Heap
    is_postgres: bool

    @property
    def does_not_prove(self) -> tuple[str, ...]:
        """What it does not prove, in sentences."""
        if self.heap == "scrubbed":
            return _NOT_PROVED
        return (_POSTGRES_PENDING if self.is_postgres else _SQLITE_PENDING, *_NOT_PROVED)

    def to_dict(self) -> dict[str, object]:
        """All of it, with what it does not prove."""
        return asdict(self) | {"does_not_prove": self.does_not_prove}

    def to_json(self) -> str:
        """All of it, as a JSON object on one line."""
        return json.dumps(self.to_dict(), default=datetime.isoformat)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"Erased at {self.erased_at:%Y-%m-%d %H:%M:%S} UTC: principal {self.principal}"
        yield f"Keys destroyed: {self.keys_destroyed}"
        yield f"Scopes removed: {self.scopes}"
        yield from (f"  {kind}: {count}" for kind, count in sorted(self.counts.items()))
        yield f"Bytes in the database's files: {self.heap}"
        yield "It does not prove:"
        yield from (f"- {sentence}" for sentence in self.does_not_prove)


@explains_calls
class Erasures:
    """Erasure, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    def erase_user(
        self, user_id: str, *, project_id: str = "default", progress: Progress | None = None
    ) -> ErasureReceipt:
        """Erase a user: destroy the keys, remove all rows of all modules, and give a receipt.

        The keys go first, so nothing opens from then on; then rows of every kind, at most 500 a
        transaction, with sessions, grants, policies and usage. On SQLite the log is emptied
        besides: no byte of the user's rows and wrapped keys is left in the database's files, unless
        the receipt says ``"pending"``. Killed at any point, it goes on when it is called again.
        Other processes write nothing of the user to this database any more, and find nothing in it.
        Whoever comes back under the id is new.

        Documents in third-party vector stores are found by the user's keys: clear them before, by
        ``scope.vector_store(wrapping=…).clear()`` in each module. Other processes that have the
        keys in memory read and write there for ``key_cache_seconds`` yet.

        >>> memory.scope(user_id="zoe", module_id="tutor").store().put(("facts",), "one", {"n": 1})
        >>> receipt = memory.erase_user("zoe")
        >>> receipt.counts, receipt.keys_destroyed
        ({'item': 1}, 2)

        Args:
            user_id: Who.
            project_id: In which project; the same id in another is another user.
            progress: Told after each batch how many records have been removed so far.

        Raises:
            ScopeError: An id is malformed.
            TypeError: ``progress`` is no function.
            LegalHold: The user is on legal hold; nothing was removed.
            RecordDoesNotOpen: The user's keys or the row of a scope were tampered with; what was
                removed before that is removed.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        project = checked_id("project_id", project_id)
        user = Owner(Level.USER, project, checked_id("user_id", user_id))
        if progress is not None:
            callback("progress", progress, example="progress=lambda removed: print(removed)")
        holds.check(self._context, user_id, project)
        return _Erasure(self._context, user, progress or (lambda _: None)).run()

    async def aerase_user(
        self, user_id: str, *, project_id: str = "default", progress: Progress | None = None
    ) -> ErasureReceipt:
        """Erase a user; see :meth:`erase_user`."""
        return await self._context.database.arun(
            self.erase_user, user_id, project_id=project_id, progress=progress
        )

    def finish_erasure(self) -> Heap:
        """SQLite: leave no byte of what was removed in the files, for receipts that say pending.

        Returns:
            ``"pending"`` where somebody still reads what was there before, and always on
            PostgreSQL, which decides itself when it writes over removed rows.

        Raises:
            DatabaseError: The database refused or failed.
        """
        return _scrubbed(self._context)

    async def afinish_erasure(self) -> Heap:
        """Leave no byte of what was removed; see :meth:`finish_erasure`."""
        return await self._context.database.arun(self.finish_erasure)


class _Erasure:
    """One erasure of one principal."""

    def __init__(self, context: MemoryContext, owner: Owner, progress: Progress) -> None:
        self._context, self._owner, self._progress = context, owner, progress
        self._removed = 0

    def run(self) -> ErasureReceipt:
        context, moment = self._context, as_moment(now()) or EPOCH
        destroyed = context.keyring.destroy(self._owner)
        counts, scopes = self._rows_removed(_last_life(destroyed))
        if context.plaintext_cache:
            context.plaintext_cache.clear()
        living = [key for key in destroyed.keys if key.state != State.DESTROYED]
        return ErasureReceipt(
            principal=destroyed.principal.hex(),
            erased_at=moment,
            keys_destroyed=len(living),
            root_key_ids=_root_keys_of(destroyed),
            scopes=len(scopes),
            counts={kind.label: count for kind, count in sorted(counts.items())},
            heap=_scrubbed(context),
            is_postgres=context.database.is_postgres,
        )

    def _rows_removed(self, last_life: int) -> tuple[Counter[Kind], set[bytes]]:
        counts, scopes = Counter[Kind](), set[bytes]()
        while rows := self._rows_until(last_life):
            for row in rows:
                counts += remove_rows(self._context.database, row, self._tell)
                scopes.add(row.scope_id)
        return counts, scopes

    def _rows_until(self, last_life: int) -> list[ScopeRow]:
        """Those of the lives that ended; another erasure may have let the user come back."""
        rows = self._context.keyring.scopes_of(self._owner)
        return [row for row in rows if row.incarnation <= last_life]

    def _tell(self, removed: int) -> None:
        self._removed += removed
        self._progress(self._removed)


def _last_life(destroyed: KeySet) -> int:
    return max((key.version for key in destroyed.keys if key.purpose == Purpose.NAMING), default=0)


def _root_keys_of(destroyed: KeySet) -> tuple[str, ...]:
    return tuple(sorted({key.root_key_id for key in destroyed.keys}))


def _scrubbed(context: MemoryContext) -> Heap:
    logs = [context.database.truncate_log(), context.keyring.truncate_log()]
    return "scrubbed" if all(logs) else "pending"
