"""What a Citus cluster asks of the tables and of every statement, held without one."""

import inspect
import json
import re
from contextlib import closing
from functools import cache
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
import sqlglot
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from sqlalchemy.dialects import postgresql

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database import dialects, distribution, row_level_security
from langmem_isolated._database.database import Database
from langmem_isolated._database.schema import POSTGRES_SCHEMA, metadata
from langmem_isolated._database.server_version import ServerVersion
from langmem_isolated._database.upgrades import versions
from langmem_isolated._storage import orphans
from langmem_isolated._storage.sessions import statements as sessions
from langmem_isolated.errors import (
    DatabaseError,
    DatabaseUnreachable,
    KeyNotFound,
    RecordDoesNotOpen,
)
from tests import served
from tests.citus import Routing, become_citus, recorded
from tests.conftest import Attacker
from tests.everyday import THREAD, everyday
from tests.postgres import PostgresServer
from tests.processes import all_at_once
from tests.test_cli import run
from tests.test_docs import PROJECT
from tests.test_docs import table as table_below
from tests.test_pgbouncer import failures_of_the_adapters_suite
from tests.test_schema import statements

TABLES = metadata.sorted_tables
DISTRIBUTED = [t for t in TABLES if distribution.placement_of(t.name) == "distributed"]


# The tables, and the statements that distribute them


def test_every_table_has_a_place_in_the_cluster():
    named = {*distribution.REFERENCE, *distribution.LOCAL}

    # What has the column and is not named is distributed; what has it not must be named.
    assert named <= set(metadata.tables)
    for table in TABLES:
        assert (table.name in named) == (distribution.SHARD_KEY not in table.primary_key.columns)
    assert all(len(reason) > 20 for reason in distribution.LOCAL.values())
    assert not distribution.REFERENCE & set(distribution.LOCAL)


@pytest.mark.parametrize("table", DISTRIBUTED, ids=lambda table: table.name)
def test_the_shard_key_leads_every_key_of_a_distributed_table(table: sa.Table):
    unique = [*(i for i in table.indexes if i.unique), table.primary_key]
    unique += [c for c in table.constraints if isinstance(c, sa.UniqueConstraint)]

    assert all(distribution.SHARD_KEY in constraint.columns for constraint in unique)
    for key in table.foreign_key_constraints:
        # To a table of the same shard, by the same column: another cannot be checked there.
        pairs = {(one.parent.name, one.column.name) for one in key.elements}
        assert (distribution.SHARD_KEY, distribution.SHARD_KEY) in pairs
        assert key.referred_table in DISTRIBUTED


def test_no_table_of_another_place_is_referred_to():
    for table in TABLES:
        for key in table.foreign_key_constraints:
            assert table in DISTRIBUTED
            assert key.referred_table in DISTRIBUTED


def placed(url: str) -> dict[str, tuple[str, str | None, int]]:
    with psycopg.connect(served.at_the_server(url)) as connection:
        found = connection.execute(
            "SELECT c.relname, p.partmethod, p.partkey, p.colocationid FROM pg_dist_partition p"
            " JOIN pg_class c ON c.oid = p.logicalrelid ORDER BY p.ctid"
        )
        return {name: (method, key, group) for name, method, key, group in found}


def test_the_printed_statements_distribute_every_table_in_an_order_that_a_cluster_takes(
    postgres_url: str,
):
    become_citus(postgres_url, distributed=False)
    printed = run("schema", "citus", "--timeout", "12.5").stdout

    with psycopg.connect(served.at_the_server(postgres_url), autocommit=True) as connection:
        for statement in printed.splitlines():
            connection.execute(statement.encode())
        told = connection.execute("SELECT command FROM told_workers").fetchall()
        name = connection.info.dbname
    with psycopg.connect(served.at_the_server(postgres_url)) as another:
        assert another.execute("SHOW lock_timeout").fetchone() == ("12500ms",)

    found = placed(postgres_url)
    assert told == [(f"ALTER DATABASE {name} SET lock_timeout = 12500",)]
    assert {n for n, place in found.items() if place[0] == "n"} == distribution.REFERENCE
    shards = {n: place for n, place in found.items() if place[0] == "h"}
    assert next(iter(shards)) == "scopes"  # the others refer to it
    assert {*shards} == {table.name for table in DISTRIBUTED}
    assert {place[1:] for place in shards.values()} == {("scope_id", shards["scopes"][2])}


