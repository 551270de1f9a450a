"""Health checks: root key, schema, settings of the database, rights of the role."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any, NamedTuple

from langmem_isolated._crypto.seal_counter import SealCounter
from langmem_isolated._database import distribution, row_level_security, schema
from langmem_isolated._database.database import Database
from langmem_isolated._database.databases import refuse_no_replica
from langmem_isolated._database.files import mode_for_others, path_of
from langmem_isolated._database.server_version import ServerVersion
from langmem_isolated._database.upgrades import versions
from langmem_isolated._storage.checked_root_key import CheckedRootKey
from langmem_isolated._storage.key_status import counts, rotating_since
from langmem_isolated._storage.key_uses import most_seals
from langmem_isolated._storage.keyring import Keyring
from langmem_isolated.cli.databases import DATABASE, KEY_STORE, existing_database
from langmem_isolated.errors import LangmemIsolatedError
from langmem_isolated.root_keys import LocalRootKey, root_key_from_environment

_KEY_STORE = "key store"
_OF_ALL = "that of all scopes is seen by the role for jobs: ask with its URL"


class Finding(NamedTuple):
    """What the doctor found: ``state`` is ``ok``, ``warn`` or ``fail``."""

    check: str
    state: str
    finding: str


def examine(url: str, key_store: str | None, read_replica: str | None = None) -> Iterator[Finding]:
    """What there is to say of root key, databases, settings, roles and a replica."""
    findings = [_attempt("root key", _root_key)]
    for name, place in (("database", url), (_KEY_STORE, key_store)):
        if place:
            findings += _examine_database(name, place)
    if read_replica:
        findings.append(_attempt("read replica", lambda: _behind(url, read_replica)))
    yield from findings
    if all(finding.state != "fail" for finding in findings):
        yield _attempt("root key fits", lambda: _fits(url, key_store))


def _attempt(check: str, work: Callable[[], tuple[str, str]]) -> Finding:
    try:
        return Finding(check, *work())
    except LangmemIsolatedError as error:
        return Finding(check, "fail", str(error))


def _root_key() -> tuple[str, str]:
    root_key = root_key_from_environment()
    began = time.perf_counter()
    CheckedRootKey(root_key).prove()
    took = 1000 * (time.perf_counter() - began)
    if isinstance(root_key, LocalRootKey):
        return "ok", root_key.key_id
    return "ok", f"{root_key.key_id}; it has wrapped and unwrapped a trial in {took:.0f} ms"


def _fits(url: str, key_store: str | None) -> tuple[str, str]:
    with ExitStack() as stack:
        data, keys = (
            stack.enter_context(closing(Database(place, auto_upgrade=False)))
            for place in (url, key_store or url)
        )
        if Keyring(data, root_key_from_environment(), key_store=keys).check():
            return "ok", "it opens the keys of this database"
    return "warn", "there are no keys yet: nothing was ever stored"


def _examine_database(name: str, url: str) -> Iterator[Finding]:
    try:
        database = existing_database(url, given_as=KEY_STORE if name == _KEY_STORE else DATABASE)
    except LangmemIsolatedError as error:
        yield Finding(name, "fail", str(error))
        return
    with closing(database):
        version = _attempt(f"{name}: schema", lambda: _version(database))
        yield version
        if version.state == "fail":
            return
        if database.is_postgres:
            yield _attempt(f"{name}: row-level security", lambda: _row_level_security(database))
        else:
            yield _examine_file(name, database)
        yield _attempt(f"{name}: key uses", lambda: _key_uses(database))
        yield _attempt(f"{name}: key rotation", lambda: _key_rotation(database))
        examine = _examine_server if database.is_postgres else _examine_settings
        for check, state, finding in database.inspect(lambda c: list(examine(c))):
            yield Finding(f"{name}: {check}", state, finding)


def _behind(url: str, read_replica: str) -> tuple[str, str]:
    follower = Database(read_replica, auto_upgrade=False)
    with closing(Database(url, auto_upgrade=False, replica=follower)) as database:
        refuse_no_replica(database, follower)
        assert database.replica is not None
        behind = database.replica.seconds_behind()
        shares_history = database.replica.shares_history()
    if behind is None:
        return "fail", "it has replayed no transaction yet, or the server is no replica"
    if not shares_history:
        return "warn", (
            "it has made no restart point since a failover, and is not read before: run CHECKPOINT "
            "on the primary, and then on it"
        )
    if behind:
        return "warn", f"its last transaction is {behind:.1f} s old, and it lacks what came since"
    return "ok", "it has all that the primary had when it was asked"


def _version(database: Database) -> tuple[str, str]:
    found = database.inspect(versions.version_of)
    versions.check_version(found)
    return "ok", f"version {found}"


def _examine_file(name: str, database: Database) -> Finding:
    path = path_of(database.url.database, is_uri="uri" in database.url.query)
    mode = mode_for_others(path) if path else 0
    if not mode:
        return Finding(f"{name}: file", "ok", "its owner alone may use it")
    return Finding(
        f"{name}: file",
        "warn",
        f"others may use it (mode {mode:04o}): they see counts, lengths and times, and may "
        "change it; run chmod 600 on it and on its -wal and -shm",
    )


def _key_rotation(database: Database) -> tuple[str, str]:
    if not database.sees_everybody:
        return "ok", _OF_ALL
    found = counts(database)
    if not found.pending and rotating_since(database) is None:
        return "ok", "no rotation of sealing keys is pending"
    return "warn", (
        f"{found.pending:,} users or others have a sealing key that was taken from them and is not "
        "destroyed yet: go on with langmem-isolated keys rotate; keys status tells more"
    )


def _key_uses(database: Database) -> tuple[str, str]:
    if not database.sees_everybody:
        return "ok", _OF_ALL
    seals = most_seals(database)
    share = f"the key used most has sealed {seals} of 2^32 records"
    return (
        ("warn", f"{share}; rotate its user's keys")
        if seals >= SealCounter.WARN_AT
        else ("ok", share)
    )


# What every connection of ours sets, and what it costs where that has no effect.
_SQLITE_SETTINGS: dict[str, tuple[object, str, str]] = {
    "journal_mode": ("wal", "fail", "readers and writers wait for each other"),
    "synchronous": (2, "warn", "the last commits may go with the power"),
    "secure_delete": (1, "fail", "deleted records linger in the file"),
    "foreign_keys": (1, "fail", "records may outlive their scope"),
    "trusted_schema": (0, "warn", "a manipulated schema may run functions"),
}


def _examine_settings(connection: Any) -> Iterator[Finding]:
    yield Finding("SQLite", "ok", f"version {sqlite3.sqlite_version}")
    for name, (wanted, otherwise, cost) in _SQLITE_SETTINGS.items():
        found = connection.exec_driver_sql(f"PRAGMA {name}").scalar()
        if found == wanted:
            yield Finding(name, "ok", str(found))
        else:
            yield Finding(name, otherwise, f"{found}, expected {wanted}: {cost}")


_POSTGRES_ROLE = """
SELECT rolsuper, rolbypassrls,
    EXISTS (SELECT FROM pg_tables WHERE schemaname = '{schema}' AND tableowner = current_user),
    (SELECT string_agg(c.relname, ', ') FROM pg_class c WHERE c.relkind IN ('r', 'p')
        AND c.relnamespace = '{schema}'::regnamespace AND NOT (
            has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
            AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE')))
FROM pg_roles WHERE rolname = current_user
"""


_POSTGRES_SETTINGS = {
    "fsync": "what was acknowledged is lost when the machine stops",
    "synchronous_commit": "the last commits are lost when the server stops",
    "full_page_writes": "pages are damaged when the machine stops",
}


def _examine_server(connection: Any) -> Iterator[Finding]:
    yield _engine(connection)
    if version := distribution.citus_version(connection):
        yield _citus(connection, version)
    yield from _examine_role(connection)


def _engine(connection: Any) -> Finding:
    found = ServerVersion.of(connection.exec_driver_sql("SELECT version()").scalar())
    named = f"{found.engine} {found.version}".strip()
    if found.engine == "PostgreSQL":
        return Finding("engine", "ok", named)
    return Finding("engine", "warn", f"{named}: not tried with it; docs/explanation/engines.md")


def _citus(connection: Any, version: str) -> Finding:
    wrong = [*distribution.misplaced(connection)]
    if not wrong:
        return Finding("Citus", "ok", f"{version}; the tables are distributed by scope")
    if not distribution.is_distributed(connection):
        return Finding("Citus", "ok", f"{version}; the tables are on one node: schema citus")
    return Finding("Citus", "fail", f"{version}; {'; '.join(wrong)}: run what schema citus prints")


def _examine_role(connection: Any) -> Iterator[Finding]:
    query = _POSTGRES_ROLE.format(schema=schema.POSTGRES_SCHEMA)
    superuser, bypasses, owns, lacks = connection.exec_driver_sql(query).one()
    limits = "row-level security does not bind it"
    yield _role("superuser", superuser, f"{limits}; serve with a role of its own")
    yield _role("bypassrls", bypasses, limits)
    yield _role("owner", owns, "it may change and drop the tables; another may own them")
    state = "fail" if lacks else "ok"
    yield Finding(
        "privileges", state, f"lacks some on {lacks}" if lacks else "reads and writes all"
    )
    for name, cost in _POSTGRES_SETTINGS.items():
        value = connection.exec_driver_sql(f"SHOW {name}").scalar()
        yield Finding(name, *(("warn", f"off: {cost}") if value == "off" else ("ok", value)))


def _row_level_security(database: Database) -> tuple[str, str]:
    found = row_level_security.status(database)
    if not found.is_enabled:
        return "warn", "off: a query that forgot the scope would read everybody's rows; rls enable"
    if found.fault is not None:
        return "fail", found.fault
    if found.role_runs_jobs:
        return "ok", "this role runs jobs, and sees everybody's rows"
    return "ok", "in force: a query that names no scope was refused"


def _role(attribute: str, has: bool, cost: str) -> Finding:
    return Finding(f"role is {attribute}", *(("warn", f"yes: {cost}") if has else ("ok", "no")))
