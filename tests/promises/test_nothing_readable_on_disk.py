"""Promise 3: what callers supply is readable neither on disk nor in a dump, a log or an error."""

import asyncio
import base64
import itertools
import logging
import re
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ormsgpack
import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._adapters.appending import _Said
from langmem_isolated._codecs.messages import MESSAGE_V1
from langmem_isolated._database.database import Database
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.sessions.writing import Message, without_alias
from langmem_isolated.errors import (
    DatabaseError,
    DatabaseLocked,
    DatabaseUnreachable,
    LangmemIsolatedError,
    RecordDoesNotOpen,
    RecordError,
    RootKeyInvalid,
    ScopeError,
    SessionNotFound,
    ValueNotStorable,
)
from tests.conftest import Attacker, Door
from tests.postgres import PostgresServer

# No word of ours, of SQLite's, PostgreSQL's or Python's; letters and digits alone, so that quoting
# and escaping leave it as it is.
MARK = "Quokka7Zephyr"
_numbers = itertools.count()


def canary(field: str) -> str:
    """A text that is searched for, and tells where it was put."""
    return f"{MARK}In{field.title()}{next(_numbers)}"


def forms_of(mark: str) -> re.Pattern[bytes]:
    """The mark as a file may hold it."""
    plain = mark.encode()
    in_base64 = [base64.b64encode(bytes(shift) + plain)[4:-4] for shift in range(3)]
    forms = [
        plain,
        plain.lower(),
        plain[::-1],
        plain.hex().encode(),
        plain.hex().upper().encode(),
        mark.encode("utf-16-le"),
        mark.encode("utf-16-be"),
        mark.encode("utf-16-le").hex().encode(),
        *in_base64,
        *(form.hex().encode() for form in in_base64),
    ]
    return re.compile(b"|".join(re.escape(form) for form in forms))


_FORMS = forms_of(MARK)


def readable_in(content: bytes, forms: re.Pattern[bytes] = _FORMS) -> list[bytes]:
    """The places around every mark in ``content``."""
    return [content[max(0, hit.start() - 40) : hit.end() + 80] for hit in forms.finditer(content)]


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


class Disk:
    """Every byte that a database has left where someone may read it."""

    def __init__(self, url: str, folder: Path, server: PostgresServer) -> None:
        self._url = url
        self._folder = folder
        self._server = server

    def contents(self) -> dict[str, bytes]:
        if self._url.startswith("sqlite"):
            return files_in(self._folder)
        return {"dump": self._server.dump(self._url.rpartition("/")[2])}

    def readable(self, forms: re.Pattern[bytes] = _FORMS) -> dict[str, list[bytes]]:
        found = {name: readable_in(content, forms) for name, content in self.contents().items()}
        return {name: places for name, places in found.items() if places}


@pytest.fixture
def disk(database_url: str, tmp_path: Path, postgres: PostgresServer) -> Disk:
    return Disk(database_url, tmp_path, postgres)