def test_the_printed_statements_pass_over_what_is_done(postgres_url: str):
    become_citus(postgres_url)
    before = placed(postgres_url)

    with psycopg.connect(served.at_the_server(postgres_url), autocommit=True) as connection:
        connection.execute(distribution.script(30.0))

    assert placed(postgres_url) == before


# The statements


# What a cluster asks all its shards for, and why that may be.
OF_ALL_SHARDS = {
    "SELECT EXISTS (SELECT scopes.scope_id FROM scopes)": "before the first key of an installation",
    "WHERE scopes.principal = $1": "the modules of a user, listed",
}


def shortened(sql: str) -> str:
    return " ".join(sql.replace(f"{POSTGRES_SCHEMA}.", "").split())


def faults_of(sql: str) -> list[str]:
    short = shortened(sql)
    if any(short.startswith(one) or short.endswith(one) for one in OF_ALL_SHARDS):
        return []
    return [f"{fault}: {short[:200]}" for fault in Routing(sql).faults()]


@pytest.fixture(scope="module")
def of_everyday(
    postgres: Any, root_key_of_module: Any
) -> dict[bool, tuple[list[object], list[str]]]:
    """What an ordinary day answers, and by what statements: on one server, and distributed."""
    from tests.conftest import new_postgres_url

    found = {}
    for is_distributed in (False, True):
        url = new_postgres_url(postgres)
        if is_distributed and not served.IS_DISTRIBUTED:
            become_citus(url)
        with recorded() as asked, IsolatedMemory(url, root_key=root_key_of_module) as memory:
            found[is_distributed] = (everyday(memory), asked)
    return found


@pytest.fixture(scope="module")
def root_key_of_module() -> Any:

    return LocalRootKey(bytes(range(32)))


def test_every_statement_of_a_day_is_routed_to_one_shard(of_everyday: Any):
    _, asked = of_everyday[True]

    touched = set[str]().union(*(Routing(sql).tables() for sql in asked))
    assert len(asked) > 90
    assert touched >= {table.name for table in DISTRIBUTED}
    assert [fault for sql in asked for fault in faults_of(sql)] == []


def test_a_day_answers_alike_on_one_server_and_distributed(of_everyday: Any):
    one, distributed = (of_everyday[is_distributed][0] for is_distributed in (False, True))

    assert one == distributed
    assert len(one) > 25


