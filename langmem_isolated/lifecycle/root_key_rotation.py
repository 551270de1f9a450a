"""Rotation of the root key, as a memory gives it to operators."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.arguments import callback, seconds
from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._storage.audit_notes import AuditNote
from langmem_isolated.root_keys import RootKey, checked_provider


@dataclass(frozen=True, slots=True)
class RootKeyRotated:
    """What a rotation of the root key has done; both 0 where all was wrapped by it before."""

    key_sets: int
    """Users, and other owners, whose keys were wrapped anew; the installation is one of them."""
    keys: int
    """How many keys."""


@explains_calls
class RootKeyRotations:
    """Rotation of the root key, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    def rotate_root_key(
        self,
        new: RootKey,
        *,
        progress: Callable[[int], object] | None = None,
        most_per_second: float | None = None,
    ) -> RootKeyRotated:
        """Wrap every stored key anew under another root key; no record is touched.

        ``new`` wraps a new key-encryption key, which wraps all others in place of the former: a key
        service is asked once, not once a user. Each user's keys are exchanged in one transaction,
        those of the installation last, when the former key-encryption key is destroyed.
        Interrupted, it loses nothing: call it again with the same two keys. A second call does
        nothing. From the beginning of the call on, no process stores a key that the former one
        wrapped. Other processes go on if they have ``new`` among their ``accepted_root_keys``.

        The former root key opens nothing of the database any more; copies and backups that were
        made before need it still.

        >>> memory.rotate_root_key(LocalRootKey.from_text(LocalRootKey.generate_text())).keys > 0
        True

        Args:
            new: What wraps from now on.
            progress: Called after each user with the number of users and others done so far. What
                it raises ends the rotation between two of them.
            most_per_second: How many users are done in a second at most, for a database that
                others need meanwhile. By default as many as it can.

        Raises:
            RootKeyInvalid: ``new`` is no provider of a root key, or breaks a promise of one.
                Nothing was changed.
            RootKeyMismatch: Some keys were wrapped by a root key that this memory does not have.
                Nothing was changed.
            KeyringError: Another rotation, to another root key, has begun meanwhile; it goes on.
            KeyServiceUnavailable: A service that holds one of the root keys does not answer.
            RootKeyUnavailable: One of the root keys is disabled or destroyed, or may not be used.
            TypeError: ``progress`` is no function, or ``most_per_second`` no number.
            ValueError: ``most_per_second`` is not above 0.
            RecordDoesNotOpen: A user's keys are not as they were stored; those before are done.
            DatabaseError: The database refused or failed; what was done before is done.
        """
        return self._rotated_root_key(new, progress, most_per_second, threading.Event())

    async def arotate_root_key(
        self,
        new: RootKey,
        *,
        progress: Callable[[int], object] | None = None,
        most_per_second: float | None = None,
    ) -> RootKeyRotated:
        """Wrap every key anew; see :meth:`rotate_root_key`. Cancelled, it ends behind a user."""
        ended = threading.Event()
        try:
            return await self._context.database.arun(
                self._rotated_root_key, new, progress, most_per_second, ended
            )
        finally:
            ended.set()

    def _rotated_root_key(
        self,
        new: RootKey,
        progress: Callable[[int], object] | None,
        most_per_second: float | None,
        ended: threading.Event,
    ) -> RootKeyRotated:
        if progress is not None:
            callback("progress", progress, example="print")
        pause = 0.0
        if most_per_second is not None:
            pause = 1 / seconds("most_per_second", most_per_second, advice="Give users a second.")
        counts: list[int] = []
        for count in self._context.keyring.root_key_rotation(checked_provider(new)).run():
            if count:
                counts.append(count)
                if progress is not None:
                    progress(len(counts))
            if ended.wait(pause if count else 0):
                break
        # Behind it: one that is gone on with opens nothing before it has begun.
        self._context.audit.note(None, AuditNote("rotate_root_key", count=sum(counts)))
        return RootKeyRotated(len(counts), sum(counts))
