"""Tables are upgraded by numbered steps, and whoever is killed goes on where it was."""

import hashlib
import json
import os
import signal
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database import row_level_security, schema
from langmem_isolated._database.database import Database
from langmem_isolated._database.roles import Roles
from langmem_isolated._database.upgrades import versions
from langmem_isolated._database.upgrades.step import Step
from langmem_isolated.errors import SchemaTooOld
from tests.command_line import run
from tests.conftest import ROOT_KEY, Attacker
from tests.processes import Child

NOW = versions.newest()
# A later version, for tests alone: a new table, a new column that every row gets a value in.
LATER = Step.of_both(
    NOW + 1,
    "notes when a session was last looked at",
    """
    CREATE TABLE @schema.looks (scope_id @bytes NOT NULL, PRIMARY KEY (scope_id))@clustered;
    ALTER TABLE @schema.sessions ADD COLUMN looked_at BIGINT;
    UPDATE @schema.sessions SET looked_at = created_at;
    INSERT INTO @schema.looks SELECT scope_id FROM @schema.scopes;
    """,
    rewrites_rows=True,
)
AND_LATER = Step.of_both(
    NOW + 2, "counts looks", "ALTER TABLE @schema.looks ADD COLUMN count INTEGER DEFAULT 0;"
)
NEXT = (*versions.STEPS, LATER)
LAST = (*NEXT, AND_LATER)


@pytest.fixture
def filled_url(database_url: str, root_key: LocalRootKey) -> str:
    """A database of the version of now, with three sessions."""
    fill(database_url, root_key)
    return database_url


@pytest.fixture
def filled_file(sqlite_url: str, root_key: LocalRootKey) -> Path:
    fill(sqlite_url, root_key)
    return file_of(sqlite_url)


def fill(url: str, root_key: LocalRootKey) -> None:
    with IsolatedMemory(url, root_key=root_key) as memory:
        for user in ("ann", "bob", "cem"):
            history = memory.scope(user_id=user, module_id="tutor").chat_history("monday")
            history.add_user_message(f"{user} asks")


def file_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """The version after the one of now is installed."""
    monkeypatch.setattr(versions, "STEPS", NEXT)


def found_in(url: str, sql: str) -> list[tuple[Any, ...]]:
    with closing(Attacker(url)) as attacker:
        return attacker(sql)


def version_in(url: str) -> int:
    with closing(Database(url, auto_upgrade=False)) as database:
        return database.inspect(versions.version_of)


def asked(url: str) -> list[str]:
    """What each user asked, read with the root key."""
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        return [
            memory.scope(user_id=user, module_id="tutor").chat_history("monday").messages[0].text
            for user in ("ann", "bob", "cem")
        ]


# The steps


def test_steps_are_numbered_from_one_without_a_gap():
    assert [step.version for step in versions.STEPS] == [*range(1, NOW + 1)]


def test_the_steps_make_the_tables_that_the_code_describes(database_url: str):
    """A change of `schema.py` without a step would be missing in every database that is there."""
    with closing(Database(database_url)) as database:
        database.upgrade()
        made, described = database.inspect(made_and_described)

    assert set(made) == set(schema.metadata.tables)
    assert made == described


def made_and_described(connection: sa.Connection) -> tuple[dict[str, Any], dict[str, Any]]:
    is_postgres = connection.dialect.name == "postgresql"
    made = looked_at(connection, schema.POSTGRES_SCHEMA if is_postgres else None)
    if is_postgres:
        connection.exec_driver_sql("CREATE SCHEMA described")
        elsewhere = connection.execution_options(schema_translate_map={None: "described"})
        schema.metadata.create_all(elsewhere, checkfirst=False)
        return made, looked_at(elsewhere, "described")
    with sa.create_engine("sqlite://").connect() as empty:
        schema.metadata.create_all(empty)
        return made, looked_at(empty, None)


def looked_at(connection: sa.Connection, place: str | None) -> dict[str, Any]:
    """Columns, keys and indexes of every table; of partial indexes see the next test."""
    inspector = sa.inspect(connection)
    found = {}
    for name in inspector.get_table_names(schema=place):
        columns = [
            (one["name"], str(one["type"]), one["nullable"], one["default"])
            for one in inspector.get_columns(name, schema=place)
        ]
        indexes = [
            (one["name"], one["column_names"], bool(one["unique"]))
            for one in inspector.get_indexes(name, schema=place)
        ]
        keys = [
            (one["constrained_columns"], one["referred_table"], one["options"])
            for one in inspector.get_foreign_keys(name, schema=place)
        ]
        own = inspector.get_pk_constraint(name, schema=place)["constrained_columns"]
        found[name] = (sorted(columns), own, sorted(indexes), sorted(map(str, keys)))
    return found