class Log(logging.Handler):
    """Every record of every logger, with all that a formatter might print of it."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += [record.getMessage(), repr(record.__dict__)]
        if record.exc_info and record.exc_info[1]:
            self.texts += told_by(record.exc_info[1])


@pytest.fixture
def log() -> Iterator[Log]:
    """Ask for it before `memory`: SQLAlchemy decides when an engine is made whether to log."""
    handler, root = Log(), logging.getLogger()
    names = ["asyncio", "psycopg", "psycopg.pool", "sqlalchemy", "sqlalchemy.engine",
             "sqlalchemy.pool", "langmem_isolated", "langchain_core"]  # fmt: skip
    loggers = [root, *(logging.getLogger(name) for name in {*names, *root.manager.loggerDict})]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield handler
    root.removeHandler(handler)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def told_by(error: BaseException | None) -> list[str]:
    """What an error and its causes say, ours in their attributes too."""
    told = []
    while error is not None:
        told += [str(error), repr(error), repr(error.args), *traceback.format_exception(error)]
        if isinstance(error, LangmemIsolatedError):
            told.append(repr(vars(error)))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return told


def all_messages() -> list[BaseMessage]:
    """Messages with a canary in every field that a caller may fill."""
    call = {"name": canary("tool"), "args": {canary("key"): canary("argument")}, "id": canary("id")}
    return [
        SystemMessage(canary("system")),
        HumanMessage(
            canary("content"),
            id=canary("message id"),
            name=canary("name"),
            additional_kwargs={canary("key"): [canary("value"), {"deep": canary("value")}]},
            response_metadata={canary("key"): canary("metadata")},
        ),
        HumanMessage(
            [
                {"type": "text", "text": canary("block")},
                {"type": "image_url", "image_url": {"url": f"data:{canary('image')}"}},
                canary("string block"),
            ]
        ),
        AIMessage(
            canary("answer"),
            tool_calls=[call],
            invalid_tool_calls=[
                {"name": canary("tool"), "args": canary("bad"), "id": None, "error": canary("why")}
            ],
            usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
        ),
        AIMessageChunk(
            canary("chunk"),
            tool_call_chunks=[
                {"name": canary("tool"), "args": canary("part"), "id": canary("id"), "index": 0}
            ],
        ),
        ToolMessage(
            canary("result"),
            tool_call_id=canary("tool call id"),
            artifact={canary("key"): (canary("artifact"), canary("artifact").encode())},
            status="error",
        ),
        ChatMessage(canary("chat"), role=canary("role")),
        FunctionMessage(canary("function"), name=canary("function")),
        RemoveMessage(id=canary("removed")),
        # Long enough to be compressed, and to spill out of a page.
        HumanMessage(f"{canary('long')} " * 2000),
        HumanMessage("x" * 5000 + canary("end")),
    ]


async def use_everything(memory: IsolatedMemory, door: Door) -> ScopedMemory:
    """Put a canary into every field, and run every operation over it."""
    scoped = memory.scope(
        user_id=canary("user"), module_id=canary("module"), project_id=canary("project")
    )
    session_id = canary("session")
    await door(
        scoped.sessions, "create", session_id, title=canary("title"), channel=canary("channel")
    )
    history = scoped.chat_history(session_id, idempotent=True)
    for _ in range(2):
        await door(history, "add_messages", all_messages())
    await door(history, "add_messages", history.messages)
    said_in = canary("channel")
    await door(history, "add_messages", [HumanMessage(canary("said"))], channel=said_in)
    assert len(await door(scoped, "recent", {said_in: 9, canary("other channel"): 9})) == 1
    await door(scoped.sessions, "set_summary", session_id, canary("summary"))
    await door(scoped.sessions, "get", session_id)
    await door(scoped.sessions, "rename", session_id, canary("new title"))
    for name, arguments in (("messages", ()), ("last", (3,)), ("count", ())):
        await door(history, name, *arguments)
    await door(history, "page", before=4, limit=2)
    await door(history, "window", max_tokens=5, token_counter=len)
    await door(scoped.sessions, "__call__")
    owner = scoped.scope
    assert await door(memory, "modules", user_id=owner.user_id, project_id=owner.project_id) == [
        owner.module_id
    ]
    for name in ("clear", "delete"):
        other = scoped.chat_history(canary("session"))
        await door(other, "add_messages", all_messages())
        await (door(other, "clear") if name == "clear" else _delete_newest(scoped, door))
    return scoped


async def _delete_newest(scoped: ScopedMemory, door: Door) -> None:
    [newest, *_] = await door(scoped.sessions, "__call__", limit=1)
    await door(scoped.sessions, "delete", newest.id)


async def test_no_field_is_readable_in_the_files_or_the_dump(
    memory: IsolatedMemory, door: Door, disk: Disk
):
    await use_everything(memory, door)

    # Both while it is open, when the newest is in the WAL alone, and when it is closed.
    if not memory._database.is_postgres:
        assert len(disk.contents()["memory.db-wal"]) > 100_000
        assert disk.contents()["memory.db-shm"]
    assert disk.readable() == {}
    memory.close()
    assert disk.readable() == {}


async def test_no_field_is_readable_in_the_files_of_the_server(
    postgres: PostgresServer, postgres_url: str, root_key: LocalRootKey, door: Door
):
    """Tables, indexes, WAL and temporary files of a whole PostgreSQL server."""
    with IsolatedMemory(postgres_url, root_key=root_key) as memory:
        await use_everything(memory, door)
        memory._database.inspect(lambda connection: connection.exec_driver_sql("CHECKPOINT"))

    files = files_in(postgres.data)

    assert sum(map(len, files.values())) > 10_000_000
    assert [name for name, content in files.items() if readable_in(content)] == []


@pytest.mark.parametrize("form", ["plain", "utf-16", "base64"])
def test_the_search_finds_what_is_readable(
    memory: IsolatedMemory, attacker: Attacker, disk: Disk, form: str
):
    """The proof of the tests above, with a mark of its own: it stays in the server's WAL."""
    memory.scope(user_id="u", module_id="m").chat_history("s").add_user_message("hello")
    mark = "Wombat3Yonder"
    readable = {
        "plain": f"my {mark} is".encode(),
        "utf-16": f"my {mark} is".encode("utf-16-le"),
        "base64": base64.b64encode(f"my {mark} is".encode()),
    }

    attacker("UPDATE records SET sealed = ?", readable[form])

    assert disk.readable(forms_of(mark)) != {}