def test_one_server_still_appends_in_one_statement(of_everyday: Any):
    writing = {
        is_distributed: [s for s in asked if shortened(s).startswith("WITH moved AS (UPDATE")]
        for is_distributed, (_, asked) in of_everyday.items()
    }

    assert bool(writing[False]) is not served.IS_DISTRIBUTED
    assert writing[True] == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sealed FROM records WHERE kind = 3",
        "SELECT sealed FROM records WHERE scope_id > $1",
        "SELECT sealed FROM records WHERE scope_id = $1 OR kind = 3",
        "SELECT sealed FROM records WHERE NOT (scope_id = $1)",
        (
            "SELECT 1 FROM records JOIN sessions ON sessions.digest = records.parent"
            " WHERE records.scope_id = $1"
        ),
        (
            "SELECT 1 FROM records WHERE records.scope_id = $1 AND EXISTS"
            " (SELECT 1 FROM sessions WHERE sessions.digest = records.parent)"
        ),
        "DELETE FROM sessions WHERE digest = $1",
        "UPDATE records SET scope_id = $1 WHERE records.scope_id = $2",
        "INSERT INTO records (scope_id, kind) SELECT $1, 3 FROM scopes WHERE scopes.scope_id = $1",
        "INSERT INTO usage (scope_id, day) VALUES ($1, 1) ON CONFLICT (day) DO NOTHING",
        "INSERT INTO usage (scope_id, day) VALUES (NULL, 1)",
        "SELECT 1 FROM records, audit WHERE records.scope_id = $1 AND audit.scope_id = $1",
        (
            "WITH gone AS (DELETE FROM sessions WHERE sessions.scope_id = $1 RETURNING digest)"
            " SELECT digest FROM gone"
        ),
        (
            "SELECT 1 FROM sessions WHERE sessions.scope_id = $1"
            " UNION ALL SELECT 1 FROM records WHERE records.parent = $2"
        ),
    ],
)
def test_what_a_cluster_cannot_route_is_noticed(sql: str):
    for table in metadata.tables:
        for word in ("FROM", "JOIN", "INTO", "UPDATE", ","):
            sql = sql.replace(f"{word} {table} ", f"{word} {POSTGRES_SCHEMA}.{table} ")
    assert [*Routing(sql).faults()]


_POSTGRES = postgresql.dialect(paramstyle="numeric_dollar")


@cache
def of_postgres() -> list[str]:
    """Every statement that a module of ours keeps, as PostgreSQL gets it."""
    texts = []
    for statement in statements():
        try:
            texts.append(as_text(statement))
        except (sa.exc.CompileError, AttributeError):
            assert isinstance(statement, sa.Insert)  # SQLite's own
    return texts


def as_text(statement: Any) -> str:
    return str(statement.compile(dialect=_POSTGRES))


def test_no_statement_over_several_shards_locks_or_writes():
    """A cluster refuses locks there, and commits such a write in two phases."""
    jumps = [as_text(one) for one in orphans._NAMED.values()]
    texts = [sql for sql in of_postgres() if sql not in jumps]  # `verify` has others there
    words = ("FOR UPDATE", "FOR NO KEY", "FOR SHARE", "FOR KEY", "INSERT ", "UPDATE ", "DELETE ")
    those = [sql for sql in texts if any(word in sql for word in words)]

    assert len(those) > 60
    # One is for two tables at once, on one server alone.
    of_one_server = [as_text(sessions.SWAP_AND_INSERT)]
    assert [sql for sql in those if [*Routing(sql).faults()]] == of_one_server
    # A cluster takes no recursion over its shards.
    recursive = [sql for sql in texts if "RECURSIVE" in sql]
    assert recursive
    assert [fault for sql in recursive for fault in Routing(sql).faults()] == []


# A server whose tables are distributed


@pytest.fixture
def citus_url(postgres_url: str) -> str:
    """A database that takes itself for a coordinator with distributed tables."""
    if not served.IS_DISTRIBUTED:
        become_citus(postgres_url)
    return postgres_url


@pytest.mark.parametrize("has_citus", [False, True])
def test_a_server_whose_tables_have_no_shards_is_one_server(postgres_url: str, has_citus: bool):
    if served.IS_DISTRIBUTED:
        pytest.skip("every database is distributed in this run")
    if has_citus:
        become_citus(postgres_url, distributed=False)
    with closing(Database(postgres_url)) as database:
        database.open()

        assert not database._dialect.is_distributed


def test_a_new_user_comes_while_a_shard_of_somebody_else_is_away(citus_url: str, root_key):
    """No statement of a first use asks for the others of its principal."""
    with IsolatedMemory(citus_url, root_key=root_key) as memory:
        memory.scope(user_id="first", module_id="tutor").chat_history("s").add_user_message("one")
        with recorded() as asked:
            history = memory.scope(user_id="new", module_id="tutor").chat_history("s")
            assert history.messages == []
            history.add_user_message("hello")
            assert history.messages == [HumanMessage("hello")]

    assert not any("principal = $" in sql and "scopes" in Routing(sql).tables() for sql in asked)


