"""An application's tables, in which nothing but a project has an owner, become owned memory."""

import sqlite3
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers import ForeignItem, ForeignProfile, ForeignSession, Rejected
from langmem_isolated.importers.application.tables import TablesSource

SCHEMA = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE projects (id INTEGER PRIMARY KEY, owner_id INTEGER, title TEXT);
CREATE TABLE chat_sessions (id TEXT PRIMARY KEY, project_id INTEGER, mode TEXT, title TEXT,
    created_at TIMESTAMP, is_archived BOOLEAN);
CREATE TABLE messages (id INTEGER PRIMARY KEY, session_id TEXT, role TEXT, content TEXT,
    created_at TIMESTAMP);
CREATE TABLE conversation_memory (project_id INTEGER, mode TEXT, key TEXT, value TEXT,
    updated_at TIMESTAMP);
CREATE TABLE cross_module_memory (project_id INTEGER, key TEXT, value TEXT);
"""
TABLES = """
[[sessions]]
name = "chat_sessions"
from = "chat_sessions AS s LEFT JOIN projects AS p ON p.id = s.project_id"
id = "s.id"
user = "p.owner_id"
module = "s.mode"
title = "s.title"
created_at = "s.created_at"
archived = "s.is_archived"
fields = { project_title = "p.title" }

[sessions.messages]
from = "messages AS m"
session = "m.session_id"
id = "m.id"
role = "m.role"
content = "m.content"
time = "m.created_at"

[[items]]
from = "conversation_memory AS c LEFT JOIN projects AS p ON p.id = c.project_id"
user = "p.owner_id"
module = "c.mode"
key = "c.key"
value = "c.value"
updated_at = "c.updated_at"

