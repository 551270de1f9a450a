import importlib
import json
import pkgutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint
from sqlalchemy.dialects import postgresql, sqlite

import langmem_isolated
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database.database import Database
from langmem_isolated._database.schema import POSTGRES_SCHEMA, metadata
from langmem_isolated._database.statements import InsertsByDialect
from langmem_isolated._database.upgrades import versions
from langmem_isolated._database.upgrades.step import Step
from langmem_isolated._storage import due, orphans
from langmem_isolated.errors import DatabaseError, SchemaTooNew, SchemaTooOld
from tests.conftest import ROOT_KEY, Attacker
from tests.embeddings import NGramEmbeddings
from tests.postgres import PostgresServer
from tests.processes import all_at_once

VECTORS = Path(__file__).parent / "vectors"
# Keys are led by their principal, and may live in another database; the installation is one row.
UNSCOPED = ("installation", "keys", "key_sets", "tombstones", "erasures", "audit",
            "audit_chains")  # fmt: skip
SCOPED = [table for table in metadata.sorted_tables if table.name not in UNSCOPED]
NEWEST = versions.newest()


@pytest.fixture(params=["sqlite", "postgres"])
def empty_url(request: pytest.FixtureRequest) -> str:
    """A database of either kind in which nobody has made a table."""
    if request.param == "sqlite":
        return str(request.getfixturevalue("sqlite_url"))
    server: PostgresServer = request.getfixturevalue("postgres")
    name = f"empty_{abs(hash(request.node.name))}"
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return server.url(name)


@pytest.fixture
def opened(request: pytest.FixtureRequest) -> Iterator[Callable[..., Database]]:
    """Opens databases and closes them when the test is over."""
    databases: list[Database] = []

    def database(url: str, **options: Any) -> Database:
        databases.append(Database(url, **options))
        return databases[-1]

    yield database
    for each in databases:
        each.close()


def execute(url: str, *statements: str) -> list[Any]:
    """Run statements, the driver's rows of the last one; no schema but the server's default."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as raw:
            return [raw.execute(statement).fetchall() for statement in statements][-1]
    with psycopg.connect(url, autocommit=True) as raw:
        cursors = [raw.execute(statement) for statement in statements]
        return cursors[-1].fetchall() if cursors[-1].description else []


def catalog(url: str) -> list[Any]:
    """Every table, column and index there is, of whomever."""
    if url.startswith("sqlite"):
        return execute(url, "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2")
    return execute(
        url,
        "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns"
        " WHERE table_schema NOT IN ('pg_catalog', 'information_schema') ORDER BY 1, 2, 3",
    )


def our(url: str, table: str) -> str:
    return table if url.startswith("sqlite") else f"{POSTGRES_SCHEMA}.{table}"


# Sharding by scope


@pytest.mark.parametrize("table", SCOPED, ids=lambda table: table.name)
def test_every_key_and_constraint_of_scoped_tables_contains_the_scope(table: sa.Table):
    unique_indexes = [index for index in table.indexes if index.unique]
    unique = [c for c in table.constraints if isinstance(c, sa.UniqueConstraint)]

    assert next(iter(table.primary_key)).name == "scope_id"
    for constraint in [*unique, *unique_indexes, *table.foreign_key_constraints]:
        assert "scope_id" in [column.name for column in constraint.columns], constraint.name
    for constraint in table.foreign_key_constraints:
        assert "scope_id" in [element.column.name for element in constraint.elements]
    if table.name != "scopes":
        assert table.foreign_key_constraints


def test_the_tables_in_the_database_have_the_same_keys(database_url: str, opened):
    def look(connection: sa.Connection) -> dict[str, list[list[str | None]]]:
        inspector = sa.inspect(connection)
        found = {}
        for table in SCOPED:
            about = {"schema": None if database_url.startswith("sqlite") else POSTGRES_SCHEMA}
            found[table.name] = [
                inspector.get_pk_constraint(table.name, **about)["constrained_columns"],
                *(u["column_names"] for u in inspector.get_unique_constraints(table.name, **about)),
                *(
                    index["column_names"]
                    for index in inspector.get_indexes(table.name, **about)
                    if index["unique"]
                ),
                *(
                    key["constrained_columns"]
                    for key in inspector.get_foreign_keys(table.name, **about)
                ),
            ]
        return found

    database = opened(database_url)
    database.open()

    found = database.inspect(look)

    assert set(found) >= {"scopes", "sessions", "records"}
    for table, keys in found.items():
        assert keys, table
        assert all("scope_id" in columns for columns in keys), table


def statements() -> list[sa.Executable]:
    """Every statement that a module of ours keeps, also inside its dicts and lists."""
    found: dict[int, sa.Executable] = {}

    def collect(value: Any, depth: int = 3) -> None:
        if isinstance(value, InsertsByDialect):
            # They are made when they are asked for.
            value = [value[is_postgres] for is_postgres in (False, True)]
        if isinstance(value, sa.Executable):
            found[id(value)] = value
        elif depth and isinstance(value, dict):
            for part in value.values():
                collect(part, depth - 1)
        elif depth and isinstance(value, list | tuple | set):
            for part in value:
                collect(part, depth - 1)

    for module in pkgutil.walk_packages(langmem_isolated.__path__, "langmem_isolated."):
        if not module.name.endswith("__main__"):
            collect(vars(importlib.import_module(module.name)))
    return [*found.values()]


def compiled(statement: Any) -> list[str]:
    """The statement's text on each database that it is made for."""
    texts = []
    for dialect in (sqlite.dialect(), postgresql.dialect()):
        # Some are made for one of the two, and what is peculiar to it is unknown to the other.
        with suppress(sa.exc.CompileError, AttributeError, NotImplementedError):
            texts.append(str(statement.compile(dialect=dialect)))
    return texts