def test_processes_that_do_not_know_of_each_other_lose_nothing(citus_url: str, root_key):
    """The state that one knows is stale: of its two statements the first changes nothing."""

    def write() -> None:
        with IsolatedMemory(citus_url, root_key=root_key) as memory:
            scope = memory.scope(user_id="alice", module_id="tutor")
            for number in range(10):
                scope.chat_history("shared").add_user_message(f"{number}")
                new = empty_checkpoint() | {"channel_values": {}, "channel_versions": {}}
                scope.checkpointer().put(THREAD, new, {"step": number}, {})

    all_at_once([write] * 4)

    with IsolatedMemory(citus_url, root_key=root_key) as memory:
        scope = memory.scope(user_id="alice", module_id="tutor")
        said = sorted(message.text for message in scope.chat_history("shared").messages)
        assert said == sorted(f"{number}" for number in range(10) for _ in range(4))
        found = scope.verify()
        assert (found.messages, found.checkpoints) == (40, 40)


def test_who_was_erased_comes_back_when_no_row_is_left(citus_url: str, root_key):
    with IsolatedMemory(citus_url, root_key=root_key) as memory:
        for module in ("tutor", "planner"):
            scope = memory.scope(user_id="alice", module_id=module)
            scope.chat_history("s").add_user_message("one")
        memory.erase_user("alice")
        with recorded() as asked:
            history = memory.scope(user_id="alice", module_id="tutor").chat_history("s")
            history.add_user_message("again")

        assert history.messages == [HumanMessage("again")]
    # Of all shards: somebody whose rows an erasure has yet to remove gets no new keys.
    assert any("others.principal = $" in sql for sql in asked)


def test_keys_that_were_removed_are_missed_where_memory_is(citus_url: str, root_key):
    with IsolatedMemory(citus_url, root_key=root_key) as memory:
        memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("one")
    attacker = Attacker(citus_url)
    for table in ("key_sets", "keys"):
        attacker(f"DELETE FROM {table} WHERE principal IN (SELECT principal FROM scopes)")
    attacker.close()

    with IsolatedMemory(citus_url, root_key=root_key) as memory:
        history = memory.scope(user_id="alice", module_id="tutor").chat_history("s")
        with pytest.raises(KeyNotFound, match="an older copy"):
            history.add_user_message("two")


def test_a_session_is_not_begun_over_records_whose_scope_was_removed(citus_url: str, root_key):
    with IsolatedMemory(citus_url, root_key=root_key) as memory:
        memory.scope(user_id="alice", module_id="tutor").chat_history("s").add_user_message("one")
    attacker = Attacker(citus_url)
    attacker("DELETE FROM scopes")
    attacker.close()

    with IsolatedMemory(citus_url, root_key=root_key) as memory:
        history = memory.scope(user_id="alice", module_id="tutor").chat_history("s")
        for attempt in (lambda: history.messages, lambda: history.add_user_message("two")):
            with pytest.raises(RecordDoesNotOpen):
                attempt()


@pytest.mark.parametrize("is_distributed", [False, True])
def test_an_error_inside_the_server_is_no_corruption(
    request: pytest.FixtureRequest, root_key, is_distributed: bool
):
    url = request.getfixturevalue("citus_url" if is_distributed else "postgres_url")
    attacker = Attacker(url)
    with IsolatedMemory(url, root_key=root_key) as memory:
        history = memory.scope(user_id="alice", module_id="tutor").chat_history("s")
        history.add_user_message("one")
        attacker(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
            " 'connection to the remote node failed' USING ERRCODE = 'XX000'; END $$"
        )
        attacker("CREATE TRIGGER t BEFORE INSERT ON records FOR EACH ROW EXECUTE FUNCTION refuse()")
        attacker.close()
        with pytest.raises(DatabaseError) as caught:
            history.add_user_message("two")

    is_away = is_distributed or served.IS_DISTRIBUTED
    assert type(caught.value) is (DatabaseUnreachable if is_away else DatabaseError)
    assert ("it may have been stored" in str(caught.value)) is is_away


