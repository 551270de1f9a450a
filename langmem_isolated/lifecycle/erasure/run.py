"""Run of an erasure: destroys the keys of one principal, then removes every row of its lives."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated._runtime.clock import EPOCH, as_moment, now
from langmem_isolated._storage.key_sets import KeySet, Purpose, State
from langmem_isolated._storage.removal import remove_rows
from langmem_isolated._storage.scope_rows import ScopeRow
from langmem_isolated.lifecycle.erasure.receipt import ErasureReceipt, Heap

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.retention.sweeping import Progress


def erase_owner(
    context: MemoryContext, owner: Owner, progress: Progress = lambda _: None
) -> ErasureReceipt:
    """Erase an owner's principal, whether or not it is on legal hold."""
    return _Erasure(context, owner, progress).run()


def scrubbed(context: MemoryContext) -> Heap:
    """Empty the logs of both databases, as far as nobody reads what was there before."""
    logs = [context.database.truncate_log(), context.keyring.truncate_log()]
    return "scrubbed" if all(logs) else "pending"


class _Erasure:
    """One erasure of one principal."""

    def __init__(self, context: MemoryContext, owner: Owner, progress: Progress) -> None:
        self._context, self._owner, self._progress = context, owner, progress
        self._removed = 0

    def run(self) -> ErasureReceipt:
        context, moment = self._context, as_moment(now()) or EPOCH
        destroyed = context.keyring.destroy(self._owner, leaves_tombstone=True)
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
            heap=scrubbed(context),
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
