"""Chat histories of LangChain are read as their own classes read them, and left as they are."""

import json
import re
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

import psycopg
import pytest
import sqlalchemy
import typer
from langchain_core.messages import HumanMessage, message_to_dict
from langchain_postgres import PostgresChatMessageHistory
from pymongo.errors import AutoReconnect

from langmem_isolated import IsolatedMemory, Limits, LocalRootKey
from langmem_isolated.cli.importing.group import commands
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers import ForeignSession, Import, Mapping, Owner, Rejected, Source
from langmem_isolated.importers.langchain import SPECS
from tests.chat_history_sources import (
    MAKE,
    MESSAGES,
    WRITTEN,
    Written,
    sql_histories,
    sqlite,
    write,
)
from tests.conftest import ROOT_KEY, new_postgres_url
from tests.killed_imports import outlives_kills
from tests.postgres import PostgresServer
from tests.served import at_the_server
from tests.test_database import as_nobody

# Of what SESSIONS says, as it would stand in a file.
CANARIES = ("世界".encode(), b"Antworte auf Deutsch", b"narrator", b"alice:monday", b"x" * 100)


def read(source: Source) -> tuple[dict[str, list[Any]], list[Rejected]]:
    """Messages by session, and what was rejected."""
    sessions: dict[str, list[Any]] = {}
    rejected = []
    for unit in source.units():
        if isinstance(unit, Rejected):
            rejected.append(unit)
            continue
        assert unit.id not in sessions
        found = list(unit.messages)
        rejected += [message for message in found if isinstance(message, Rejected)]
        sessions[unit.id] = [m for m in found if not isinstance(m, Rejected)]
    return sessions, rejected


@pytest.fixture(scope="module", params=WRITTEN)
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Written]:
    """Each source once for all tests, which leave it as it is."""
    is_postgres = "ostgre" in request.param
    url = new_postgres_url(request.getfixturevalue("postgres")) if is_postgres else ""
    # Whoever made the source made its tables, too.
    url = at_the_server(url)
    with WRITTEN[request.param](tmp_path_factory.mktemp("source"), url) as made:
        yield made


def test_sessions_come_as_their_own_class_has_them(written: Written):
    """All kinds of messages, ids with colons and quotes, interleaved, equal ones in their order."""
    with written.source() as source:
        sessions, rejected = read(source)
        again, _ = read(source)

    assert rejected == []
    found = {id_: [item.message for item in items] for id_, items in sessions.items()}
    assert found == written.sessions
    assert list(again) == list(sessions)
    for id_, items in sessions.items():
        assert [type(m.message) for m in items] == [type(m) for m in written.sessions[id_]]
        assert len({item.place for item in items}) == len(items)
        assert not any(id_ in item.place for item in items)


def test_times_come_where_the_source_has_them(tmp_path: Path, postgres_url: str):
    begin = datetime.now(UTC).replace(microsecond=0)
    for name in ("langchain-postgres", "Redis documents", "MongoDB"):
        with (
            WRITTEN[name](tmp_path, at_the_server(postgres_url)) as written,
            written.source() as source,
        ):
            times = [[m.written_at for m in found] for found in read(source)[0].values()]
        assert all(begin <= time <= datetime.now(UTC) for session in times for time in session)
        assert all(session == sorted(session) for session in times)


# Every row but the good ones is what somebody else may have written.
GOOD = json.dumps(message_to_dict(HumanMessage("secret-canary")))
CONSTRUCTOR = {"lc": 1, "type": "constructor", "id": ["os", "system"], "kwargs": {"x": "canary"}}
NESTED = {"type": "human", "data": {"content": [{"a": [CONSTRUCTOR]}]}}
BAD = {
    "another type of message": '{"type": "canary", "data": {"content": "canary"}}',
    "a type that is a list": '{"type": ["human"], "data": {"content": "canary"}}',
    "a class for a type": '{"type": "langchain_core.messages.HumanMessage", "data": {}}',
    "broken JSON": GOOD[:-9],
    "no object": '["canary"]',
    "no data": '{"type": "human", "data": "canary"}',
    "a constructor": json.dumps(CONSTRUCTOR),
    "a constructor in a message": json.dumps(NESTED),
    "a constructor in escapes": json.dumps(NESTED).replace('"lc"', r'"\u006cc"'),
    "other fields": '{"type": "tool", "data": {"content": "canary", "status": "canary"}}',
    "a field that is Python's": '{"type": "human", "data": {"content": "canary", "self": 1}}',
    "a type in its data": '{"type": "human", "data": {"content": "canary", "type": "ai"}}',
    "brackets without an end": "[" * 100_000,
    "a number of many digits": '{"type": "human", "data": ' + "1" * 5_000 + "}",
    "bytes": b"\xff\xfecanary",
    "nothing": None,
    "a number": 17,
}