def test_indexes_leave_out_what_the_code_says(database_url: str):
    with closing(Database(database_url)) as database:
        database.upgrade()
    catalogue = "pg_indexes" if database_url.startswith("postgresql") else "sqlite_master"
    column, name = ("indexdef", "indexname") if catalogue == "pg_indexes" else ("sql", "name")

    for index, condition in schema.PARTIAL_INDEXES.items():
        where = f"SELECT {column} FROM {catalogue} WHERE {name} = '{index}'"
        ((made,),) = found_in(database_url, where)
        told = made.partition(" WHERE ")[2].replace("(", "").replace(")", "")
        assert told == condition, index


# Taking them


def test_every_row_is_rewritten_and_all_memory_is_there(filled_url: str, later: None):
    del later
    before = found_in(filled_url, "SELECT * FROM records ORDER BY 1, 2, 3, 4")

    with closing(Database(filled_url)) as database:
        assert database.upgrade() == (NOW, NOW + 1)
        assert database.upgrade() == (NOW + 1, NOW + 1)

    assert found_in(filled_url, "SELECT * FROM records ORDER BY 1, 2, 3, 4") == before
    assert found_in(filled_url, "SELECT count(*) FROM sessions WHERE looked_at > 0") == [(3,)]
    assert asked(filled_url) == ["ann asks", "bob asks", "cem asks"]


def killed_at(url: str, statement: int) -> None:
    """Upgrade, and be killed before the statement of this number, of those that change anything."""
    seen = 0

    def count(_c: Any, _u: Any, sql: str, *_: Any) -> None:
        nonlocal seen
        if sql.lstrip().startswith(("SELECT", "PRAGMA")):
            return
        if seen == statement:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    database = Database(url)
    sa.event.listen(database._engine, "before_cursor_execute", count)
    database.upgrade()


def test_killed_at_any_statement_it_goes_on_with_a_whole_version(
    filled_url: str, monkeypatch: pytest.MonkeyPatch
):
    """Two steps; behind each kill the version says what is there."""
    monkeypatch.setattr(versions, "STEPS", LAST)
    met, statement = set(), 0
    while (version := version_in(filled_url)) < NOW + 2:
        child = Child(killed_at, filled_url, statement)
        _, status = os.waitpid(child.pid, 0)
        os.close(child._read)
        reached = version_in(filled_url)
        assert os.WIFSIGNALED(status) or reached == NOW + 2
        columns = found_in(filled_url, f"SELECT * FROM {catalog_of(filled_url)}")
        assert ("looked_at" in str(columns)) == (reached > NOW)
        met.add(reached)
        # From where it went on there are fewer statements.
        statement = statement + 1 if reached == version else 0

    assert met == {NOW, NOW + 1, NOW + 2}
    assert found_in(filled_url, "SELECT count(*), min(count) FROM looks") == [(3, 0)]
    assert asked(filled_url) == ["ann asks", "bob asks", "cem asks"]


def catalog_of(url: str) -> str:
    return "sqlite_master" if url.startswith("sqlite") else "information_schema.columns"


def test_rows_are_rewritten_where_row_level_security_binds_the_owner_of_the_tables(
    postgres_url: str, root_key: LocalRootKey, later: None
):
    del later
    name = postgres_url.rpartition("/")[2]
    owner = f"owner_{name}"
    roles = Roles(owner, f"app_{name}", f"sweeper_{name}", f"backup_{name}")
    with psycopg.connect(postgres_url, autocommit=True) as admin:
        admin.execute("DROP SCHEMA langmem_isolated CASCADE")
        admin.execute(f"CREATE ROLE {owner} LOGIN")
        admin.execute(f"GRANT CREATE ON DATABASE {name} TO {owner}")
    url = postgres_url.replace("postgres@", f"{roles.owner}@")
    versions_of_now(url, root_key)
    with closing(Database(url, auto_upgrade=False)) as database:
        row_level_security.enable(database)
        assert row_level_security.status(database).is_in_force

        assert database.upgrade() == (NOW, NOW + 1)

        assert row_level_security.status(database).is_forced
    assert found_in(postgres_url, "SELECT count(*) FROM sessions WHERE looked_at > 0") == [(3,)]


def versions_of_now(url: str, root_key: LocalRootKey) -> None:
    later = versions.STEPS
    versions.STEPS = later[:NOW]
    try:
        fill(url, root_key)
    finally:
        versions.STEPS = later


# The command


def test_a_dry_run_touches_nothing(filled_file: Path, later: None):
    del later
    before = bytes_of(filled_file)

    shown = run("schema", "upgrade", "--dry-run", "--json", "--database", url_of(filled_file))
    read = run("schema", "status", "--database", url_of(filled_file), key=None)

    (plan,) = json.loads(shown.stdout)
    assert (plan["version"], plan["newest"]) == (NOW, NOW + 1)
    assert [one["what"] for one in plan["pending"]] == [LATER.what]
    assert plan["pending"][0]["sql"] == list(LATER.sqlite)
    assert {"table": "sessions", "rows": 3, "size": None} in plan["tables"]
    assert read.exit_code == 3
    assert bytes_of(filled_file) == before


