"""Distribution of the tables over a Citus cluster: its statements, its detection, its state.

Tables of one scope are sharded by ``scope_id`` and colocated: what is done in a scope touches one
shard. Small tables of everybody are reference tables, whole on every node.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from sqlalchemy import Connection, text

from langmem_isolated._database.options import milliseconds
from langmem_isolated._database.schema import POSTGRES_SCHEMA, metadata

Placement = Literal["distributed", "reference", "local"]

SHARD_KEY = "scope_id"
# Referred to by the others, so distributed before them.
_FIRST = "scopes"
REFERENCE = frozenset({"installation", "keys", "key_sets", "tombstones", "erasures"})
"""Read beside a scope's rows, or before its keys are known, and changed once in a user's life."""
LOCAL: Mapping[str, str] = {
    "audit": "an entry locks the one row where its chain ends: another node would be one more wait",
    "audit_chains": "the rows that are locked: entries and ends are written in one transaction",
}
"""Tables that stay on the coordinator, and why."""

# 'h' is a table with shards by hash, 'n' one that has none: a reference table, or a local one
# that the cluster knows of, which is told by how it is replicated.
_IS_DISTRIBUTED = text("""
SELECT p.partmethod = 'h' FROM pg_dist_partition p
WHERE p.logicalrelid = to_regclass(:table)
""")
_HAS_CITUS = text("SELECT extversion FROM pg_extension WHERE extname = 'citus'")
_PLACEMENTS = text("""
SELECT c.relname, CASE WHEN p.partmethod = 'h' THEN 'distributed'
    WHEN p.partmethod = 'n' AND p.repmodel = 't' THEN 'reference' ELSE 'local' END, p.colocationid
FROM pg_class c LEFT JOIN pg_dist_partition p ON p.logicalrelid = c.oid
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = to_regnamespace(:schema)
""")


def placement_of(table: str) -> Placement:
    """Where a table of ours belongs in a cluster."""
    if table in LOCAL:
        return "local"
    return "reference" if table in REFERENCE else "distributed"


def script(timeout: float) -> str:
    """The statements that distribute the tables, for ``psql`` on the coordinator.

    Run again, as after an upgrade that makes a table, they pass over what is done.

    Args:
        timeout: Seconds to wait for a lock, on every node. A session's own setting does not reach
            the workers.
    """
    setting = f"lock_timeout = {milliseconds(timeout)}"
    told = f"format('ALTER DATABASE %I SET {setting}', current_database())"
    names = sorted(metadata.tables, key=lambda name: (name != _FIRST, name))
    return "".join(
        f"{statement};\n"
        for statement in (
            *(_reference(name) for name in names if placement_of(name) == "reference"),
            *(_distributed(name) for name in names if placement_of(name) == "distributed"),
            f"DO $$ BEGIN EXECUTE {told}; END $$",
            f"SELECT run_command_on_workers({told})",
        )
    )


def _reference(name: str) -> str:
    return _unless_done(name, f"create_reference_table('{POSTGRES_SCHEMA}.{name}')")


def _distributed(name: str) -> str:
    beside = "none" if name == _FIRST else f"{POSTGRES_SCHEMA}.{_FIRST}"
    given = f"'{POSTGRES_SCHEMA}.{name}', '{SHARD_KEY}', colocate_with => '{beside}'"
    return _unless_done(name, f"create_distributed_table({given})")


def _unless_done(name: str, call: str) -> str:
    table = f"'{POSTGRES_SCHEMA}.{name}'::regclass"
    done = "SELECT logicalrelid FROM pg_dist_partition"
    return f"SELECT {call} WHERE {table} NOT IN ({done})"


def is_distributed(connection: Connection) -> bool:
    """Whether the tables of scopes have shards on several nodes; one query where there is no Citus.

    A cluster in which they were not distributed is one server as any other.
    """
    if connection.scalar(_HAS_CITUS) is None:
        return False
    return bool(connection.scalar(_IS_DISTRIBUTED, {"table": f"{POSTGRES_SCHEMA}.{_FIRST}"}))


def citus_version(connection: Connection) -> str | None:
    """The version of Citus that the database has; ``None`` without it."""
    found: str | None = connection.scalar(_HAS_CITUS)
    return found


def misplaced(connection: Connection) -> Iterator[str]:
    """What of the tables is not as :func:`script` places it, in words.

    For a database that has Citus.
    """
    found = {
        name: (placement, group)
        for name, placement, group in connection.execute(_PLACEMENTS, {"schema": POSTGRES_SCHEMA})
        if name in metadata.tables
    }
    _, beside = found.get(_FIRST, ("local", None))
    for name, (placement, group) in sorted(found.items()):
        wanted = placement_of(name)
        if placement != wanted:
            yield f"{name} is {placement}, not {wanted}"
        elif placement == "distributed" and group != beside:
            yield f"{name} is not colocated with {_FIRST}"