async def test_no_field_is_readable_in_a_log_at_its_most_talkative(
    log: Log, memory: IsolatedMemory, attacker: Attacker, door: Door, capfd: pytest.CaptureFixture
):
    asyncio.get_running_loop().set_debug(True)
    asyncio.get_running_loop().slow_callback_duration = 0

    scoped = await use_everything(memory, door)
    for _, provoke in provoked(scoped, attacker):
        with pytest.raises(Exception):  # noqa: B017 -- which one is another test's matter
            await memory._database.arun(provoke)

    assert [text for text in log.texts if readable_in(text.encode())] == []
    assert any("sqlalchemy.pool" in text for text in log.texts)
    assert readable_in("".join(capfd.readouterr()).encode()) == []


class Talkative:
    """A value that cannot be stored, and tells what it is at every occasion."""

    def __repr__(self) -> str:
        return canary("repr")

    __str__ = __repr__


def provoked(
    scoped: ScopedMemory, attacker: Attacker
) -> list[tuple[type[BaseException], Callable[[], object]]]:
    """Calls given canaries, and what each of them raises; the last two break the tables."""
    history = scoped.chat_history(canary("session"), idempotent=True)
    sessions = scoped.sessions
    deep: Any = canary("deep")
    for _ in range(2000):
        deep = [deep]

    def add(**fields: Any) -> Callable[[], None]:
        message = ToolMessage(canary("content"), tool_call_id=canary("id"), **fields)
        return lambda: history.add_messages([message])

    def stored_as(plaintext: bytes) -> Callable[[], object]:
        """What a later version of this package may have written."""
        other = scoped.chat_history(canary("session"))
        later = _Said([], None, now(), [], [Message(plaintext, None)])
        other._appender._append(later, without_alias, look_first=False)
        return lambda: other.messages

    def tampered(sql: str) -> Callable[[], object]:
        other = scoped.chat_history(canary("session"))

        def read() -> object:
            other.add_messages(all_messages())
            attacker(sql)
            return other.messages

        return read

    def broken(sql: str) -> Callable[[], object]:
        def write() -> None:
            attacker(sql)
            history.add_messages(all_messages())

        return write

    later_type = ormsgpack.Ext(99, ormsgpack.packb(canary("later")))
    return [
        (ValueNotStorable, add(artifact=Talkative())),
        (ValueNotStorable, add(artifact={Talkative(): canary("value")})),
        (ValueNotStorable, add(artifact={canary("key"): [Talkative()]})),
        (ValueNotStorable, add(artifact=[canary("surrogate") + "\ud800", Talkative()])),
        (ValueNotStorable, add(artifact=deep)),
        (ValueNotStorable, lambda: sessions.create(title=Talkative())),  # type: ignore[arg-type]
        (ScopeError, lambda: sessions.create(canary("id") + "\n")),
        (ScopeError, lambda: scoped.module(canary("id") + "\x00")),
        (ScopeError, lambda: scoped.module(canary("id") * 100)),
        (ScopeError, lambda: scoped.chat_history([canary("id")])),  # type: ignore[arg-type]
        (SessionNotFound, lambda: sessions.rename(canary("id"), canary("title"))),
        (SessionNotFound, lambda: sessions.set_summary(canary("id"), canary("summary"))),
        (SessionNotFound, lambda: sessions.get(canary("id"))),
        (ScopeError, lambda: history.add_messages([], channel=canary("channel") + "\n")),
        (ScopeError, lambda: scoped.recent({canary("channel") + "\n": 1})),
        (SessionNotFound, lambda: sessions.delete(canary("id"))),
        (ValueNotStorable, lambda: history.add_messages([canary("no message")])),  # type: ignore[list-item]
        (ValueNotStorable, lambda: history.add_messages(canary("no message"))),  # type: ignore[arg-type]
        (RecordError, stored_as(b"\x09" + canary("later").encode())),
        (RecordError, stored_as(MESSAGE_V1 + ormsgpack.packb(["human", {"content": later_type}]))),
        (RootKeyInvalid, lambda: LocalRootKey.from_text(canary("root key"))),
        (DatabaseError, lambda: Database(f"mysql://u:{canary('password')}@host/name")),
        (DatabaseError, lambda: Database(canary("url"))),
        (DatabaseError, lambda: Database(f"postgresql://u:p@h:{canary('password')}@h/name")),
        (RecordDoesNotOpen, tampered("UPDATE records SET sealed = substr(sealed, 2)")),
        (RecordDoesNotOpen, tampered("DELETE FROM records")),
        (RecordDoesNotOpen, tampered("DELETE FROM sessions")),
        (DatabaseError, broken("ALTER TABLE records RENAME COLUMN sealed TO elsewhere")),
        (DatabaseError, broken("ALTER TABLE sessions RENAME TO elsewhere")),
    ]


