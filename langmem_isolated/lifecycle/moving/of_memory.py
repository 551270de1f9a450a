"""Moves, as a memory gives them to operators."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.arguments import callback, true_or_false
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._storage.audit_notes import AuditNote

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.moving.run import KeysMoved, Moved


@explains_calls
class MemoryMoves:
    """Moves of a whole installation, as :class:`IsolatedMemory` has them."""

    _context: MemoryContext

    def move_to(
        self,
        url: str,
        *,
        key_store: str | None = None,
        finish: bool = True,
        progress: Callable[[int], object] | None = None,
    ) -> Moved:
        """Move everything into another database, SQLite or PostgreSQL, sealed as it is.

        All users and all kinds of records go, with times, policies, holds, grants, locks and the
        audit log; who was erased stays erased. Nothing is opened on the way, so users who hold
        their keys themselves move as well, and no plaintext is anywhere. The source is only read.

        It goes through both databases in the order of the keys, a few rows at a time, and puts what
        is missing, until a pass that reads all anew finds both equal. Only then, and if the root
        key opens it, the new database becomes the installation. Until then no memory opens it, and
        a run that was killed is gone on with by the next one. A first run with ``finish=False``
        while the application works, and a second one when it has stopped, make the stop short.

        Afterwards there are two copies: give the application the new URL and remove the old one
        when it is no longer needed, since who is erased later can be read there. For another root
        key call :meth:`rotate_root_key` at the new one.

        >>> memory.move_to("sqlite:///elsewhere.db", key_store="sqlite:///keys.db").is_finished
        True

        Args:
            url: Of a database that is unused, or that a run before has begun to fill.
            key_store: The URL of a database of its own for the wrapped keys there, which other
                installations may have keys in; that of this memory leaves them where they are. By
                default they go with all else.
            finish: Whether the new database becomes the installation at the end.
            progress: Called with the number of rows that were put so far.

        Raises:
            MoveRefused: Something else is there, or somebody writes all the while.
            RecordDoesNotOpen: Keys are not as they were stored.
            TypeError: ``finish`` is neither true nor false, or ``progress`` no function.
            DatabaseError: One of the databases refused or failed; run it again.
        """
        from langmem_isolated.lifecycle.moving.run import Move, opened_target

        true_or_false("finish", finish)
        if progress is not None:
            callback("progress", progress, example="progress=print")
        with ExitStack() as stack:
            target = opened_target(url, stack)
            keys = None if key_store is None else opened_target(key_store, stack)
            self._context.open()
            move = Move(self._context, target, keys, progress or (lambda _: None))
            return move.run(finish=finish)

    async def amove_to(
        self,
        url: str,
        *,
        key_store: str | None = None,
        finish: bool = True,
        progress: Callable[[int], object] | None = None,
    ) -> Moved:
        """Move everything into another database; see :meth:`move_to`. Cancelled, it goes on."""
        return await self._context.database.arun(
            self.move_to, url, key_store=key_store, finish=finish, progress=progress
        )

    def move_keys(self, key_store: str) -> KeysMoved:
        """Move the wrapped keys into a key store of their own, and out of where they are.

        They are copied, compared, proved to open this database, and removed here, while nobody can
        change them. On SQLite no byte of them stays behind in the file. On PostgreSQL dead rows,
        the log and older backups have them yet: ``VACUUM FULL`` and a rotation of the root key, as
        :meth:`rotate_root_key` does, end that.

        From then on nobody opens the database without ``key_store=``: close this memory, and make
        a new one with it. Processes that work with the old arguments store no new user's keys any
        more, and fail when those that they have are over time; stop them first.

        Called by a memory that has this ``key_store=`` already, it removes what a move that was
        killed has left in the database, and in its file.

        Args:
            key_store: The URL of a database; others may have keys in it.

        Raises:
            MoveRefused: It is this database; or since a move that was killed keys there have
                changed, or some are not there. Nothing was removed.
            RecordDoesNotOpen: Keys are not as they were stored; nothing was removed.
            DatabaseLocked: Somebody changes keys all the while, or ``pool_size`` is 1, where two
                connections are needed.
            DatabaseError: One of the databases refused or failed; nothing was removed.
        """
        from langmem_isolated.lifecycle.moving.run import move_keys, opened_target

        with ExitStack() as stack:
            target = opened_target(key_store, stack)
            self._context.open()
            self._context.audit.note(None, AuditNote("move_keys"))
            return move_keys(self._context, target)

    async def amove_keys(self, key_store: str) -> KeysMoved:
        """Move the wrapped keys into a key store; see :meth:`move_keys`."""
        return await self._context.database.arun(self.move_keys, key_store)