def test_a_statement_that_forgets_its_shard_is_noticed():
    of_a_digest = metadata.tables["sessions"].c.digest == sa.bindparam("digest")

    assert not faults_of(as_text(sessions.COUNT))
    assert faults_of(as_text(sa.select(*sessions.COUNT.selected_columns).where(of_a_digest)))


# The doctor, and other engines


def found_by_doctor(url: str, check: str) -> list[Any]:
    findings = json.loads(run("doctor", "--json", "--database", url).stdout)
    return [(f["state"], f["finding"]) for f in findings if f["check"] == f"database: {check}"]


def test_the_doctor_says_whether_the_tables_are_distributed_as_they_should_be(postgres_url: str):
    if served.IS_DISTRIBUTED:
        pytest.skip("every database is distributed in this run")
    assert found_by_doctor(postgres_url, "Citus") == []
    become_citus(postgres_url, distributed=False)
    assert found_by_doctor(postgres_url, "Citus") == [
        ("ok", "14.0-1; the tables are on one node: schema citus")
    ]
    with psycopg.connect(served.at_the_server(postgres_url), autocommit=True) as connection:
        connection.execute(distribution.script(30.0))
        assert found_by_doctor(postgres_url, "Citus") == [
            ("ok", "14.0-1; the tables are distributed by scope")
        ]
        connection.execute("DELETE FROM pg_dist_partition WHERE logicalrelid::text ~ 'usage|keys'")
        connection.execute(
            "UPDATE pg_dist_partition SET colocationid = 99 WHERE logicalrelid::text ~ 'records'"
        )
    ((state, finding),) = found_by_doctor(postgres_url, "Citus")
    assert state == "fail"
    assert finding == (
        "14.0-1; keys is local, not reference; records is not colocated with scopes; usage is"
        " local, not distributed: run what schema citus prints"
    )


# As servers answer `SELECT version()`, from their documentation and reports of their users.
VERSIONS = {
    "PostgreSQL 18.4 on x86_64-pc-linux-gnu, compiled by gcc (GCC) 14.2.1, 64-bit": (
        "PostgreSQL", "18.4"
    ),
    "PostgreSQL 17.0 (Debian 17.0-1.pgdg120+1) on aarch64-unknown-linux-gnu, compiled by gcc": (
        "PostgreSQL", "17.0"
    ),
    "PostgreSQL 19beta1 on x86_64-pc-linux-gnu, compiled by clang": ("PostgreSQL", "19beta1"),
    "CockroachDB CCL v24.3.5 (x86_64-pc-linux-gnu, built 2025/02/03 17:28:15, go1.22.8)": (
        "CockroachDB", "24.3.5"
    ),
    "CockroachDB CCL v21.2.0-beta.4-20-g3061813685 (x86_64-unknown-linux-gnu, built 2021/10/15)": (
        "CockroachDB", "21.2.0"
    ),
    "PostgreSQL 11.2-YB-2.20.1.0-b0 on x86_64-pc-linux-gnu, compiled by clang version 16.0.6": (
        "YugabyteDB", "2.20.1.0"
    ),
    "PostgreSQL 15.2-YB-2025.1.2.0-b0 on x86_64-pc-linux-gnu": ("YugabyteDB", "2025.1.2.0"),
    "PostgreSQL 16": ("Aurora DSQL", "16"),
    "Materialize v0.1": ("unknown", ""),
    "": ("unknown", ""),
}  # fmt: skip


