"""What an application's memory gives to importers: a bulk import, and what takes it out again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.arguments import callback, kind_of, refuse_single
from langmem_isolated.scope import checked_id

if TYPE_CHECKING:
    from langchain_core.embeddings import Embeddings

    from langmem_isolated.lifecycle.bulk_import.bulk import BulkImport
    from langmem_isolated.lifecycle.bulk_import.rolling_back import Progress, RolledBack

_TOKEN_BYTES = 16


class BulkImports:
    """Bulk import and roll back, as :class:`IsolatedMemory` has them."""

    _context: MemoryContext

    def bulk_import(
        self,
        token: bytes,
        *,
        source: str,
        readmit: Iterable[str] = (),
        embeddings: Embeddings | None = None,
    ) -> BulkImport:
        """Put what foreign stores have into scopes, for importers; a context manager.

        >>> from langmem_isolated.lifecycle import ForeignMessage, ForeignSession
        >>> said = [ForeignMessage(HumanMessage("What is 6 times 7?"), "row 1")]
        >>> monday = ForeignSession("monday", "rows 1 to 1", said)
        >>> with memory.bulk_import(b"sixteen bytes, 1", source="rows") as bulk:
        ...     bulk.put(scope.scope, monday, on_reject=print).state
        'copied'
        >>> [message.text for message in scope.chat_history("monday").messages]
        ['What is 6 times 7?']
        >>> memory.roll_back(b"sixteen bytes, 1").counts
        {'session': 1}

        Args:
            token: 16 bytes by which the import is known: the same call after a crash goes on, and
                :meth:`roll_back` takes out what was put in under it.
            source: What the kind of the source is called, 1 to 255 bytes.
            readmit: Ids of users who may come back though they were erased here.
            embeddings: Embed documents for which the source has no embedding.

        Raises:
            TypeError: ``token`` is no bytes, or ``readmit`` a single text.
            ValueError: ``token`` has not 16 bytes.
            ScopeError: ``source`` or an id is malformed.
        """
        from langmem_isolated.lifecycle.bulk_import.bulk import BulkImport

        refuse_single("readmit", readmit, (), example='readmit=["ann"]')
        readmitted = frozenset(checked_id("readmit", one) for one in readmit)
        source = checked_id("source", source)
        return BulkImport(_checked_token(token), source, readmitted, embeddings, self._context)

    def roll_back(self, token: bytes, *, progress: Progress | None = None) -> RolledBack:
        """Take out what an import put in, as far as nobody has changed it since.

        Scopes and keys that were made for it go as well, if nothing else is in them now; who had
        been erased before is erased again. What was changed since is its owner's: it stays, and is
        told. So does all of a user on legal hold, or who alone has the keys: they are counted, and
        the same call goes on once they are released. Every scope is looked at, 0.2 ms each. Killed
        at any point, the same call goes on. Objects of a scope that is gone raise `KeyDestroyed`;
        make new ones. An import can be rolled back for 400 days.

        Args:
            token: The import's.
            progress: Called after each transaction with the number of records that are out. What
                it raises ends the call, and the same one goes on.

        Returns:
            What was taken out, and what was left; nothing where there is no such import.

        Raises:
            TypeError: ``token`` is no bytes, or ``progress`` no function.
            ValueError: ``token`` has not 16 bytes.
            RecordDoesNotOpen: What was put in, or its journal, was changed, moved or exchanged.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        return self._rolled_back(token, progress, lambda: False)

    async def aroll_back(self, token: bytes, *, progress: Progress | None = None) -> RolledBack:
        """Take out an import; see :meth:`roll_back`. Cancelled, it ends behind a part."""
        ended = threading.Event()
        try:
            return await self._context.database.arun(
                self._rolled_back, token, progress, ended.is_set
            )
        finally:
            ended.set()

    def _rolled_back(
        self, token: bytes, progress: Progress | None, is_stopped: Callable[[], bool]
    ) -> RolledBack:
        from langmem_isolated.lifecycle.bulk_import.rolling_back import RollBack

        if progress is not None:
            callback("progress", progress, example="progress=lambda removed: print(removed)")
        told = progress or (lambda _: None)
        with self._context.audit.job("roll_back") as job:
            result = RollBack(self._context, _checked_token(token), told, is_stopped).run()
            job.count = sum(result.counts.values())
        return result


def _checked_token(token: object) -> bytes:
    if not isinstance(token, bytes):
        raise TypeError(
            f"token must be 16 bytes, got {kind_of(token)}. An import's receipt has its token. "
            "Nothing was changed."
        )
    if len(token) != _TOKEN_BYTES:
        raise ValueError(
            f"token must be 16 bytes, got {len(token):,}. An import's receipt has its token. "
            "Nothing was changed."
        )
    return token