def test_what_is_no_message_is_rejected_with_its_place_and_the_rest_goes_on(tmp_path: Path):
    path = tmp_path / "chats.db"
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE message_store (id INTEGER PRIMARY KEY, session_id, message)")
        for stored in BAD.values():
            rows = [("one", stored), ("one", GOOD)]
            database.executemany("INSERT INTO message_store VALUES (NULL, ?, ?)", rows)
        rows = [(None, GOOD), (b"\xffcanary", GOOD)]
        database.executemany("INSERT INTO message_store VALUES (NULL, ?, ?)", rows)
        database.commit()

    with MAKE["sql-chat-history"](str(path)) as source:
        sessions, rejected = read(source)

    assert [item.message.content for item in sessions["one"]] == ["secret-canary"] * len(BAD)
    ids = [2 * len(BAD) + 1, *range(1, 2 * len(BAD), 2), 2 * len(BAD) + 2]
    assert [item.place for item in rejected] == [f"message_store, id {id_}" for id_ in ids]
    assert all("expected" in item.reason for item in rejected)
    assert "canary" not in repr(rejected)


def test_a_column_that_is_not_there_is_no_text_of_that_name(tmp_path: Path):
    """SQLite takes a quoted name that it does not know for text: all would be one session's."""
    path = tmp_path / "chats.db"
    with sql_histories(f"sqlite:///{path}") as history:
        write(history, {"one": MESSAGES[:1], "two": MESSAGES[:1]})

    for option in ("session_column", "message_column", "order_column", "time_column", "table"):
        with pytest.raises(SourceRefused, match="no such"):
            MAKE["sql-chat-history"](str(path), **{option: 'nope" UNION SELECT 1; --'})


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_one_id_with_two_owners_is_two_sessions(kind: str, tmp_path: Path, postgres_url: str):
    """Tables by (user, conversation) have conversation 1 of everybody."""
    sqlite_url, server = f"sqlite:///{tmp_path}/chats.db", at_the_server(postgres_url)
    url = server if kind == "postgres" else sqlite_url
    columns = "id SERIAL PRIMARY KEY, conversation INT, owner TEXT, body TEXT, at TEXT"
    rows = [(n, 1, owner, GOOD, "2026-01-02 03:04:05") for n, owner in enumerate("abBa")]
    engine = sqlalchemy.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        connection.exec_driver_sql(f'CREATE TABLE "my chats" ({columns})')
        for row in rows:
            connection.execute(
                sqlalchemy.text('INSERT INTO "my chats" VALUES (:n, :c, :o, :b, :t)'),
                dict(zip("ncobt", row, strict=True)),
            )
    engine.dispose()

    with MAKE["sql-chat-history"](
        url,
        table="my chats",
        session_column="conversation",
        message_column="body",
        time_column="at",
        columns=["owner"],
    ) as source:
        found = [(u.id, dict(u.fields), [m.written_at for m in u.messages]) for u in source.units()]

    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert found == [("1", {"owner": o}, [at] * n) for o, n in (("B", 1), ("a", 2), ("b", 1))]