def test_no_field_is_readable_in_an_error_or_its_causes(memory: IsolatedMemory, attacker: Attacker):
    scoped = memory.scope(user_id=canary("user"), module_id=canary("module"))

    for expected, provoke in provoked(scoped, attacker):
        with pytest.raises(expected) as caught:
            provoke()

        assert isinstance(caught.value, LangmemIsolatedError)
        assert [told for told in told_by(caught.value) if readable_in(told.encode())] == []


def test_a_password_in_the_url_is_not_told(root_key: LocalRootKey):
    url = f"postgresql://{canary('user')}:{canary('password')}@127.0.0.1:1/{canary('name')}"
    memory = IsolatedMemory(url, root_key=root_key, timeout=2)

    with pytest.raises(DatabaseUnreachable) as caught:
        memory.open()

    assert [told for told in told_by(caught.value) if "InPassword" in told] == []
    assert readable_in(repr(memory).encode()) == []


def test_a_locked_database_does_not_tell_what_was_to_be_written(
    sqlite_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(sqlite_url, root_key=root_key, timeout=0.05) as memory:
        history = memory.scope(user_id=canary("user"), module_id="m").chat_history("s")
        history.add_user_message("hello")
        other = Attacker(sqlite_url)
        other("BEGIN IMMEDIATE")

        with pytest.raises(DatabaseLocked) as caught:
            history.add_user_message(canary("content"))

        other.close()
    assert [told for told in told_by(caught.value) if readable_in(told.encode())] == []


def test_no_repr_shows_a_name_or_a_key(memory: IsolatedMemory):
    scoped = memory.scope(user_id=canary("user"), module_id=canary("module"))
    session_id = scoped.sessions.create(canary("session"), title=canary("title"))
    history = scoped.chat_history(session_id)
    history.add_user_message(canary("content"))
    keys = memory._keyring.find(scoped._records.owner)

    shown = [memory, scoped, scoped.scope, scoped.sessions, *scoped.sessions(), history,
             scoped._records, scoped._records.owner, memory._database, memory._keyring, keys,
             memory._keyring._installation._root_keys.primary]  # fmt: skip

    assert [thing for thing in shown if readable_in(repr(thing).encode())] == []