def tables_of(statement: sa.Executable) -> set[str]:
    found = set()
    for part in sa.sql.visitors.iterate(statement):
        if isinstance(part, sa.Table):
            found.add(part.name)
        if isinstance(getattr(part, "table", None), sa.Table):
            found.add(part.table.name)
    return found


def test_every_upsert_of_scoped_tables_targets_a_key_with_the_scope():
    targets = []
    for statement in statements():
        clause = getattr(statement, "_post_values_clause", None)
        if clause is not None and statement.table in SCOPED:
            targets.append(clause.inferred_target_elements)
            for text in compiled(statement):
                conflict = text.partition("ON CONFLICT (")[2].partition(")")[0]
                assert conflict.startswith("scope_id")

    assert len(targets) >= 4
    assert all(elements and "scope_id" in map(str, elements) for elements in targets)


def test_an_insert_of_given_rows_returns_nothing():
    # SQLAlchemy asks for keys that it was not given, and `executemany` refuses that from Python
    # 3.13 on.
    inserts = [one for one in statements() if isinstance(one, sa.Insert) and one.select is None]

    assert len(inserts) >= 4
    assert not any("RETURNING" in text for one in inserts for text in compiled(one))


# By which a sweep finds what has expired, whosever it is, and a verification rows of nobody:
# addresses and times, nothing sealed.
OF_ALL_SCOPES = (due._EXPIRED_ROWS, due._EXPIRED_RECORDS, *orphans._MISTYPED.values())


def test_every_statement_on_scoped_records_names_the_scope():
    seen = 0
    for statement in statements():
        if tables_of(statement) & {"sessions", "records"}:
            seen += 1
            texts = compiled(statement)
            assert texts
            assert all("scope_id" in text for text in texts)
            if any(statement is one for one in OF_ALL_SCOPES):
                assert isinstance(statement, sa.Select)
                assert "sealed" not in texts[0]
            elif isinstance(statement, sa.Select | sa.Update | sa.Delete):
                assert all("scope_id = " in text or "scope_id IN" in text for text in texts)

    assert seen >= 10


# Making and upgrading


def test_processes_that_open_an_empty_database_together_make_the_tables_once(empty_url: str):
    def open_it() -> int:
        with closing(Database(empty_url)) as database:
            database.open()
            return database.inspect(versions.version_of)

    assert all_at_once([open_it] * 4) == [NEWEST] * 4
    assert execute(empty_url, f"SELECT id, version FROM {our(empty_url, 'installation')}") == [
        (1, NEWEST)
    ]