@pytest.mark.parametrize("text", VERSIONS)
def test_an_engine_is_told_by_what_it_says_of_itself(text: str):
    assert ServerVersion.of(text) == VERSIONS[text]


def test_the_doctor_names_an_engine_that_only_speaks_the_protocol(postgres_url: str):
    """SQLAlchemy's dialect fails at a text that does not say PostgreSQL."""
    assert found_by_doctor(postgres_url, "engine")[0][0] == "ok"
    with psycopg.connect(served.at_the_server(postgres_url), autocommit=True) as connection:
        connection.execute("SET allow_system_table_mods = on")
        connection.execute(
            "CREATE OR REPLACE FUNCTION pg_catalog.version() RETURNS text LANGUAGE sql AS"
            " $$ SELECT 'CockroachDB CCL v26.2.1 (x86_64-pc-linux-gnu)' $$"
        )
    ((state, finding),) = found_by_doctor(postgres_url, "engine")

    assert (state, finding.partition(":")[0]) == ("warn", "CockroachDB 26.2.1")


def test_processes_make_the_tables_once_where_an_advisory_lock_is_none(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
):
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE unlocked")
    url = postgres.url("unlocked")
    # Each process takes a lock of its own.
    monkeypatch.setattr(dialects, "_UPGRADE_LOCK", "(random() * 1e9)::bigint")

    def open_it() -> int:
        with closing(Database(url)) as database:
            database.open()
            return database.inspect(versions.version_of)

    assert all_at_once([open_it] * 4) == [versions.newest()] * 4


ENGINES = (PROJECT / "docs" / "explanation" / "engines.md").read_text()
# By what a feature shows itself in SQL; the names are those of the page.
USED = {
    "foreign keys, `ON DELETE CASCADE`": r"FOREIGN KEY .* ON DELETE CASCADE",
    "partial indexes": r"CREATE INDEX [^;]* WHERE ",
    "several DDL statements in a transaction": r"CREATE TABLE",
    "advisory locks": r"pg_advisory_xact_lock",
    "`LOCK TABLE`": r"LOCK TABLE",
    "`INSERT … ON CONFLICT`": r"ON CONFLICT",
    "`INSERT … SELECT`": r"INSERT INTO \S+ \([^)]*\) SELECT",
    "`RETURNING`": r"RETURNING",
    "data-modifying `WITH`": r"WITH \w+ AS \(UPDATE",
    "`WITH RECURSIVE`": r"WITH RECURSIVE",
    "`FOR UPDATE`, `FOR NO KEY UPDATE`": r"FOR NO KEY UPDATE",
    "`FOR SHARE`, `FOR KEY SHARE`": r"FOR KEY SHARE",
    "`SKIP LOCKED`": r"SKIP LOCKED",
    "`LATERAL`, `unnest` of several arrays": r"unnest\(\$\d[^)]*, \$\d",
    "`READ COMMITTED`": r"READ COMMITTED",
    "`REPEATABLE READ`": r"REPEATABLE READ",
    "`set_config`, `SET LOCAL`": r"SET LOCAL",
    "row-level security": r"ENABLE ROW LEVEL SECURITY",
}
NOT_USED = (
    "SAVEPOINT", "SERIAL", "IDENTITY", "CREATE TRIGGER", "CREATE FUNCTION", "TEMPORARY", "TRUNCATE",
    "JSON", "COLLATE", "LISTEN", "CREATE EXTENSION", "CREATE SEQUENCE", "TABLESAMPLE", "MERGE INTO",
)  # fmt: skip
# What statements are made of: another kind of expression is another feature, to be looked up for
# each engine on the page and named here.
EXPRESSIONS = """
Add Alias And Anonymous Between Boolean CTE Case Cast Coalesce Column Command Count DataType Delete
Distinct EQ Exists Explode Extract From GT GTE Group Identifier If In Insert Is Join LT LTE Lateral
Length Limit Literal Lock Max Min Mul NEQ Not Null NullSafeEQ Offset OnConflict Or Order Ordered
Parameter Paren Returning Schema Select Set SetItem Star Sub Subquery Substring Sum Table TableAlias
Tuple Union Unnest Update Values Var Where With
"""