def test_times_of_postgresql_have_one_form_and_who_may_only_read_reads_them(
    postgres: PostgresServer, postgres_url: str
):
    name = postgres_url.rpartition("/")[2]
    with psycopg.connect(postgres.url(name), autocommit=True) as connection:
        connection.execute(f"ALTER DATABASE {name} SET datestyle = 'SQL, DMY'")
        PostgresChatMessageHistory.create_tables(connection, "chat_history")
        for time in ("2026-01-02 03:04:05.123456+02", "infinity", "4000-01-01 BC"):
            row = "INSERT INTO chat_history (session_id, message, created_at) VALUES (%s, %s, %s)"
            connection.execute(row, (UUID(int=1), GOOD, time))
        connection.execute("DROP ROLE IF EXISTS only_reads")
        connection.execute("CREATE ROLE only_reads LOGIN")
        connection.execute("GRANT SELECT ON chat_history TO only_reads")

    with MAKE["postgres-chat-history"](postgres.url(name, "only_reads")) as source:
        sessions, rejected = read(source)

    ((message,),) = sessions.values()
    assert message.written_at == datetime(2026, 1, 2, 1, 4, 5, 123456, tzinfo=UTC)
    assert [item.place for item in rejected] == ["chat_history, id 2", "chat_history, id 3"]
    with psycopg.connect(postgres.url(name), autocommit=True) as connection:
        connection.execute("DROP OWNED BY only_reads; DROP ROLE only_reads")


def test_reading_leaves_an_sqlite_file_and_its_log_as_they_are(tmp_path: Path):
    path = tmp_path / "chats.db"
    with closing(sqlite3.connect(path)) as application:
        application.execute("PRAGMA journal_mode = WAL")
        application.execute("CREATE TABLE message_store (id INTEGER, session_id, message)")
        application.execute("INSERT INTO message_store VALUES (1, 'one', ?)", (GOOD,))
        application.commit()
        with MAKE["sql-chat-history"](str(path)) as source:
            before = file_bytes(source)
            sessions, _ = read(source)
            assert source.total() == 1
        assert file_bytes(source) == before

    assert len(before) == 2
    assert [len(messages) for messages in sessions.values()] == [1]


def test_redis_is_asked_for_nothing_but_reading_and_never_for_all_keys(tmp_path: Path):
    with WRITTEN["Redis lists"](tmp_path, "") as written:
        written.location.config_resetstat()
        with written.source() as source:
            read(source)
        used = {name.removeprefix("cmdstat_") for name in written.location.info("commandstats")}

    assert {name.partition("|")[0] for name in used} - {"client", "hello", "select", "config"} == {
        *("ping", "scan", "llen", "lrange"),
    }


def test_a_list_of_redis_that_grows_while_it_is_read_is_read_in_order(tmp_path: Path):
    messages = [HumanMessage(str(number)) for number in range(120)]
    with WRITTEN["Redis lists"](tmp_path, "") as written, written.source() as source:
        key = "message_store:a long one"
        written.location.lpush(key, *(json.dumps(message_to_dict(m)) for m in messages))
        session = next(unit for unit in source.units() if unit.id == "a long one")
        found = []
        for item in session.messages:
            written.location.lpush(key, GOOD)
            found.append(item.message)

    assert found == messages


def test_a_server_that_fails_half_way_ends_the_source_with_an_error_of_ours(tmp_path: Path):
    with WRITTEN["Redis lists"](tmp_path, "") as written, written.source() as source:
        session = next(unit for unit in source.units())
        written.location.shutdown(nosave=True)
        with pytest.raises(SourceRefused, match="Redis"):
            list(session.messages)
    failing = patch("mongomock.collection.Cursor.__next__", side_effect=AutoReconnect("canary"))
    with WRITTEN["MongoDB"](tmp_path, "") as written, written.source() as source:
        session = next(source.units())
        with failing, pytest.raises(SourceRefused, match="MongoDB") as refused:
            list(session.messages)
    assert "canary" not in str(refused.value)


def test_a_source_that_is_closed_half_way_says_nothing(tmp_path: Path, postgres_url: str):
    for name in ("SQLite", "PostgreSQL"):
        with (
            WRITTEN[name](tmp_path, at_the_server(postgres_url)) as written,
            written.source() as source,
        ):
            units = source.units()
            next(units)
        units.close()


