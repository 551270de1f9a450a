"""Row-level security: PostgreSQL itself refuses rows of scopes that a transaction did not name.

Every table has a policy, forced upon its owner, too. A policy reads the setting of `admission` as
an array: it raises where the setting is missing, and where it is empty, as it is on a session on
which it was local to an earlier transaction. So a statement that forgot the scope is an error and
never an empty memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from sqlalchemy import Connection, exc, text

from langmem_isolated._database import schema
from langmem_isolated._database.admission import SETTING
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import DatabaseError, RowLevelSecurityError

Mode = Literal["detect", "required"]
"""Whether a database without row-level security is served."""

_JOBS_POLICY = "langmem_jobs"
JOBS_ROLE = "langmem_sweeper"
"""The role of cross-scope jobs, where no other is named."""

# Planned as an index condition of its own, and evaluated by the planner: a sub-select, which is
# evaluated once, would not be where no row is found, and so would not raise.
_ADMITTED = f"current_setting('{SETTING}')::bytea[]"
_OF_SCOPE = f"scope_id = ANY ({_ADMITTED})"
_OF_PRINCIPAL = f"principal = ANY ({_ADMITTED})"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")


class Database(Protocol):
    """What is asked, and changed."""

    is_postgres: bool

    def inspect(self, work: Callable[[Connection], Any], /) -> Any:
        """Run ``work`` on a connection outside of a transaction."""


class Policy(NamedTuple):
    """Which rows of a table a statement may meet, and which it may write."""

    using: str | None
    check: str | None = None
    command: str = "ALL"
    to_owner: bool = False

    @property
    def checked(self) -> str | None:
        """What rows that are written must meet; where it is not said, that is ``using``."""
        return self.check or (self.using if self.command == "ALL" else None)

    def sql(self, table: str, name: str, owner: str) -> str:
        """The statement that makes it."""
        check = self.checked
        return " ".join(
            (
                f"CREATE POLICY {name} ON {_qualified(table)} FOR {self.command}",
                f"TO {quoted(owner) if self.to_owner else 'PUBLIC'}",
                *([] if self.using is None else [f"USING ({self.using})"]),
                *([] if check is None else [f"WITH CHECK ({check})"]),
            )
        )


_BY_SCOPE = (Policy(_OF_SCOPE),)
_BY_PRINCIPAL = (Policy(_OF_PRINCIPAL),)
# What is counted of one scope counts for all of its principal: quotas and keys are a user's.
_OF_ITS_SCOPES = (
    f"{_OF_SCOPE} OR EXISTS (SELECT FROM {schema.POSTGRES_SCHEMA}.scopes s "
    f"WHERE s.scope_id = {{}}.scope_id AND s.{_OF_PRINCIPAL})"
)
POLICIES: dict[str, tuple[Policy, ...]] = {
    # One row, of nobody: ids that are read before any scope is known. An application names its
    # directory key there once; what else changes it is an upgrade, by the owner.
    "installation": (
        Policy("true", command="SELECT"),
        Policy("directory_id IS NULL", "true", command="UPDATE"),
        Policy("true", to_owner=True),
    ),
    # A first use and an erasure look at all scopes of a principal.
    "scopes": (Policy(f"{_OF_SCOPE} OR {_OF_PRINCIPAL}"),),
    "sessions": _BY_SCOPE,
    "records": _BY_SCOPE,
    "key_uses": (Policy(_OF_ITS_SCOPES.format("key_uses"), _OF_SCOPE),),
    "usage": (Policy(_OF_ITS_SCOPES.format("usage"), _OF_SCOPE),),
    "keys": _BY_PRINCIPAL,
    "key_sets": _BY_PRINCIPAL,
    "tombstones": _BY_PRINCIPAL,
    "erasures": _BY_PRINCIPAL,
    # Sealed and chained: everybody appends, about whomever; a subject's entries are read by it,
    # all of them by operators, who alone remove what is over.
    "audit": (
        Policy(_OF_SCOPE, command="SELECT"),
        Policy(None, "true", command="INSERT"),
    ),
    # Where the chains end, of nobody: whoever appends locks one and moves it.
    "audit_chains": (
        Policy("true", command="SELECT"),
        Policy(None, "true", command="INSERT"),
        Policy("true", "true", command="UPDATE"),
    ),
}


@dataclass(frozen=True, slots=True)
class RowLevelSecurity:
    """How row-level security stands in a database, and what it does to the role that asked."""

    is_enabled: bool
    """On at least one table."""
    is_forced: bool
    """On every table, and upon their owner."""
    tables_without: tuple[str, ...]
    """Tables on which it is not enabled, not forced, or that lack a policy."""
    tables_opened: tuple[str, ...]
    """Tables with a policy that was changed, or with another one that admits this role to more."""
    jobs_roles: tuple[str, ...]
    """Roles that see everybody's rows, for operators' jobs."""
    role: str
    """Who asked."""
    role_bypasses: bool
    """Whether the role is a superuser or has BYPASSRLS."""
    role_runs_jobs: bool
    """Whether the role is one of ``jobs_roles``, or a member of one."""
    refuses: bool
    """Whether a query without a setting was refused when it was tried."""

    @property
    def is_in_force(self) -> bool:
        """Whether the role sees the rows of one scope at a time, in every table."""
        is_bound = not (self.role_bypasses or self.role_runs_jobs or self.tables_opened)
        return self.is_forced and is_bound and self.refuses

    @property
    def fault(self) -> str | None:
        """Why it is not in force as it should be; ``None`` where it is, or is not enabled."""
        if not self.is_enabled or self.role_runs_jobs:
            return None
        if self.tables_without:
            return f"it is not in force on {', '.join(self.tables_without)}: enable it again"
        if self.role_bypasses:
            return (
                "it does not bind the role of this connection, a superuser or one with BYPASSRLS: "
                "serve with the application's role"
            )
        if self.tables_opened:
            return (
                f"other policies than ours admit to rows of {', '.join(self.tables_opened)}: drop "
                "them, and enable it again"
            )
        return None if self.refuses else "a query without a scope was not refused: enable it again"

    def binds(self) -> bool:
        """Whether transactions of this role have to say whose rows they may meet.

        Raises:
            RowLevelSecurityError: It is enabled, and is not in force as it should be.
        """
        if self.fault is not None:
            raise RowLevelSecurityError(
                f"Row-level security is enabled, and {self.fault}. Nothing was read or written."
            )
        return self.is_in_force


_TABLES = """
SELECT c.relname, c.relrowsecurity, c.relforcerowsecurity, pg_get_userbyid(c.relowner),
    (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname ~ '^langmem_[0-9]+$')
