"""Errors about databases."""

from typing import ClassVar

from langmem_isolated.errors.core import LangmemIsolatedError


class DatabaseError(LangmemIsolatedError):
    """The database refused or failed; the transaction was rolled back.

    >>> IsolatedMemory("mysql://localhost/app")
    Traceback (most recent call last):
    langmem_isolated.errors.DatabaseError: The database URL must be for sqlite or postgresql, ...
    """

    advice: ClassVar[str] = "Nothing was written."


class DatabaseUnreachable(DatabaseError):
    """No connection to the database could be made, or it broke."""

    advice = "Check the URL."
    in_use: ClassVar[str] = (
        "If the connection broke while a write was being committed, it may have been stored."
    )
    """Said besides of a connection that was made before."""


class DatabaseLocked(DatabaseError):
    """Another process held the database for longer than ``timeout``."""

    advice = "Nothing was written; try again, or give a longer timeout=…"


class DatabaseReadOnly(DatabaseError):
    """The database file, its folder or the server does not allow writing."""

    advice = (
        "Nothing was written; let this user write the file and its folder (SQLite keeps two more "
        "files beside it), or connect with a role, and to a server, that may write."
    )


class RowLevelSecurityError(DatabaseError):
    """Row-level security refused a statement, or is not in force as it has to be."""

    advice = (
        "Nothing was read or written: PostgreSQL's row-level security refused it. If it was "
        "enabled since this memory was opened, open it again; langmem-isolated rls status shows "
        "how it stands."
    )
    everybodys: ClassVar[str] = (
        "This goes over everybody's memory, and row-level security lets this role see one "
        "scope's. Nothing was read or written. Give a role for operators' jobs: "
        "IsolatedMemory(…, jobs_url=…), or run the command with that role's --database."
    )
    """Said of what an application's role may not do."""
    required: ClassVar[str] = (
        "Row-level security is required, and is not in force for this role. Nothing was read or "
        "written. Enable it as the owner of the tables, langmem-isolated rls enable, and serve "
        "with the application's role."
    )


class DatabaseFull(DatabaseError):
    """The disk, or the size the database may grow to, is full."""

    advice = "Nothing was written, and what was stored before is intact; make room and try again."


class DatabaseCorrupt(DatabaseError):
    """The file is not a database, its pages are damaged, or tables of ours are not there."""

    advice = "Nothing was written; check the URL, or restore the database from a backup."


class SchemaTooNew(DatabaseError):
    """The database was written by a later version of this package."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"The database has schema version {found}, this package knows up to {known}. "
            "Nothing was read or written; install a later langmem-isolated."
        )
        self.found = found
        self.known = known


class SchemaTooOld(DatabaseError):
    """The database has an earlier schema and upgrading was not allowed here."""

    def __init__(self, found: int, known: int) -> None:
        super().__init__(
            f"The database has schema version {found}, this package needs {known}. "
            "Run `langmem-isolated schema upgrade` with a role that may create tables."
        )
        self.found = found
        self.known = known