def test_a_database_of_a_later_version_is_refused_and_left_as_it_is(database_url: str, opened):
    with closing(IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY))) as memory:
        memory.scope(user_id="a", module_id="b").chat_history("c").add_user_message("hello")
    later = NEWEST + 6
    execute(database_url, f"UPDATE {our(database_url, 'installation')} SET version = {later}")
    before = [catalog(database_url), contents(database_url)]

    with closing(IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY))) as memory:
        history = memory.scope(user_id="a", module_id="b").chat_history("c")
        for attempt in (
            memory.open,
            lambda: history.messages,
            lambda: history.add_user_message("late"),
            opened(database_url, auto_upgrade=False).open,
            opened(database_url).upgrade,
        ):
            with pytest.raises(SchemaTooNew) as caught:
                attempt()
            assert (caught.value.found, caught.value.known) == (later, NEWEST)
            assert f"version {later}, this package knows up to {NEWEST}" in str(caught.value)

    assert [catalog(database_url), contents(database_url)] == before


def contents(url: str) -> dict[str, list[Any]]:
    return {name: execute(url, f"SELECT * FROM {our(url, name)}") for name in metadata.tables}


# An upgrade such as a later version may bring, and two that do not work.
NOTES = """
ALTER TABLE @schema.sessions ADD COLUMN note INTEGER;
CREATE TABLE @schema.notes (text INTEGER);
INSERT INTO @schema.notes VALUES (1);
"""
ADD_NOTES = Step.of_both(NEWEST + 1, "adds notes", NOTES)
FAIL = Step.of_both(NEWEST + 1, "fails", f"{NOTES} SELECT nothing FROM nowhere;")
BREAK_A_RULE = Step.of_both(
    NEWEST + 1, "breaks a rule", f"{NOTES} INSERT INTO @schema.installation (id) VALUES (1);"
)


@pytest.mark.parametrize("step", [FAIL, BREAK_A_RULE], ids=lambda step: step.what)
@pytest.mark.parametrize("from_nothing", [False, True])
def test_an_upgrade_that_fails_leaves_the_version_that_was_whole(
    empty_url: str, opened, monkeypatch, step: Step, from_nothing: bool
):
    if not from_nothing:
        opened(empty_url).open()
    released = versions.STEPS
    monkeypatch.setattr(versions, "STEPS", (*released, step))

    seen = []
    for attempt in (opened(empty_url).open, opened(empty_url).upgrade):
        with pytest.raises(DatabaseError):
            attempt()
        seen.append(catalog(empty_url))

    monkeypatch.setattr(versions, "STEPS", released)
    database = opened(empty_url)
    database.open()
    assert database.inspect(versions.version_of) == NEWEST
    assert "notes" not in str(seen)
    assert seen == [catalog(empty_url)] * 2


def test_an_upgrade_runs_once_whoever_comes_first(empty_url: str, opened, monkeypatch):
    opened(empty_url).open()
    monkeypatch.setattr(versions, "STEPS", (*versions.STEPS, ADD_NOTES))

    def upgrade() -> tuple[int, int]:
        with closing(Database(empty_url)) as database:
            return database.upgrade()

    ran = sorted(all_at_once([upgrade] * 3))

    assert ran == [(NEWEST, NEWEST + 1), *[(NEWEST + 1, NEWEST + 1)] * 2]
    assert execute(empty_url, f"SELECT * FROM {our(empty_url, 'notes')}") == [(1,)]
    assert opened(empty_url).upgrade() == (NEWEST + 1, NEWEST + 1)


def test_memory_lives_through_an_upgrade(empty_url: str, monkeypatch):
    def opened_anew() -> IsolatedMemory:
        return IsolatedMemory(empty_url, root_key=LocalRootKey(ROOT_KEY))

    with opened_anew() as memory:
        memory.scope(user_id="a", module_id="b").chat_history("c").add_user_message("hello")
    monkeypatch.setattr(versions, "STEPS", (*versions.STEPS, ADD_NOTES))

    with opened_anew() as memory:
        history = memory.scope(user_id="a", module_id="b").chat_history("c")
        assert history.messages == [HumanMessage("hello")]