@pytest.fixture(scope="module")
def sql_of_ours(of_everyday: Any) -> list[str]:
    """All SQL that PostgreSQL gets of us: statements kept, those of a day, steps, and words."""
    stated = [*of_postgres(), *of_everyday[False][1], *of_everyday[True][1]]
    steps = [sql for step in versions.STEPS for sql in step.statements("postgresql")]
    words = [
        *(dialects.Postgres.begin_snapshot, *inspect.getsource(dialects).splitlines()),
        *inspect.getsource(row_level_security).splitlines(),
    ]
    return [" ".join(sql.split()) for sql in (*stated, *steps, *words)]


def test_the_page_of_engines_lists_every_feature_that_is_used(sql_of_ours: list[str]):
    rows = table_below(ENGINES, "What is used")

    assert [row[0] for row in rows] == [*USED]
    assert {len(row) for row in rows} == {5}
    for feature, pattern in USED.items():
        assert any(re.search(pattern, sql) for sql in sql_of_ours), feature


def test_what_the_page_of_engines_says_is_not_used_is_not(of_everyday: Any):
    steps = [sql for step in versions.STEPS for sql in step.statements("postgresql")]
    for sql in (*of_postgres(), *of_everyday[False][1], *of_everyday[True][1], *steps):
        assert not [word for word in NOT_USED if re.search(rf"\b{word}", sql)], sql


def test_no_statement_has_an_expression_that_the_page_of_engines_knows_nothing_of(
    of_everyday: Any,
):
    found = {
        type(node).__name__
        for sql in {*of_everyday[False][1], *of_everyday[True][1]}
        for node in sqlglot.parse_one(sql, dialect="postgres").walk()
    }

    assert found - set(EXPRESSIONS.split()) == set()


def test_a_savepoint_is_sqlites_alone():
    """Aurora DSQL has none; a retry does instead."""
    package = PROJECT / "langmem_isolated"
    callers = [
        path.name for path in package.rglob("*.py") if ".attempt(" in path.read_text()
    ]  # fmt: skip

    assert callers == ["write_queue.py"]


def test_a_primary_key_stays_below_a_kilobyte(postgres_url: str, root_key):
    with IsolatedMemory(postgres_url, root_key=root_key) as memory:
        everyday(memory)
        store = memory.scope(user_id="alice", module_id="tutor").store()
        store.put(tuple(f"level {number}" for number in range(50)), "k" * 200, {"n": 1})
    attacker = Attacker(postgres_url)
    ((records,),) = attacker(
        "SELECT max(18 + octet_length(parent) + octet_length(key)) FROM records"
    )
    ((containers,),) = attacker("SELECT max(18 + octet_length(digest)) FROM sessions")
    attacker.close()

    assert containers < 64
    assert 800 < records < 1024


# Programs


def test_the_demo_attacks_without_an_update_of_the_shard_key(citus_url: str):
    """Which a cluster refuses, as this trigger does."""
    attacker = Attacker(citus_url)
    attacker(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION"
        " 'modifying the partition value of rows is not allowed' USING ERRCODE = '0A000'; END $$"
    )
    for table in ("records", "sessions"):
        attacker(
            f"CREATE TRIGGER t BEFORE UPDATE OF scope_id ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION refuse()"
        )
    attacker.close()

    shown = run("demo", "--database", citus_url)

    assert shown.exit_code == 0, shown.output


# Three minutes where nothing else runs.
@pytest.mark.timeout(1500)
@pytest.mark.slow
def test_the_adapters_suite_passes_where_the_tables_are_distributed():
    assert failures_of_the_adapters_suite("citus") == ""
