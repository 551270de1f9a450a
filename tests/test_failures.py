"""When a database fails, every door tells it by an error of ours that says what to do."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from langchain_core.messages import HumanMessage
from langchain_core.outputs import Generation
from langgraph.checkpoint.base.id import uuid6

from langmem_isolated import IsolatedMemory, LocalRootKey, errors
from langmem_isolated._database.driver_errors import Conflict
from langmem_isolated.errors import (
    DatabaseCorrupt,
    DatabaseError,
    DatabaseFull,
    DatabaseLocked,
    DatabaseUnreachable,
)
from tests.conftest import ROOT_KEY, Attacker
from tests.embeddings import NGramEmbeddings
from tests.postgres import PostgresServer
from tests.spellings import assert_shows_none_of
from tests.test_database import end_connections
from tests.threads import at, put

CANARY = "canary-60f1"
PUBLIC = {getattr(errors, name) for name in errors.__all__}
USER, MODULE = f"{CANARY}-alice", f"{CANARY}-tutor"

Use = Callable[[], Any]


def reads(memory: IsolatedMemory) -> dict[str, Use]:
    """A call of every kind that reads, by name."""
    scoped = memory.scope(user_id=USER, module_id=MODULE)
    saver, store = scoped.checkpointer(), scoped.store()
    documents = scoped.vector_store(NGramEmbeddings())
    indexed = scoped.store(index={"dims": 64, "embed": NGramEmbeddings()})
    return {
        "messages": lambda: scoped.chat_history(CANARY).messages,
        "last": lambda: scoped.chat_history(CANARY).last(1),
        "sessions": scoped.sessions,
        "recent": lambda: scoped.recent({CANARY: 3}),
        "recall": lambda: scoped.recall(CANARY),
        "get_tuple": lambda: saver.get_tuple(at(CANARY)),
        "list": lambda: [*saver.list(at(CANARY))],
        "list all": lambda: [*saver.list(None)],
        "threads": saver.threads,
        "verify_thread": lambda: saver.verify_thread(CANARY),
        "delta history": lambda: saver.get_delta_channel_history(config=at(CANARY), channels=["a"]),
        "get": lambda: store.get((CANARY,), CANARY),
        "search": lambda: store.search((CANARY,)),
        "search by meaning": lambda: indexed.search((CANARY,), query=CANARY),
        "list_namespaces": store.list_namespaces,
        "similarity_search": lambda: documents.similarity_search(CANARY),
        "get_by_ids": lambda: documents.get_by_ids([CANARY]),
        "LLM cache": lambda: scoped.llm_cache().lookup(CANARY, "model"),
        "byte store": lambda: scoped.byte_store().mget([CANARY]),
        "record manager": lambda: scoped.record_manager().list_keys(),
        "node cache": lambda: scoped.node_cache().get([((CANARY,), CANARY)]),
        "modules": lambda: memory.modules(user_id=USER),
        "open": memory.open,
        "setup": saver.setup,
    }


def writes(memory: IsolatedMemory) -> dict[str, Use]:
    """A call of every kind that writes, by name; each can be done again."""
    scoped = memory.scope(user_id=USER, module_id=MODULE)
    saver, store = scoped.checkpointer(), scoped.store()
    documents = scoped.vector_store(NGramEmbeddings())
    indexed = scoped.store(index={"dims": 64, "embed": NGramEmbeddings()})
    fill = f"{CANARY} " * 40

    def newcomer() -> None:
        new = memory.scope(user_id=f"{CANARY}{uuid6()}", module_id=MODULE)
        new.chat_history(CANARY).add_messages([HumanMessage(fill)])

    return {
        "add_messages": lambda: scoped.chat_history(CANARY).add_messages([HumanMessage(fill)]),
        "create": lambda: scoped.sessions.create(title=CANARY),
        "put": lambda: put(saver, at(CANARY), {"a": [fill]}),
        "put_writes": lambda: saver.put_writes(at(CANARY, str(uuid6())), [("a", fill)], "task"),
        "copy_thread": lambda: saver.copy_thread(CANARY, str(uuid6())),
        "store": lambda: store.put((CANARY,), CANARY, {CANARY: fill}),
        "indexed store": lambda: indexed.put((CANARY,), CANARY, {CANARY: fill}),
        "add_texts": lambda: documents.add_texts([fill], ids=[CANARY]),
        "LLM cache": lambda: scoped.llm_cache().update(CANARY, "model", [Generation(text=fill)]),
        "byte store": lambda: scoped.byte_store().mset([(CANARY, fill.encode())]),
        "record manager": lambda: scoped.record_manager().update([CANARY]),
        "node cache": lambda: scoped.node_cache().set({((CANARY,), CANARY): (fill, None)}),
        "newcomer": newcomer,
    }


def removals(memory: IsolatedMemory) -> dict[str, Use]:
    """A call of every kind that removes, by name."""
    scoped = memory.scope(user_id=USER, module_id=MODULE)
    saver, store = scoped.checkpointer(), scoped.store()
    return {
        "clear": lambda: scoped.chat_history(CANARY).clear(),
        "prune": lambda: saver.prune([CANARY]),
        "delete_for_runs": lambda: saver.delete_for_runs([CANARY]),
        "delete_thread": lambda: saver.delete_thread(CANARY),
        "delete": lambda: store.delete((CANARY,), CANARY),
        "sweep": store.sweep,
        "delete documents": lambda: scoped.vector_store(NGramEmbeddings()).delete([CANARY]),
        "clear LLM cache": lambda: scoped.llm_cache().clear(),
    }


def all_uses(memory: IsolatedMemory) -> dict[str, Use]:
    """All of them, reads first."""
    named = {"read": reads(memory), "write": writes(memory), "remove": removals(memory)}
    return {f"{kind}: {name}": use for kind, uses in named.items() for name, use in uses.items()}


@pytest.fixture
def filled(database_url: str) -> Iterator[IsolatedMemory]:
    """A memory that has some of everything, and a short timeout."""
    with IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY), timeout=0.2) as memory:
        for use in writes(memory).values():
            use()
        yield memory


@pytest.fixture
def attacker(filled: IsolatedMemory, database_url: str) -> Iterator[Attacker]:
    with closing(Attacker(database_url)) as attacker:
        yield attacker


def met(use: Use) -> DatabaseError | None:
    """What users meet, if they meet anything; it must be of ours, and say what to do."""
    try:
        use()
    except Exception as raised:  # noqa: BLE001 - whatever it is, it is judged here
        error = raised
    else:
        return None
    assert type(error) in PUBLIC
    assert isinstance(error, DatabaseError)
    assert type(error).advice in str(error)
    assert error.__cause__ is None
    assert error.__context__ is None or error.__suppress_context__
    assert_shows_none_of(error, [CANARY.encode(), ROOT_KEY])
    return error


def kinds(uses: dict[str, Use]) -> dict[str, type[Exception] | None]:
    told = {name: met(use) for name, use in uses.items()}
    return {name: error and type(error) for name, error in told.items()}


def test_every_door_is_passed_where_nothing_fails(filled: IsolatedMemory):
    assert set(kinds(all_uses(filled)).values()) == {None}


def test_a_locked_database_is_told_by_all_that_write(sqlite_url: str):
    with IsolatedMemory(sqlite_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        for use in writes(memory).values():
            use()
    path = sqlite_url.removeprefix("sqlite:///")
    with (
        IsolatedMemory(sqlite_url, root_key=LocalRootKey(ROOT_KEY), timeout=0.01) as memory,
        closing(sqlite3.connect(path, isolation_level=None)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        assert set(kinds(writes(memory)).values()) == {DatabaseLocked}
        assert set(kinds(reads(memory)).values()) == {None}


def test_a_full_disk_is_told_by_all_that_write(sqlite_url: str):
    with IsolatedMemory(sqlite_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        for use in writes(memory).values():
            use()
    with IsolatedMemory(sqlite_url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        # A limit below what there is stands for a disk that has not a page left.
        memory._database._dialect.settings += ("PRAGMA max_page_count = 1",)
        memory._database._engine.dispose()
        told: set[Any] = set()
        for _ in range(100):
            told |= set(kinds(writes(memory)).values())
            if DatabaseFull in told:
                break
        assert told <= {None, DatabaseFull}
        assert DatabaseFull in told
        assert set(kinds(reads(memory)).values()) == {None}


def test_tables_that_are_gone_are_told(filled: IsolatedMemory, attacker: Attacker):
    with_cascade = " CASCADE" if attacker.is_postgres else ""
    attacker("DROP TABLE records" + with_cascade)
    told = kinds(all_uses(filled))
    assert set(told.values()) == {None, DatabaseCorrupt}
    assert told["write: add_messages"] is told["read: get"] is DatabaseCorrupt

    for table in ("sessions", "scopes", "keys"):
        attacker(f"DROP TABLE {table}{with_cascade}")
    told = kinds(all_uses(filled))
    assert set(told.values()) <= {None, DatabaseCorrupt}
    assert told["write: add_texts"] is told["write: newcomer"] is DatabaseCorrupt


@pytest.mark.parametrize("event", ["INSERT", "UPDATE", "DELETE"])
@pytest.mark.parametrize("table", ["records", "sessions", "scopes", "keys"])
def test_a_row_that_a_constraint_of_others_refuses_is_told(
    filled: IsolatedMemory, attacker: Attacker, table: str, event: str
):
    """What an administrator has added: a trigger, a check."""
    if attacker.is_postgres:
        attacker(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'refused' USING ERRCODE = 'check_violation'; END $$"
        )
        what = "FOR EACH ROW EXECUTE FUNCTION langmem_isolated.refuse()"
    else:
        what = "BEGIN SELECT RAISE(ABORT, 'refused'); END"
    attacker(f"CREATE TRIGGER refuses BEFORE {event} ON {table} {what}")

    told = kinds(all_uses(filled))

    assert set(told.values()) <= {None, DatabaseError}
    refused = {
        ("records", "INSERT"): "write: store",
        ("records", "UPDATE"): "write: store",
        ("records", "DELETE"): "remove: delete",
        ("sessions", "INSERT"): "write: create",
        ("sessions", "UPDATE"): "write: add_messages",
        ("scopes", "INSERT"): "write: newcomer",
        ("keys", "INSERT"): "write: newcomer",
    }
    if name := refused.get((table, event)):
        assert told[name] is DatabaseError


@contextmanager
def before_each_cursor(memory: IsolatedMemory, then: Callable[[], None]) -> Iterator[None]:
    """A context in which something happens whenever a statement is about to be run."""
    dialect = memory._database._dialect

    def doing(opened: Callable[..., Any]) -> Callable[..., Any]:
        def open_it(*args: Any) -> Any:
            then()
            return opened(*args)

        return open_it

    names = "open_cursor", "autocommit_cursors"
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(dialect, name, doing(getattr(dialect, name))))
        yield


def test_connections_killed_each_time_are_told_by_every_door(postgres_url: str):
    with IsolatedMemory(postgres_url, root_key=LocalRootKey(ROOT_KEY), timeout=2) as memory:
        for use in writes(memory).values():
            use()
        with before_each_cursor(memory, lambda: end_connections(postgres_url)):
            told = kinds(all_uses(memory))

        assert set(told.values()) == {DatabaseUnreachable}
        assert set(kinds(all_uses(memory)).values()) == {None}


def test_a_connection_that_died_between_two_statements_is_told_as_unreachable(postgres_url: str):
    """A single statement is not tried again: it may have been done."""
    with IsolatedMemory(postgres_url, root_key=LocalRootKey(ROOT_KEY), timeout=2) as memory:
        use = writes(memory)["store"]
        use()
        is_first = [True]

        def kill_once() -> None:
            if is_first.pop() if is_first else False:
                end_connections(postgres_url)

        with before_each_cursor(memory, kill_once):
            error = met(use)

        assert type(error) is DatabaseUnreachable
        assert error.__context__ is None
        assert "it may have been stored" in str(error)
        assert met(use) is None


def test_a_server_that_was_killed_is_told_by_every_door():
    with PostgresServer() as server:
        root_key = LocalRootKey(ROOT_KEY)
        with IsolatedMemory(server.url(), root_key=root_key, timeout=2) as memory:
            for use in writes(memory).values():
                use()
            server.kill()
            told = kinds(all_uses(memory))
            server.start()
            after = kinds(all_uses(memory))

    assert set(told.values()) == {DatabaseUnreachable}
    assert set(after.values()) == {None}


def test_a_row_in_the_way_that_nobody_explains_is_an_error_of_the_database():
    """Met by nobody as far as we know; then at least it is caught with the others."""
    error = Conflict(foreign_key=False)

    assert isinstance(error, DatabaseError)
    assert "Nothing was written" in str(error)
