"""The audit log, as a memory and a scope have it."""

from __future__ import annotations

from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._runtime.operations import found, observed
from langmem_isolated._storage.scoped_database import ScopedDatabase

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.audit.log import AuditLog
    from langmem_isolated.lifecycle.audit.values import AuditEntry


class Audited:
    """The audit log, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    @cached_property
    def audit(self) -> AuditLog:
        """Who did and read what, and why; for operators.

        See :class:`~langmem_isolated.lifecycle.AuditLog`.
        """
        from langmem_isolated.lifecycle.audit.log import AuditLog

        return AuditLog(self._context)


class AuditedScope:
    """What a user sees of the audit log, as :class:`ScopedMemory` has it."""

    _context: MemoryContext
    _records: ScopedDatabase

    @observed("search_memory", "audit_entry", found)
    def audit_log(self, *, limit: int = 100, before: datetime | None = None) -> list[AuditEntry]:
        """Who looked at this user's memory or changed it, and why; the newest first.

        What is about this module, and what is about all that the user has; for the user to see.
        Empty where auditing was never on.

        >>> scope.audit_log()
        []

        Args:
            limit: At most so many.
            before: Only what was earlier; the time of the last one gives the next page.

        Raises:
            RecordDoesNotOpen: An entry was changed or moved.
            ValueError: ``limit`` is below 1, or ``before`` has no time zone.
            TypeError: One has another type.
            DatabaseError: The database refused or failed.
        """
        from langmem_isolated.lifecycle.audit.reading import seen_by

        return seen_by(self._context, self._records.owner, limit, before)

    async def aaudit_log(
        self, *, limit: int = 100, before: datetime | None = None
    ) -> list[AuditEntry]:
        """Who looked at this user's memory or changed it; see :meth:`audit_log`."""
        return await self._records.arun(self.audit_log, limit=limit, before=before)
