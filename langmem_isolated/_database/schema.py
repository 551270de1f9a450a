"""Schema: the tables, as the newest version of them is; `upgrades/` makes them.

Every key, constraint and upsert target of the tables that hold scoped data starts with
``scope_id``, so the same schema shards by it (Citus, CockroachDB).
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    text,
)

# On PostgreSQL the tables live in a schema of their own: an application may well have `sessions`.
POSTGRES_SCHEMA = "langmem_isolated"

metadata = MetaData()


installation = Table(
    "installation",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("version", Integer, nullable=False),
    # 16 random bytes, made with the tables; part of the context of every wrapped key.
    Column("installation_id", LargeBinary, nullable=False),
    Column("directory_id", LargeBinary),
    # While all keys are being rotated, since when: whoever has an older one gets another.
    Column("rotating_since", BigInteger),
)

keys = Table(
    "keys",
    metadata,
    Column("principal", LargeBinary, primary_key=True),
    Column("purpose", SmallInteger, primary_key=True, autoincrement=False),
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("state", SmallInteger, nullable=False),
    Column("is_primary", SmallInteger, nullable=False),
    Column("wrapping", SmallInteger, nullable=False),
    Column("kek", Integer),
    Column("wrapped", LargeBinary),
    Column("second_wrapped", LargeBinary),
    Column("second_parameters", LargeBinary),
    Column("root_key_id", String, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("destroyed_at", BigInteger),
    sqlite_with_rowid=False,
)

# One row for the keys of a principal: a MAC over all of them, and the number that every change of
# them compares and swaps.
key_sets = Table(
    "key_sets",
    metadata,
    Column("principal", LargeBinary, primary_key=True),
    Column("revision", BigInteger, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

scopes = Table(
    "scopes",
    metadata,
    Column("scope_id", LargeBinary, primary_key=True),
    Column("principal", LargeBinary, nullable=False),
    Column("level", SmallInteger, nullable=False),
    Column("incarnation", Integer, nullable=False),
    Column("birth", LargeBinary, nullable=False),
    Column("project", LargeBinary),
    Column("module", LargeBinary),
    Column("hold", BigInteger),
    Column("oldest_key", Integer, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("mac", LargeBinary, nullable=False),
    Column("renewals", Integer, nullable=False, server_default=text("0")),
    # What statistics count of scopes is in these two: a scope is inserted once.
    Index("scopes_principal", "principal", "project", "level"),
    # By project, too: it leads.
    Index("scopes_module", "project", "module", "level", "principal"),
    sqlite_with_rowid=False,
)

# How often a scope's sealing key was used: a bound on its use is a bound on one key, and one that
# processes share. Rows go with their scope.
key_uses = Table(
    "key_uses",
    metadata,
    Column(
        "scope_id",
        LargeBinary,
        ForeignKey("scopes.scope_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("key_version", Integer, primary_key=True, autoincrement=False),
    Column("seals", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)


def _scope_id() -> Column[bytes]:
    return Column("scope_id", LargeBinary, ForeignKey("scopes.scope_id"), primary_key=True)


# No index on the last activity: it would change with every append (another page of SQLite's log,
# no heap-only update on PostgreSQL), and listing sorts one scope's sessions only.
sessions = Table(
    "sessions",
    metadata,
    _scope_id(),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("digest", LargeBinary, primary_key=True),
    Column("row_mac", LargeBinary, nullable=False),
    Column("birth", LargeBinary, nullable=False),
    Column("generation", LargeBinary, nullable=False),
    Column("next_sequence", BigInteger, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("members", LargeBinary, nullable=False),
    Column("newest", LargeBinary),
    Column("channels", LargeBinary),
    Column("state", SmallInteger, nullable=False),
    Column("is_pinned", SmallInteger, nullable=False),
    Column("idle_lifetime", BigInteger),
    Column("absolute_lifetime", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("revision", BigInteger, nullable=False),
    # A write barrier: writers below the row whose sealing key is older read their keys anew.
    Column("oldest_key", Integer, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Index("sessions_expiry", "expires_at"),
    sqlite_with_rowid=False,
)

# Clustered by the key: measured on 4,000 interleaved sessions of 10 messages, loading a session
# takes 12.7 µs against 20.4 with a rowid, appending to it 50 against 39, and 1,000 messages load in
# 391 against 433; memory is read at every turn. Pages stay at SQLite's 4 KiB: every commit writes
# and sums whole pages, and with 8 KiB it took 41 µs instead of 28.
records = Table(
    "records",
    metadata,
    _scope_id(),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("parent", LargeBinary, primary_key=True),
    Column("key", LargeBinary, primary_key=True),
    Column("alias", LargeBinary),
    Column("tag", LargeBinary),
    Column("sealed", LargeBinary, nullable=False),
    Column("size", Integer, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("expiry_mac", LargeBinary),
    # Of items and documents: by what equality filters find them. A column, not a table of their
    # own: with two fields that took a put 56 µs more of 40, and 675 bytes in place of 48, and was
    # no faster in a scope of 1,000 items. No index: one scope's rows are compared, 0.4 µs each.
    Column("equalities", LargeBinary),
    Index("records_alias", "scope_id", "kind", "parent", "alias", unique=True),
    Index("records_tag", "scope_id", "kind", "tag"),
    Index("records_expiry", "expires_at"),
    # What no row counts is counted by these two alone, without a look at the records; a row of
    # counters made 8 writers wait, 524 puts a second for 4,554. Items in the order in which a
    # search wants them: of 1,000, the 10 put last are found in 25 µs on SQLite, where all were read
    # in 430, and in 60 for 490 on PostgreSQL. An item has an entry in one of them alone. It costs a
    # put on SQLite 12 µs of 150, one in its place 20, and 1 to 3 % on PostgreSQL.
    Index("records_items", "scope_id", "updated_at", "parent", "key", "expires_at", "size"),
    Index("records_uncounted", "scope_id", "kind", "expires_at", "size"),
    sqlite_with_rowid=False,
)

# What a scope did on a day: that it wrote (kind 1, with what it had before), what it asked of
# models (kind 3, by model). Rows go with their scope.
usage = Table(
    "usage",
    metadata,
    Column(
        "scope_id",
        LargeBinary,
        ForeignKey("scopes.scope_id", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("day", Integer, primary_key=True, autoincrement=False),
    Column("kind", SmallInteger, primary_key=True, autoincrement=False),
    Column("model", LargeBinary, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("sealed", LargeBinary),
    # Of a user who wrote; active users are counted by the index alone.
    Column("principal", LargeBinary),
    Index("usage_active", "day", "principal"),
    sqlite_with_rowid=False,
)
# Whose lives erasures have ended: in the key store, as the keys are, which may serve several
# databases; whose a row is the id of the directory key says.
tombstones = Table(
    "tombstones",
    metadata,
    Column("directory_id", LargeBinary, nullable=False),
    Column("principal", LargeBinary, primary_key=True),
    Column("incarnation", Integer, primary_key=True, autoincrement=False),
    Column("erased_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("row_mac", LargeBinary, nullable=False),
    Index("tombstones_expiry", "expires_at"),
    sqlite_with_rowid=False,
)
# Erasures that have begun, and their receipts. Whose they are stands sealed till they are finished.
erasures = Table(
    "erasures",
    metadata,
    Column("principal", LargeBinary, primary_key=True),
    # The last life that it ends; whoever came back since is in a later one.
    Column("incarnation", Integer, primary_key=True, autoincrement=False),
    # A life may be ended more than once: what is outside is asked again, modules begin again.
    Column("began_at", BigInteger, primary_key=True, autoincrement=False),
    Column("finished_at", BigInteger),
    Column("sealed", LargeBinary, nullable=False),
    # Whoever erases at the same time, or goes on, meets the one that has begun.
    Index("erasures_unfinished", "principal", "incarnation", unique=True),
    sqlite_with_rowid=False,
)
# A chain for each shard: one row that every entry had to lock would make all writers wait.
audit = Table(
    "audit",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("scope_id", LargeBinary),
    Column("created_at", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Index("audit_scope", "scope_id", "created_at"),
    sqlite_with_rowid=False,
)
# Where each chain begins and ends, under a MAC: whoever appends locks one row of these, and entries
# themselves are never changed.
audit_chains = Table(
    "audit_chains",
    metadata,
    Column("shard", SmallInteger, primary_key=True, autoincrement=False),
    Column("first_sequence", BigInteger, nullable=False),
    Column("cut_hash", LargeBinary, nullable=False),
    Column("next_sequence", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    # Of the first shard: whether there is an audit log, and what goes into it.
    Column("settings", LargeBinary),
    Column("row_mac", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)


# Few rows have what these are for: the indexes leave out those that have not.
PARTIAL_INDEXES = {
    "records_alias": "alias IS NOT NULL",
    "records_tag": "tag IS NOT NULL",
    "records_expiry": "expires_at IS NOT NULL",
    # Items, and vectors, entries and their like: the kinds of records that no row of `sessions`
    # counts, all but documents and embeddings from 8 on. A query that says just this is answered by
    # the index. Not `kind IN (…)`: SQLite would look the kind up in a table at every insert, of
    # messages, too.
    "records_items": "kind = 8",
    "records_uncounted": "kind > 9 AND kind <> 12",
    "sessions_expiry": "expires_at IS NOT NULL",
    "tombstones_expiry": "expires_at IS NOT NULL",
    "erasures_unfinished": "finished_at IS NULL",
    "usage_active": "principal IS NOT NULL",
    "audit_scope": "scope_id IS NOT NULL",
}