def test_without_leave_to_upgrade_nothing_is_made(empty_url: str, opened, monkeypatch):
    with pytest.raises(SchemaTooOld, match="langmem-isolated schema upgrade") as caught:
        opened(empty_url, auto_upgrade=False).open()
    assert (caught.value.found, caught.value.known) == (0, NEWEST)
    assert catalog(empty_url) == []

    assert opened(empty_url).upgrade() == (0, NEWEST)
    opened(empty_url, auto_upgrade=False).open()

    monkeypatch.setattr(versions, "STEPS", (*versions.STEPS, ADD_NOTES))
    before = catalog(empty_url)
    memory = IsolatedMemory(empty_url, root_key=LocalRootKey(ROOT_KEY), auto_upgrade=False)
    with closing(memory), pytest.raises(SchemaTooOld) as caught:
        memory.scope(user_id="a", module_id="b").chat_history("c").add_user_message("hello")
    assert (caught.value.found, caught.value.known) == (NEWEST, NEWEST + 1)
    assert catalog(empty_url) == before


@pytest.mark.parametrize("columns", ["theirs INTEGER", "id INTEGER, version VARCHAR(9)"])
@pytest.mark.parametrize("name", metadata.tables)
def test_tables_of_other_software_with_our_names_are_refused_and_left_alone(
    empty_url: str, opened, name: str, columns: str
):
    if not empty_url.startswith("sqlite"):
        execute(empty_url, f"CREATE SCHEMA {POSTGRES_SCHEMA}")
    execute(empty_url, f"CREATE TABLE {our(empty_url, name)} ({columns})")
    before = catalog(empty_url)

    for attempt in (opened(empty_url).open, opened(empty_url).upgrade):
        with pytest.raises(DatabaseError, match=f"other software with our names: .*{name}"):
            attempt()

    assert catalog(empty_url) == before


def test_on_postgres_tables_of_an_application_in_its_own_schema_do_not_disturb(
    postgres: PostgresServer, request: pytest.FixtureRequest, root_key
):
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("CREATE DATABASE application")
    url = postgres.url("application")
    execute(url, *(f"CREATE TABLE public.{name} (theirs INTEGER)" for name in metadata.tables))

    with IsolatedMemory(url, root_key=root_key) as memory:
        history = memory.scope(user_id="a", module_id="b").chat_history("c")
        history.add_user_message("hello")
        assert history.messages == [HumanMessage("hello")]

    assert execute(url, "SELECT * FROM public.sessions") == []


# SQLite's settings


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
def test_sqlite_settings_are_in_force_on_every_connection(
    sqlite_url: str, opened, synchronous: str
):
    database = opened(sqlite_url, synchronous=synchronous, pool_size=5, timeout=7.5)
    database.open()

    for _ in range(2):
        connections = [database._engine.raw_connection() for _ in range(5)]
        for connection in connections:
            assert settings_of(connection.dbapi_connection) == {
                "journal_mode": "wal",
                "synchronous": {"FULL": 2, "NORMAL": 1}[synchronous],
                "foreign_keys": 1,
                "secure_delete": 1,
                "trusted_schema": 0,
                "busy_timeout": 7500,
                "page_size": 4096,
            }
            connection.close()
        database._engine.dispose()


def settings_of(connection: Any) -> dict[str, object]:
    names = (
        "journal_mode", "synchronous", "foreign_keys", "secure_delete", "trusted_schema",
        "busy_timeout", "page_size",
    )  # fmt: skip
    return {name: connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names}


def test_durability_is_full_unless_chosen_otherwise(sqlite_url: str, root_key):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        connection = memory._database._engine.raw_connection()
        assert settings_of(connection.dbapi_connection)["synchronous"] == 2
        connection.close()


def test_a_row_without_its_scope_is_refused_by_the_database(database_url: str, opened):
    opened(database_url).open()
    attacker = Attacker(database_url)
    if database_url.startswith("sqlite"):
        attacker("PRAGMA foreign_keys = ON")
    else:
        attacker("SET session_replication_role = origin")

    with closing(attacker), pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError)):
        attacker(
            "INSERT INTO sessions (scope_id, kind, digest, row_mac, birth, generation, members,"
            " sealed, next_sequence, count, size, state, is_pinned, created_at, updated_at,"
            " revision) VALUES (?, 2, ?, ?, ?, ?, ?, ?, 0, 0, 0, 1, 0, 0, 0, 0)",
            *[b"x" * 16] * 7,
        )


# What the first version wrote


def frozen() -> dict[str, list[dict[str, Any]]]:
    loaded: dict[str, list[dict[str, Any]]] = json.loads((VECTORS / "database_v1.json").read_text())
    return loaded


