"""Rotation of sealing keys, as a memory gives it to operators."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.arguments import true_or_false
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._storage.reseal_queue import queue_of

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.rotation.run import KeysRotated
    from langmem_isolated.lifecycle.rotation.status import KeyStatus, UserKeyStatus


@explains_calls
class KeyRotations:
    """Rotation of sealing keys, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    def rotate_keys(
        self,
        user_id: str | None = None,
        *,
        project_id: str = "default",
        all: bool = False,  # noqa: A002 - what operators say
        with_stores: bool = False,
        max_seconds: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> KeysRotated:
        """Give a user a new sealing key, seal all that is stored anew, and destroy the former key.

        Readers and writers go on, in this process and in others. Whatever is written from then on
        is under the new key within ``key_cache_seconds``, at once where something was sealed anew
        already: who comes with the former key is refused, reads the keys again, and writes. What is
        stored is sealed anew in batches of at most 500 rows, each a transaction: messages,
        checkpoints, items, documents, embeddings, caches, profiles, and the headers of sessions,
        threads and collections. Plaintext, times and addresses stay. The former key opens until a
        look at all records has found none under it; then its wrapped form is removed, and no copy
        of the database from then on has it.

        Interrupted at any point, by whatever it may be, it loses nothing: the next call goes on,
        and makes no further key. Several processes may do it at once. What was tampered with stays
        as it is and is counted, and so does the key that it names.

        A user who has locked the memory (:meth:`lock_with`) unlocks it in this process first; with
        ``all`` those who have not are left out and counted.

        What the server needs for its own duties is sealed by keys that do not rotate: who has
        which scopes, policies, grants, claims, names of models, notes of stores.

        >>> memory.scope(user_id="zoe", module_id="tutor").store().put(("a",), "b", {"n": 1})
        >>> rotated = memory.rotate_keys("zoe")
        >>> rotated.keys_made, rotated.records, rotated.keys_destroyed, rotated.is_done
        (1, 1, 1, True)

        Args:
            user_id: Who. A user without memory has no key, and nothing is done.
            project_id: In which project.
            all: Everybody's in the installation, of all projects, and those of modules, projects
                and anonymous sessions, in place of one user's. A later call goes on with it, also
                in another process, until it says ``is_done``.
            with_stores: Also documents that were sealed in third-party stores
                (``vector_store(wrapping=…, seal=True)``), as far as this process has wrapped or
                included the store; their vectors stay. Let nobody write the user's documents there
                meanwhile: these stores cannot tell that a document was changed between its reading
                and its writing. By default they stay as they are, and the former key with them.
            max_seconds: Begin no batch after so many; by default go on to the end.
            progress: Told after each batch how many records have been sealed by now. What it raises
                ends the rotation between two batches.

        Raises:
            TypeError: Neither a user nor ``all`` is given, or both; ``max_seconds`` is no number,
                or ``progress`` no function.
            ValueError: ``max_seconds`` is below 0.
            ScopeError: An id is malformed.
            MemoryLocked: The user has locked the memory; nothing was changed.
            KeyringError: A key cannot be had, or belongs to another root key.
            RecordDoesNotOpen: The user's keys, or the row of a scope, are not as they were stored;
                what was sealed before is sealed, and with ``all`` everybody else's is.
            DatabaseError: The database refused or failed; to call again goes on.
        """
        return self._rotated_keys(
            user_id, project_id, all, max_seconds, progress, lambda: False, with_stores
        )

    async def arotate_keys(
        self,
        user_id: str | None = None,
        *,
        project_id: str = "default",
        all: bool = False,  # noqa: A002 - what operators say
        with_stores: bool = False,
        max_seconds: float | None = None,
        progress: Callable[[int], object] | None = None,
    ) -> KeysRotated:
        """Rotate sealing keys; see :meth:`rotate_keys`. Cancelled, it ends behind a batch."""
        ended = threading.Event()
        try:
            return await self._context.database.arun(
                self._rotated_keys,
                user_id,
                project_id,
                all,
                max_seconds,
                progress,
                ended.is_set,
                with_stores,
            )
        finally:
            ended.set()

    @property
    def reseals_on_read(self) -> bool:
        """Whether a read that meets a former key has its scope sealed anew, soon, behind it.

        So a rotation that was interrupted goes on where memory is used: a worker thread seals
        batches anew for a quarter of a second, and nothing is done inside of the read. What is left
        at the end, former keys too, is for :meth:`rotate_keys`. It is on until it is set to
        ``False``, for this memory.
        """
        return queue_of(self._context.database, self._context.keyring).is_on

    @reseals_on_read.setter
    def reseals_on_read(self, is_on: bool) -> None:
        queue = queue_of(self._context.database, self._context.keyring)
        queue.is_on = true_or_false("reseals_on_read", is_on)

    def key_status(self) -> KeyStatus:
        """What is pending of rotations, and how often keys have sealed, of all; for operators.

        It is what tables say: nothing is opened or checked.

        >>> memory.key_status().pending
        0

        Raises:
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.rotation.status import status

        return status(self._context)

    async def akey_status(self) -> KeyStatus:
        """What is pending of rotations; see :meth:`key_status`."""
        return await self._context.database.arun(self.key_status)

    def key_status_of(self, user_id: str, *, project_id: str = "default") -> UserKeyStatus:
        """A user's sealing keys by version, and what each has sealed in which scope; for operators.

        All rows of the user are counted by the ids of their keys: 0.1 s for 100,000.

        >>> memory.scope(user_id="zoe", module_id="tutor").store().put(("a",), "b", {"n": 1})
        >>> status = memory.key_status_of("zoe")
        >>> [(key.version, key.state) for key in status.keys], status.scopes[0].records
        ([(1, 'active')], {1: 1})

        Args:
            user_id: Who. One without memory has no keys.
            project_id: In which project.

        Raises:
            ScopeError: An id is malformed.
            KeyringError: A key cannot be had, or belongs to another root key.
            RecordDoesNotOpen: The keys, or the row of a scope, are not as they were stored.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.rotation.status import status_of

        return status_of(self._context, user_id, project_id)

    async def akey_status_of(self, user_id: str, *, project_id: str = "default") -> UserKeyStatus:
        """A user's sealing keys; see :meth:`key_status_of`."""
        return await self._context.database.arun(self.key_status_of, user_id, project_id=project_id)

    def _rotated_keys(
        self,
        user_id: str | None,
        project_id: str,
        of_all: bool,
        max_seconds: float | None,
        progress: Callable[[int], object] | None,
        is_stopped: Callable[[], bool],
        with_stores: bool,
    ) -> KeysRotated:
        from langmem_isolated.lifecycle.rotation.run import RotationRun, checked_owner

        owner = checked_owner(user_id, project_id, of_all=of_all)
        run = RotationRun(self._context, max_seconds, progress, is_stopped, with_stores=with_stores)
        with self._context.audit.job("rotate_keys", owner) as job:
            rotated = run.run(owner)
            job.count = rotated.records
        return rotated