def test_a_document_of_redis_in_another_sessions_place_is_rejected(tmp_path: Path):
    with WRITTEN["Redis documents"](tmp_path, "") as written:
        key = next(written.location.scan_iter(f"chat:{next(iter(written.sessions))}:*"))
        written.location.execute_command("JSON.SET", key, "$.session_id", '"mallory"')
        with written.source() as source:
            _, rejected = read(source)

            written.location.execute_command("JSON.SET", "chat:ann@example.org", "$", "{}")
            _, others = read(source)

    assert [item.place for item in rejected] == [f"document {key[-26:].decode()}"]
    assert {item.place for item in others} == {rejected[0].place, "a document without a ULID"}


def test_a_link_in_a_folder_of_sessions_brings_nobody_anothers_session(tmp_path: Path):
    (tmp_path / "alice").mkdir()
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob" / "monday.json").write_text(json.dumps([message_to_dict(MESSAGES[0])]))
    (tmp_path / "alice" / "monday.json").symlink_to(tmp_path / "bob" / "monday.json")

    with MAKE["file-chat-history"](str(tmp_path)) as source:
        sessions, rejected = read(source)

    assert [*sessions] == ["bob/monday"]
    assert [(one.place, one.reason) for one in rejected] == [
        ("file 1 in the order of paths", "expected a file, got a link")
    ]


def test_a_folder_of_sessions_that_nobody_may_read_is_refused_and_not_left_out(disk_path: Path):
    disk_path.chmod(0o755)
    (disk_path / "alice").mkdir()
    (disk_path / "alice" / "monday.json").write_text("[]")
    (disk_path / "alice").chmod(0o000)

    def refusal() -> str:
        with pytest.raises(SourceRefused) as caught:
            [*MAKE["file-chat-history"](str(disk_path)).units()]
        return str(caught.value)

    assert "A folder of it cannot be read: Permission denied" in as_nobody(refusal)


def test_a_file_that_ends_too_early_keeps_the_messages_that_are_whole(tmp_path: Path):
    whole = json.dumps([message_to_dict(message) for message in MESSAGES[:3]])
    bad = {"a": whole[:-20], "b": whole + "canary", "c": "{}", "d": "", "e": "[,]", "f": "[NaN]"}
    for name, text in bad.items():
        (tmp_path / f"{name}.json").write_text(text)
    (tmp_path / "g.json").write_bytes(b"[\xff]")

    with MAKE["file-chat-history"](str(tmp_path)) as source:
        sessions, rejected = read(source)

    counts = {name: len(messages) for name, messages in sessions.items()}
    assert counts == {"a": 2, "b": 3, "e": 0, "f": 0}
    assert [
        item.place.partition(" in ")[0] for item in rejected if "message" not in item.place
    ] == [
        *("file 3", "file 4", "file 7"),
    ]
    assert len(rejected) == 7
    assert "canary" not in repr(rejected)


def test_what_dynamodb_has_yet_to_delete_is_rejected(tmp_path: Path):
    with WRITTEN["DynamoDB"](tmp_path, "") as written:
        written.location.put_item(Item={"SessionId": "over", "History": [], "expireAt": 1})
        written.location.put_item(Item={"SessionId": "odd", "History": [{"type": b"canary"}]})
        with written.source() as source:
            sessions, rejected = read(source)

    assert sessions.keys() - written.sessions.keys() == {"odd"}
    assert sorted(item.reason.split(",")[0] for item in rejected) == [
        *("expected values of JSON", "its time to live"),
    ]


@pytest.mark.parametrize(
    ("kind", "location"),
    [
        ("sql-chat-history", "/nowhere/chats.db"),
        ("sql-chat-history", "mysql://root:hunter2@127.0.0.1/chats"),
        ("postgres-chat-history", "postgresql://me:hunter2@127.0.0.1:1/chats"),
        ("file-chat-history", "/nowhere"),
        ("redis", "redis://me:hunter2@127.0.0.1:1/0"),
        ("redis", "https://me:hunter2@127.0.0.1"),
        ("mongodb", "https://me:hunter2@127.0.0.1"),
    ],
)
def test_a_source_that_cannot_be_read_is_refused_without_its_password(kind: str, location: str):
    with pytest.raises(SourceRefused) as refused:
        MAKE[kind](location)

    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