def remember(memory: IsolatedMemory) -> None:
    """What the frozen database holds."""
    tutor = memory.scope(user_id="alice", module_id="tutor")
    tutor.sessions.create("monday", title="Tables", channel="general")
    history = tutor.chat_history("monday")
    history.add_messages([HumanMessage("What is 7 times 6?", id="q-1"), AIMessage("42", id="a-1")])
    history.add_messages([HumanMessage("Why? " * 300)])
    tutor.chat_history("cleared").add_user_message("gone")
    tutor.chat_history("cleared").clear()
    tutor.chat_history("cleared").add_user_message("new")
    memory.scope(user_id="alice", module_id="planner").chat_history("monday").add_ai_message("plan")
    memory.scope(user_id="Zoë", module_id="tutor", project_id="école").sessions.create("leer")


def test_memory_that_the_first_version_wrote_is_read_for_ever(
    memory: IsolatedMemory, database_url: str, attacker: Attacker
):
    for table in ("installation", "keys", "key_sets", "scopes", "sessions", "records", "key_uses"):
        for row in frozen()[table]:
            values = [bytes.fromhex(v[4:]) if str(v)[:4] == "hex:" else v for v in row.values()]
            if table == "installation":
                attacker(
                    "UPDATE installation SET installation_id = ?, directory_id = ?", *values[-2:]
                )
                continue
            names, marks = ", ".join(row), ", ".join("?" * len(row))
            attacker(f"INSERT INTO {table} ({names}) VALUES ({marks})", *values)

    with closing(IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY))) as fresh:
        tutor = fresh.scope(user_id="alice", module_id="tutor")
        assert tutor.chat_history("monday").messages == [
            HumanMessage("What is 7 times 6?", id="q-1"),
            AIMessage("42", id="a-1"),
            HumanMessage("Why? " * 300),
        ]
        assert tutor.chat_history("cleared").messages == [HumanMessage("new")]
        listed = {session.id: session for session in tutor.sessions()}
        assert set(listed) == {"monday", "cleared"}
        assert (listed["monday"].title, listed["monday"].channel) == ("Tables", "general")
        assert listed["monday"].messages == 3
        planner = fresh.scope(user_id="alice", module_id="planner")
        assert planner.chat_history("monday").messages == [AIMessage("plan")]
        zoe = fresh.scope(user_id="Zoë", module_id="tutor", project_id="école")
        assert [session.id for session in zoe.sessions()] == ["leer"]
        assert fresh.modules(user_id="alice") == ["planner", "tutor"]

        # It goes on, and knows what it has.
        again = tutor.chat_history("monday", idempotent=True)
        again.add_messages([HumanMessage("What is 7 times 6?", id="q-1"), AIMessage("Because.")])
        assert [message.content for message in again.messages][3:] == ["Because."]


# Room for what comes

EMPTY = {
    "sessions": {"channels": None, "state": 1, "is_pinned": 0, "idle_lifetime": None,
                 "absolute_lifetime": None},
    "keys": {"second_wrapped": None, "second_parameters": None},
    "scopes": {"hold": None},
}  # fmt: skip
KINDS_IN_USE = {*range(Kind.SESSION, Kind.ENTRY + 1)}


def test_columns_kinds_and_tables_that_nothing_writes_yet_are_empty(
    memory: IsolatedMemory, attacker: Attacker
):
    remember(memory)
    scoped = memory.scope(user_id="alice", module_id="tutor")
    scoped.store().put(("facts",), "k", {"v": 1}, ttl=5)
    scoped.vector_store(NGramEmbeddings()).add_texts(["one"])
    scoped.byte_store().mset([("k", b"v")])
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
    scoped.checkpointer().put(config, empty_checkpoint(), {}, {})

    for table, columns in EMPTY.items():
        for name, value in columns.items():
            assert set(attacker(f"SELECT DISTINCT {name} FROM {table}")) == {(value,)}, name
    for table in ("tombstones", "erasures", "audit"):
        assert attacker(f"SELECT COUNT(*) FROM {table}") == [(0,)]
    for table in ("records", "sessions"):
        assert {kind for (kind,) in attacker(f"SELECT kind FROM {table}")} <= KINDS_IN_USE