FROM pg_class c
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = :schema ::regnamespace
"""
_ADMITTING = """
SELECT c.relname, p.polname, pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid),
    0 = ANY (p.polroles)
FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
WHERE c.relnamespace = :schema ::regnamespace AND p.polpermissive AND (0 = ANY (p.polroles) OR
    EXISTS (SELECT FROM unnest(p.polroles) j WHERE pg_has_role(current_user, j, 'USAGE')))
"""
_ROLE = """
SELECT r.rolname, r.rolsuper OR r.rolbypassrls,
    ARRAY(SELECT DISTINCT j.rolname::text FROM pg_policy p, pg_roles j
        WHERE p.polname = 'langmem_jobs' AND j.oid = ANY (p.polroles)),
    EXISTS (SELECT FROM pg_policy p, unnest(p.polroles) j
        WHERE p.polname = 'langmem_jobs' AND pg_has_role(r.oid, j, 'USAGE'))
FROM pg_roles r WHERE r.rolname = current_user
"""


def check_mode(value: object) -> None:
    """Refuse what is no :data:`Mode`.

    Raises:
        ValueError: It is none.
    """
    if value not in ("detect", "required"):
        raise ValueError(
            'row_level_security must be "detect" or "required", got another '
            f"{kind_of(value)}. Leave it out to find out whether it is enabled."
        )


def status(database: Database) -> RowLevelSecurity:
    """How row-level security stands for the role of the database's URL.

    Raises:
        DatabaseError: It is no PostgreSQL, or the server refused or failed.
    """
    _expect_postgres(database)
    found: RowLevelSecurity = database.inspect(examined)
    return found


def enable(database: Database, *, jobs_role: str | None = None) -> RowLevelSecurity:
    """Enable and force it on every table, with the policies of this version; how it stands then.

    Done again, it replaces the policies. What runs meanwhile is refused until it is opened again.

    Args:
        database: Connected as the owner of the tables.
        jobs_role: A role that sees everybody's rows: sweeps, statistics and the like run under it.
            By default ``langmem_sweeper``, if there is such a role.

    Raises:
        RowLevelSecurityError: There is no such role.
        DatabaseError: It is no PostgreSQL, or the role of its URL does not own the tables.
    """
    _expect_postgres(database)
    database.inspect(lambda connection: _change(connection, _enabling(connection, jobs_role)))
    return status(database)


def disable(database: Database) -> RowLevelSecurity:
    """Remove it from every table, with its policies; how it stands then.

    Raises:
        DatabaseError: It is no PostgreSQL, or the role of its URL does not own the tables.
    """
    _expect_postgres(database)
    database.inspect(lambda connection: _change(connection, _disabling(connection)))
    return status(database)


def examined(connection: Connection) -> RowLevelSecurity:
    """How it stands, by the catalogue and by an attempt."""
    tables = connection.execute(text(_TABLES), {"schema": schema.POSTGRES_SCHEMA}).all()
    role, bypasses, jobs_roles, runs_jobs = connection.execute(text(_ROLE)).one()
    without = sorted(
        table
        for table, is_on, is_forced, _, policies in tables
        if table in POLICIES and not (is_on and is_forced and policies >= len(POLICIES[table]))
    )
    is_enabled = any(is_on for _, is_on, *_ in tables)
    return RowLevelSecurity(
        is_enabled=is_enabled,
        is_forced=is_enabled and not without,
        tables_without=tuple(without),
        tables_opened=_opened(connection) if is_enabled else (),
        jobs_roles=tuple(sorted(jobs_roles)),
        role=role,
        role_bypasses=bypasses,
        role_runs_jobs=runs_jobs and not bypasses,
        refuses=is_enabled and _refuses(connection),
    )


def _opened(connection: Connection) -> tuple[str, ...]:
    """Tables of ours on which a policy admits this role to more than those of this version do."""
    found = connection.execute(text(_ADMITTING), {"schema": schema.POSTGRES_SCHEMA}).all()
    return tuple(sorted({one[0] for one in found if one[0] in POLICIES and not _is_ours(*one)}))


def _is_ours(table: str, name: str, using: str | None, check: str | None, to_all: bool) -> bool:
    if name == _JOBS_POLICY:
        return not to_all
    ours = {f"langmem_{number}": one for number, one in enumerate(POLICIES[table])}.get(name)
    if ours is None or ours.to_owner is to_all:
        return False
    return (_bare(using), _bare(check)) == (_bare(ours.using), _bare(ours.checked))


def _bare(expression: str | None) -> str | None:
    """An expression without what the server writes otherwise than it was told."""
    return expression and re.sub(r"::text|[\s()]", "", expression)


def _refuses(connection: Connection) -> bool:
    """Whether a query that names no scope is refused, as one of a role that it binds is."""
    try:
        connection.execute(schema.records.select().limit(1)).all()
    except exc.DBAPIError as error:
        return getattr(error.orig, "sqlstate", None) in ("42704", "22P02")
    return False


def _change(connection: Connection, statements: Sequence[str]) -> None:
    connection.exec_driver_sql("BEGIN")
    try:
        for statement in statements:
            connection.exec_driver_sql(statement)
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        connection.exec_driver_sql("ROLLBACK")
        raise


def _enabling(connection: Connection, jobs_role: str | None) -> list[str]:
    role = _checked_role(connection, jobs_role)
    found = connection.execute(text(_TABLES), {"schema": schema.POSTGRES_SCHEMA}).all()
    statements = _disabling(connection)
    for table, *_, owner, _ in found:
        statements += _enabling_on(table, owner, role)
    return statements


def _enabling_on(table: str, owner: str, jobs_role: str | None) -> Iterator[str]:
    for number, policy in enumerate(POLICIES.get(table, ())):
        yield policy.sql(table, f"langmem_{number}", owner)
    if jobs_role is not None:
        yield (
            f"CREATE POLICY {_JOBS_POLICY} ON {_qualified(table)} TO {quoted(jobs_role)} "
            "USING (true) WITH CHECK (true)"
        )
    yield f"ALTER TABLE {_qualified(table)} ENABLE ROW LEVEL SECURITY"
    yield f"ALTER TABLE {_qualified(table)} FORCE ROW LEVEL SECURITY"


def _disabling(connection: Connection) -> list[str]:
    policies = connection.execute(
        text("SELECT tablename, policyname FROM pg_policies WHERE schemaname = :schema"),
        {"schema": schema.POSTGRES_SCHEMA},
    ).all()
    ours = [(table, name) for table, name in policies if name.startswith("langmem_")]
    tables = connection.execute(text(_TABLES), {"schema": schema.POSTGRES_SCHEMA}).all()
    return [
        *(f"DROP POLICY {quoted(name)} ON {_qualified(table)}" for table, name in ours),
        *(f"ALTER TABLE {_qualified(t)} NO FORCE ROW LEVEL SECURITY" for t, *_ in tables),
        *(f"ALTER TABLE {_qualified(t)} DISABLE ROW LEVEL SECURITY" for t, *_ in tables),
    ]


def _checked_role(connection: Connection, given: str | None) -> str | None:
    role = given or JOBS_ROLE
    known = text("SELECT FROM pg_roles WHERE rolname = :role")
    if connection.execute(known, {"role": role}).first() is not None:
        return role
    if given is None:
        return None
    raise RowLevelSecurityError(
        "The role that is to see everybody's rows is not there. Nothing was changed; make it "
        "first, as langmem-isolated schema roles shows."
    )


def _expect_postgres(database: Database) -> None:
    if not database.is_postgres:
        raise DatabaseError(
            "Row-level security is PostgreSQL's, and this database is SQLite. Nothing was changed."
        )


def _qualified(table: str) -> str:
    return f"{schema.POSTGRES_SCHEMA}.{quoted(table)}"


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever is in it."""
    return name if _NAME.fullmatch(name) else '"' + name.replace('"', '""') + '"'