[[profiles]]
from = "cross_module_memory AS c JOIN projects AS p ON p.id = c.project_id"
user = "p.owner_id"
module = "'application'"
cross_module = true
attribute = "c.key"
value = "c.value"
"""
ROWS = {
    "users": [(1, "Ann"), (2, "Bob")],
    "projects": [(10, 1, "Maths"), (11, 1, "Art"), (20, 2, "Music"), (30, None, "Orphan")],
    "chat_sessions": [
        ("s1", 10, "tutor", "Fractions", "2026-01-05 09:00:00", True),
        ("s2", 10, "planner", None, "2026-01-06 09:00:00", False),
        ("s3", 11, "tutor", "Colours", "2026-01-07 09:00:00", False),
        ("s4", 20, "tutor", "Scales", "2026-01-08 09:00:00", False),
        ("s5", 30, "tutor", "Nobody's", "2026-01-09 09:00:00", False),
        ("s6", 20, "planner", "Empty", "2026-01-10 09:00:00", False),
    ],
    "messages": [
        # Written across sessions, and two at one moment.
        (1, "s1", "user", "What is ½ + ¼?", "2026-01-05 09:00:01"),
        (2, "s4", "user", "C major?", "2026-01-08 09:00:01"),
        (3, "s1", "assistant", "¾", "2026-01-05 09:00:02"),
        (4, "s2", "user", "Plan my week", "2026-01-06 09:00:01"),
        (5, "s1", "user", "Thanks", "2026-01-05 09:00:02"),
        (6, "s3", "user", "Is teal blue?", "2026-01-07 09:00:01"),
        (7, "s5", "user", "Whose am I?", "2026-01-09 09:00:01"),
        (8, "s4", "oracle", "A hidden word", "2026-01-08 09:00:02"),
        (9, "gone", "user", "Left behind", "2026-01-08 09:00:03"),
    ],
    "conversation_memory": [
        (10, "tutor", "goal", '{"grade": 1}', "2026-01-05 10:00:00"),
        (11, "tutor", "colour", "teal", "2026-01-07 10:00:00"),
        (10, "planner", "days", "[1, 3]", None),
        (20, "tutor", "broken", '{"grade": ', None),
        (30, "tutor", "lost", "1", None),
    ],
    "cross_module_memory": [(10, "name", "Ann"), (11, "pets", '["cat"]'), (20, "name", "Bob")],
}


def fill(execute: Callable[[str], object], insert: Callable[[str, list], object]) -> None:
    for statement in SCHEMA.split(";")[:-1]:
        execute(statement)
    for table, rows in ROWS.items():
        insert(table, rows)


@pytest.fixture
def sqlite_application(tmp_path: Path) -> str:
    connection = sqlite3.connect(tmp_path / "app.db")
    connection.execute("PRAGMA journal_mode = WAL")

    def insert(table: str, rows: list) -> None:
        connection.executemany(
            f"INSERT INTO {table} VALUES ({', '.join('?' * len(rows[0]))})", rows
        )

    fill(connection.execute, insert)
    connection.commit()
    # Left as an application that was killed leaves it: all rows are in the log.
    (tmp_path / "copy.db-wal").write_bytes((tmp_path / "app.db-wal").read_bytes())
    (tmp_path / "copy.db").write_bytes((tmp_path / "app.db").read_bytes())
    connection.close()
    return str(tmp_path / "copy.db")


@pytest.fixture
def postgres_application(postgres_url: str) -> str:
    url = f"{postgres_url}?options=-csearch_path%3Dpublic"
    with psycopg.connect(url) as connection:

        def insert(table: str, rows: list) -> None:
            places = ", ".join(["%s"] * len(rows[0]))
            with connection.cursor() as cursor:
                cursor.executemany(f"INSERT INTO public.{table} VALUES ({places})", rows)

        fill(connection.execute, insert)
    return url


@pytest.fixture(params=["sqlite", "postgres"])
def application(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(f"{request.param}_application")


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    (tmp_path / "tables.toml").write_text(TABLES)
    return tmp_path / "tables.toml"


def read(location: str, tables: Path) -> list[tuple]:
    """Its units, with the messages of sessions gone through."""
    with TablesSource(location, tables=tables) as source:
        return [
            (unit, list(unit.messages) if isinstance(unit, ForeignSession) else [])
            for unit in source.units()
        ]


def test_a_session_belongs_to_the_owner_of_its_project(application, tables):
    found = {unit.id: unit for unit, _ in read(application, tables) if hasattr(unit, "title")}

    owners = {id_: (one.fields["user"], one.fields["module"]) for id_, one in found.items()}
    assert owners == {
        "s1": ("1", "tutor"), "s2": ("1", "planner"), "s3": ("1", "tutor"),
        "s4": ("2", "tutor"), "s5": (None, "tutor"), "s6": ("2", "planner"),
    }  # fmt: skip
    first = found["s1"]
    assert (first.title, first.is_archived, found["s2"].is_archived) == ("Fractions", True, False)
    assert first.created_at == datetime(2026, 1, 5, 9, tzinfo=UTC)
    assert first.fields["project_title"] == "Maths"


def test_messages_are_in_their_session_in_the_order_of_time_and_id(application, tables):
    said = {unit.id: said for unit, said in read(application, tables) if hasattr(unit, "title")}

    assert [(type(m.message), m.message.content, m.message.id) for m in said["s1"]] == [
        (HumanMessage, "What is ½ + ¼?", "1"),
        (AIMessage, "¾", "3"),
        (HumanMessage, "Thanks", "5"),
    ]
    assert said["s1"][0].written_at == datetime(2026, 1, 5, 9, 0, 1, tzinfo=UTC)
    assert said["s6"] == []


def test_memory_rows_become_items_and_those_of_all_modules_a_profile(application, tables):
    found = [unit for unit, _ in read(application, tables)]

    items = {u.key: (u.fields["user"], u.fields["module"], u.namespace, u.value)
             for u in found if isinstance(u, ForeignItem)}  # fmt: skip
    place = ("conversation_memory",)
    assert items == {
        "goal": ("1", "tutor", place, {"grade": 1}),
        "colour": ("1", "tutor", place, {"value": "teal"}),
        "days": ("1", "planner", place, {"value": [1, 3]}),
        "lost": (None, "tutor", place, {"value": "1"}),
    }
    profiles = {u.id: (u.is_cross_module, u.attributes)
                for u in found if isinstance(u, ForeignProfile)}  # fmt: skip
    assert profiles == {
        "1": (True, {"name": "Ann", "pets": ["cat"]}),
        "2": (True, {"name": "Bob"}),
    }


def test_projects_of_one_owner_are_told_apart_by_labels_or_as_projects(application, tmp_path):
    told = TABLES.replace('key = "c.key"', 'key = "c.mode"\nlabels = ["c.project_id"]')
    told = told.replace('module = "c.mode"', 'module = "c.mode"\nproject = "p.id"')
    (tmp_path / "t.toml").write_text(told)

    found = [unit for unit, _ in read(application, tmp_path / "t.toml")]

    items = [u for u in found if isinstance(u, ForeignItem) and u.key == "tutor"]
    owned = {(u.namespace, u.fields["project"]) for u in items if u.fields["user"] == "1"}
    assert owned == {(("conversation_memory", id_), id_) for id_ in ("10", "11")}


def test_what_is_broken_is_told_with_its_place_and_the_rest_goes_on(application, tables):
    found = read(application, tables)
    rejected = [one for unit, said in found for one in (unit, *said) if isinstance(one, Rejected)]

    assert [one.place for one in rejected] == [
        "messages, id 8",
        "messages, id 9",
        # Rows without an owner come first in SQLite, last in PostgreSQL.
        f"conversation_memory, row {4 if 'postgres' in application else 5} by user",
    ]
    assert "a role of 6 characters" in rejected[0].reason
    assert "a session that chat_sessions does not have" in rejected[1].reason
    assert "no JSON" in rejected[2].reason
    assert not any(word in repr(rejected) for word in ("oracle", "hidden", "Left", "grade"))


def test_a_column_of_authors_gives_names_to_messages_and_not_to_places(
    sqlite_application, tmp_path
):
    told = TABLES.replace('role = "m.role"', 'role = "m.role"\nname = "m.role"')
    (tmp_path / "t.toml").write_text(told)

    said = [one for _, said in read(sqlite_application, tmp_path / "t.toml") for one in said]

    assert [one.place for one in said if isinstance(one, Rejected)] == ["messages, id 8"]
    assert {one.message.name for one in said if not isinstance(one, Rejected)} == {
        "user",
        "assistant",
    }


def test_the_counts_by_user_and_module_are_those_of_the_application(application, tables):
    found = read(application, tables)
    sessions = Counter(u.fields["user"] for u, _ in found if isinstance(u, ForeignSession))
    messages: Counter[str] = Counter()
    for unit, said in found:
        if isinstance(unit, ForeignSession):
            messages[unit.fields["module"]] += len(said)

    assert sessions == {"1": 3, "2": 2, None: 1}
    assert messages == {"tutor": 7, "planner": 1}
    with TablesSource(application, tables=tables) as source:
        assert source.total() == 9 + 5 + 3


def test_a_column_of_json_holds_messages_as_well(tmp_path):
    connection = sqlite3.connect(tmp_path / "app.db")
    connection.execute("CREATE TABLE chats (id INTEGER, user TEXT, log TEXT)")
    log = '[{"role": "user", "content": "hi", "created_at": 1767603600}, 7]'
    connection.executemany("INSERT INTO chats VALUES (?, ?, ?)",
                           [(1, "ann", log), (2, "ann", "{"), (3, "bob", None)])  # fmt: skip
    connection.commit()
    connection.close()
    (tmp_path / "t.toml").write_text(
        '[[sessions]]\nfrom = "chats"\nid = "id"\nuser = "user"\nmessages = "log"\n'
    )

    found = read(str(tmp_path / "app.db"), tmp_path / "t.toml")

    [(_, [message, seven]), (_, [broken]), (_, nothing)] = found
    assert (message.message.content, message.written_at.year) == ("hi", 2026)
    assert seven.place == "chats, row 1 by id, messages, message 2"
    assert ("no JSON" in broken.reason, nothing) == (True, [])


def test_text_that_is_no_utf8_is_told_and_its_neighbours_come(sqlite_application, tables):
    connection = sqlite3.connect(sqlite_application)
    connection.execute("UPDATE messages SET content = CAST(x'ff' AS TEXT) WHERE id = 3")
    connection.commit()
    connection.close()

    said = next(said for unit, said in read(sqlite_application, tables) if unit.id == "s1")

    assert [isinstance(one, Rejected) for one in said] == [False, True, False]
    assert said[1].reason == "a message whose content is no text: bytes"


def test_a_join_that_would_give_a_session_two_owners_is_refused(application, tmp_path):
    (tmp_path / "t.toml").write_text(TABLES.replace("p.id = s.project_id", "p.owner_id = 1", 1))

    with pytest.raises(SourceRefused, match="6 sessions more than one row"):
        read(application, tmp_path / "t.toml")


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("p.owner_id", "p.keeper", "p.keeper"),
        ('user = "p.owner_id"\n', "", "lacks in .* 'user'"),
        ('title = "s.title"', 'titel = "s.title"', "'titel'; known are"),
        ('title = "s.title"', "title = 5", "title = int"),
        ("[[sessions]]", "[[sessions]", "no TOML"),
        ('key = "c.key"', 'key = "c.key"\nlabels = "c.mode"', "labels = str"),
        ("cross_module = true", "cross_module = 'yes'", "where true or false"),
        ("[[items]]", "[[items]]\ncross_module = true", "'cross_module'; known are"),
        (TABLES, "[mapping]", "names no table"),
        ('id = "s.id"', 'id = "id"', "ambiguous column name: id"),
        ("LEFT JOIN", "LEFT JION", "syntax error"),
    ],
)
def test_a_table_file_that_cannot_be_meant_is_refused(
    sqlite_application, tmp_path, before, after, reason
):
    (tmp_path / "t.toml").write_text(TABLES.replace(before, after))

    with pytest.raises(SourceRefused, match=reason):
        read(sqlite_application, tmp_path / "t.toml")


@pytest.mark.parametrize("words", ["(DELETE FROM users RETURNING id) AS s", "chat_sessions"])
def test_nothing_is_changed_whatever_the_table_file_says(sqlite_application, tmp_path, words):
    files = [Path(sqlite_application), Path(f"{sqlite_application}-wal")]
    before = [path.read_bytes() for path in files]
    tables = '[[sessions]]\nfrom = "WORDS"\nid = "id"\nuser = "id"\nmessages = "id"\n'
    (tmp_path / "t.toml").write_text(tables.replace("WORDS", words))

    try:
        read(sqlite_application, tmp_path / "t.toml")
    except SourceRefused:
        assert "DELETE" in words

    assert [path.read_bytes() for path in files] == before


def test_it_is_known_again_without_its_password(tables):
    url = "postgresql://app:hush@db1,db2:5432/app?options=-csearch_path%3Dold&password=hush"

    identity = TablesSource(url, tables=tables).identity

    assert identity.startswith("postgresql://db1,db2:5432/app?options=-csearch_path%3Dold ")
    assert "hush" not in identity


def test_it_tells_which_owners_its_units_have(sqlite_application, tables, tmp_path):
    assert TablesSource(sqlite_application, tables=tables).owners == ("user", "module")
    with pytest.raises(SourceRefused, match="--tables"):
        TablesSource(sqlite_application)


def test_postgresqls_own_types_are_read_as_what_they_are(postgres_url, tmp_path):
    with psycopg.connect(postgres_url) as connection:
        connection.execute(
            "CREATE TABLE public.chats "
            "(id uuid, owner uuid, at timestamptz, log jsonb, pinned bool)"
        )
        connection.execute(
            "INSERT INTO public.chats VALUES (%s, %s, '2026-01-05 10:00+01', %s, true)",
            ("00000000-0000-0000-0000-000000000001", "00000000-0000-0000-0000-0000000000aa",
             '[{"role": "user", "content": [{"type": "text", "text": "100 % ?"}]}]'),
        )  # fmt: skip
    (tmp_path / "t.toml").write_text(
        '[[sessions]]\nfrom = "public.chats"\nid = "id"\nuser = "owner"\nmessages = "log"\n'
        "created_at = \"at\"\npinned = \"pinned AND 'a%' LIKE 'a%'\"\n"
    )

    [(session, [message])] = read(postgres_url, tmp_path / "t.toml")

    assert session.id == "00000000-0000-0000-0000-000000000001"
    assert session.fields["user"] == "00000000-0000-0000-0000-0000000000aa"
    assert session.created_at == datetime(2026, 1, 5, 9, tzinfo=UTC)
    assert (session.is_pinned, message.message.text) == (True, "100 % ?")
