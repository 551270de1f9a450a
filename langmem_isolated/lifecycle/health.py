"""Health: whether the databases answer, and how row-level security stands; for operators."""

from __future__ import annotations

from langmem_isolated._adapters.context import MemoryContext
from langmem_isolated._database.row_level_security import RowLevelSecurity, status
from langmem_isolated._runtime.calls import explains_calls


@explains_calls
class HealthChecks:
    """Health of the databases, as :class:`IsolatedMemory` has it."""

    _context: MemoryContext

    def ping(self) -> None:
        """Ask the database, and the key store, for nothing: a health check, below 1 ms.

        >>> memory.ping()

        Raises:
            DatabaseError: One does not answer, or the memory was closed.
        """
        self._context.database.refuse_if_closed()
        for database in (self._context.database, self._context.keyring.key_store):
            database.inspect(lambda connection: connection.exec_driver_sql("SELECT 1").scalar())

    async def aping(self) -> None:
        """Ask the database for nothing; see :meth:`ping`."""
        await self._context.database.arun(self.ping)

    def row_level_security(self) -> RowLevelSecurity | None:
        """How PostgreSQL's row-level security stands for the role of ``url``; ``None`` on SQLite.

        ``langmem-isolated rls enable`` enables it, as the owner of the tables.

        >>> memory.row_level_security() is None
        True

        Raises:
            DatabaseError: The server refused or failed.
        """
        database = self._context.database
        return status(database) if database.is_postgres else None

    async def arow_level_security(self) -> RowLevelSecurity | None:
        """How row-level security stands; see :meth:`row_level_security`."""
        return await self._context.database.arun(self.row_level_security)