def bytes_of(file: Path) -> tuple[bytes, bytes]:
    """A database and its log; the index of the log, `-shm`, is SQLite's own."""
    log = file.with_name(f"{file.name}-wal")
    return file.read_bytes(), log.read_bytes() if log.exists() else b""


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


def test_a_dry_run_makes_no_file_where_there_is_none(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/none.db"

    assert run("schema", "upgrade", "--dry-run", "--database", url).exit_code == 0
    assert run("schema", "status", "--database", url).exit_code == 1
    assert [*tmp_path.iterdir()] == []


def test_a_file_of_other_software_is_copied_and_asked_about_before_it_gets_our_tables(
    tmp_path: Path,
):
    """Who gives the source of an import as its target is told to run this."""
    file = tmp_path / "chats.db"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE message_store (id INTEGER)")
    before = file.read_bytes()
    upgrade = ("schema", "upgrade", "--database", url_of(file))

    refused = run(*upgrade, stdin="n\n")

    assert refused.exit_code == 1
    assert "1 tables of other software" in refused.stderr
    assert file.read_bytes() == before
    assert run(*upgrade, "--yes").exit_code == 0
    assert (tmp_path / "chats.db.schema-0").exists()


def test_a_copy_is_made_first_and_brings_the_version_before_back(
    filled_file: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(versions, "STEPS", NEXT)
    upgrade = ("schema", "upgrade", "--database", url_of(filled_file))
    assert run(*upgrade, stdin="n\n", key=None).exit_code == 1
    assert version_in(url_of(filled_file)) == NOW

    done = run(*upgrade, "--yes", key=None)

    copy = filled_file.with_name(f"{filled_file.name}.schema-{NOW}")
    assert done.exit_code == 0
    assert f"upgraded from {NOW}" in done.stdout
    assert version_in(url_of(filled_file)) == NOW + 1
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    monkeypatch.setattr(versions, "STEPS", NEXT[:NOW])
    assert asked(url_of(copy)) == ["ann asks", "bob asks", "cem asks"]


def test_a_copy_takes_no_file_s_place_and_nothing_is_upgraded_without_one(
    filled_file: Path, later: None
):
    del later
    taken = filled_file.with_name("taken")
    taken.write_text("a letter")

    done = run("schema", "upgrade", "--backup", taken, "--yes", "--database", url_of(filled_file))

    assert done.exit_code == 1
    assert "No backup was written" in done.stderr
    assert taken.read_text() == "a letter"
    assert version_in(url_of(filled_file)) == NOW


def test_postgres_is_upgraded_once_somebody_says_that_there_is_a_backup(
    postgres_url: str, root_key: LocalRootKey, later: None
):
    del later
    versions_of_now(postgres_url, root_key)
    upgrade = ("schema", "upgrade", "--yes", "--database", postgres_url)

    refused = run(*upgrade)
    assert refused.exit_code == 1
    assert "pg_dump --format=custom --schema=langmem_isolated" in refused.stderr
    assert "--backed-up" in refused.stderr
    assert version_in(postgres_url) == NOW
    assert run(*upgrade, "--backed-up").exit_code == 0
    assert version_in(postgres_url) == NOW + 1


def test_the_status_tells_of_a_later_version_and_of_what_has_begun(filled_file: Path):
    url = url_of(filled_file)
    with closing(sqlite3.connect(filled_file, isolation_level=None)) as raw:
        raw.execute("UPDATE installation SET rotating_since = 1")
    current = run("schema", "status", "--database", url)
    assert current.exit_code == 0
    assert "rotations of all keys: 1" in current.stdout
    with closing(sqlite3.connect(filled_file, isolation_level=None)) as raw:
        raw.execute(f"UPDATE installation SET version = {NOW + 5}")

    later = run("schema", "status", "--database", url)

    assert later.exit_code == 1
    assert f"schema version {NOW + 5}, later than this package" in later.stdout
    refused = run("schema", "upgrade", "--yes", "--database", url)
    assert f"version {NOW + 5}, this package knows up to {NOW}" in refused.stderr


def test_auto_upgrade_off_opens_no_earlier_version(filled_url: str, later: None):
    del later
    with (
        closing(Database(filled_url, auto_upgrade=False)) as database,
        pytest.raises(SchemaTooOld, match="schema upgrade"),
    ):
        database.open()

    assert version_in(filled_url) == NOW


def test_the_first_step_is_frozen():
    """A released step is never edited: databases that have taken it would lack the change."""
    script = json.dumps([versions.STEPS[0].sqlite, versions.STEPS[0].postgresql]).encode()

    assert hashlib.sha256(script).hexdigest()[:16] == "2516cbb0addb2df0"