PAGE = (Path(__file__).parent.parent / "docs" / "how-to" / "from-langchain.md").read_text()
COMMANDS = re.findall("^langmem-isolated import (.+)", PAGE.replace("\\\n", " "), re.MULTILINE)


@pytest.mark.parametrize("command", [*COMMANDS, *(e for spec in SPECS for e in spec.examples)])
def test_the_commands_that_are_told_have_the_options_that_are_there(command: str):
    kind, *arguments = shlex.split(command)
    group = typer.main.get_command(commands)

    made = group.get_command(None, kind).make_context(kind, [*arguments])

    assert made.params["location"] == arguments[0]


# --- moved in: everything is there, once, sealed, and can be taken out


def file_bytes(source: Source) -> list[bytes]:
    return [path.read_bytes() for path in source.files() if path.exists()]


def owner_of(unit: ForeignSession) -> Owner:
    return Owner(user="ann" if unit.id < "alice:monday:" else "bob", module="tutor")


def moved_in(memory: IsolatedMemory) -> dict[str, list[Any]]:
    scopes = [memory.scope(user_id=user, module_id="tutor") for user in ("ann", "bob")]
    return {
        session.id: scope.chat_history(session.id).timed()
        for scope in scopes
        for session in scope.sessions()
    }


def ours(url: str, message_bytes: int = 2_000_000) -> IsolatedMemory:
    limits = Limits(message_bytes=message_bytes)
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), limits=limits)


def test_what_is_moved_in_is_as_it_was_sealed_and_can_be_taken_out(
    written: Written, tmp_path: Path
):
    mapping, target = Mapping(function=owner_of), tmp_path / "ours"
    target.mkdir()
    with ours(f"sqlite:///{target}/ours.db") as memory, written.source() as source:
        times = {id_: [m.written_at for m in found] for id_, found in read(source)[0].items()}
        before = file_bytes(source)
        assert Import(memory, source, mapping, folder=target).plan().is_whole
        receipt = Import(memory, source, mapping, folder=target).run()
        again = Import(memory, source, mapping, folder=target).run()

        found = moved_in(memory)
        assert {id_: [m.message for m in items] for id_, items in found.items()} == written.sessions
        for id_, items in found.items():
            known = zip(times[id_], (m.said_at for m in items), strict=True)
            assert all(written_at in (None, said_at) for written_at, said_at in known)
        assert (receipt.rejects, again.units) == ({}, {"present": len(written.sessions)})
        assert file_bytes(source) == before
        assert memory.verify(read_only=True).is_clean
        for path in target.iterdir():
            assert not any(canary in path.read_bytes() for canary in CANARIES)
        assert memory.roll_back(bytes.fromhex(receipt.token)).is_done
        assert moved_in(memory) == {}


def test_postgresql_holds_what_is_moved_in_but_what_is_over_its_limits(
    tmp_path: Path, postgres_url: str
):
    with (
        sqlite(tmp_path, "") as written,
        written.source() as source,
        ours(postgres_url, message_bytes=1_000_000) as memory,
    ):
        receipt = Import(memory, source, Mapping(function=owner_of), folder=tmp_path).run()
        found = moved_in(memory)
        assert memory.roll_back(bytes.fromhex(receipt.token)).is_done
        assert moved_in(memory) == {}

    assert receipt.rejects == {"rejected": 1}
    assert {id_: [m.message for m in items] for id_, items in found.items()} == {
        id_: [message for message in messages if len(message.content) < 1_000_000]
        for id_, messages in written.sessions.items()
    }


@pytest.mark.slow
def test_an_import_that_is_killed_goes_on(written: Written, tmp_path: Path):
    with ExitStack() as opened:

        def made(memory: IsolatedMemory, folder: Path) -> Import:
            source = opened.enter_context(written.source())
            return Import(memory, source, Mapping(function=owner_of), folder=folder)

        outlives_kills(made, tmp_path)
