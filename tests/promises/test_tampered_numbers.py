"""Promise 4, for numbers: whatever stands in a column of them, what is raised is an error of ours.

SQLite keeps any type in any column. Who can write to the database puts in what no database would:
numbers of 64 bits, text, bytes, nothing.
"""

import datetime as dt
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import Generation
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.store.base import PutOp
from sqlalchemy import Integer

from langmem_isolated import IsolatedMemory, LangmemIsolatedError, LocalRootKey
from langmem_isolated._database import schema
from tests.conftest import ROOT_KEY, Attacker

EMBEDDINGS = DeterministicFakeEmbedding(size=4)
COLUMNS = [
    (table.name, column.name)
    for table in schema.metadata.sorted_tables
    for column in table.columns
    if isinstance(column.type, Integer)
]
WRONG = [2**63 - 1, -(2**63), -1, 2**32, 1.5, float("inf"), "text", b"bytes", None]
# The largest that the column takes is put in.
LARGEST = [2**63 - 1, 2**31 - 1, 2**15 - 1]
# So many of the calls only read.
READING = 17
CONFIG: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


def filled(memory: IsolatedMemory) -> Any:
    """A scope that has something of every kind."""
    scope = memory.scope(user_id="alice", module_id="tutor")
    scope.chat_history("s", channel="ai").add_messages([HumanMessage("hi", id="1"), AIMessage("a")])
    scope.sessions.set_summary("s", "they greet")
    saver, checkpoint = scope.checkpointer(ttl=dt.timedelta(days=1)), empty_checkpoint()
    values = {"messages": [HumanMessage("hi", id="1")], "text": "x" * 500}
    new: Any = {**checkpoint, "channel_values": values}
    placed = saver.put(CONFIG, new, {"run_id": "r"}, {})
    saver.put_writes(placed, [("text", "y" * 500)], "task")
    store = scope.store(index={"dims": 4, "embed": EMBEDDINGS}, integrity="counted")
    store.put(("a",), "k", {"v": "text"}, ttl=60)
    scope.vector_store(EMBEDDINGS).add_texts(["one", "two"], ids=["1", "2"])
    scope.byte_store().mset([("k", b"v")])
    scope.record_manager().update(["k"], group_ids=["g"])
    scope.llm_cache(ttl=dt.timedelta(days=1)).update("p", "m", [Generation(text="t")])
    return scope


def calls(memory: IsolatedMemory) -> Iterator[Callable[[], Any]]:
    """What reads and writes everything that :func:`filled` made."""
    scope = memory.scope(user_id="alice", module_id="tutor")
    history, saver = scope.chat_history("s", channel="ai"), scope.checkpointer()
    store = scope.store(index={"dims": 4, "embed": EMBEDDINGS})
    notes, index = scope.vector_store(EMBEDDINGS), scope.record_manager()
    said = HumanMessage("hi", id="1")
    yield lambda: history.messages
    yield lambda: (history.last(1), history.count(), scope.recent({"ai": 5}))
    yield lambda: [session.last_activity for session in scope.sessions()]
    yield lambda: scope.recall("hi")
    yield lambda: saver.get_tuple(CONFIG)
    yield lambda: [*saver.list(CONFIG), *saver.list(None)]
    yield lambda: (saver.threads(), saver.thread_size("t"))
    yield lambda: saver.verify_thread("t")
    yield lambda: (store.get(("a",), "k"), store.search(("a",)), store.list_namespaces())
    yield lambda: store.search(("a",), query="text")
    yield lambda: notes.similarity_search("one")
    yield lambda: (notes.get_by_ids(["1"]), notes.documents())
    yield lambda: (scope.byte_store().mget(["k"]), [*scope.byte_store().yield_keys()])
    yield lambda: (index.get_time(), index.exists(["k"]), index.list_keys(group_ids=["g"]))
    yield lambda: scope.llm_cache().lookup("p", "m")
    yield lambda: memory.modules(user_id="alice")
    yield scope.verify
    yield lambda: history.add_messages([AIMessage("b")])
    yield lambda: scope.chat_history("s", idempotent=True).add_messages([said])
    yield lambda: scope.sessions.rename("s", "title")
    yield lambda: saver.put(CONFIG, {**empty_checkpoint(), "channel_values": {}}, {}, {})  # type: ignore[typeddict-item]
    yield lambda: saver.copy_thread("t", "u")
    yield lambda: saver.prune(["t"])
    yield lambda: store.batch([PutOp(("a",), "k", {"v": "again"}), PutOp(("a",), "l", {})])
    yield store.sweep
    yield lambda: notes.add_texts(["three"], ids=["1"])
    yield lambda: notes.delete(["2"])
    yield lambda: index.update(["k"])
    yield lambda: scope.llm_cache().sweep()
    yield history.clear
    yield lambda: scope.sessions.delete("s")
    yield lambda: saver.delete_thread("t")
    yield notes.clear


def foreign_errors(url: str, most: int | None = None) -> list[str]:
    """What the first ``most`` calls raise that is no error of ours, by type and place."""
    found = []
    memory = IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY))
    try:
        for number, call in enumerate(islice(calls(memory), most)):
            try:
                call()
            except LangmemIsolatedError:
                pass
            except Exception as error:  # noqa: BLE001 - what is no error of ours is looked for
                found.append(f"call {number}: {type(error).__name__}: {error}")
    finally:
        memory.close()
    return found


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file that has something of every kind."""
    path = tmp_path_factory.mktemp("template") / "memory.db"
    with IsolatedMemory(f"sqlite:///{path}", root_key=LocalRootKey(ROOT_KEY)) as memory:
        filled(memory)
    return path


@pytest.mark.parametrize(("table", "column"), COLUMNS)
def test_no_number_in_a_column_leads_to_an_error_that_is_not_ours(
    template: Path, tmp_path: Path, table: str, column: str
):
    found = {}
    for number, wrong in enumerate(WRONG):
        url = f"sqlite:///{shutil.copy(template, tmp_path / f'{number}.db')}"
        attacker = Attacker(url)
        attacker("PRAGMA ignore_check_constraints = ON")
        try:
            attacker(f"UPDATE {table} SET {column} = ?", wrong)
        except sqlite3.IntegrityError:
            continue  # the database itself refuses: no such row may be
        finally:
            attacker.close()
        if errors := foreign_errors(url):
            found[repr(wrong)] = errors

    assert found == {}


def test_no_number_that_postgres_takes_leads_to_an_error_that_is_not_ours(
    postgres_url: str, root_key: LocalRootKey
):
    """What only reads, so that each column can be put back."""
    with IsolatedMemory(postgres_url, root_key=root_key) as memory:
        filled(memory)
    found, attacker = {}, Attacker(postgres_url)
    for table, column in COLUMNS:
        attacker(f"CREATE TABLE saved AS TABLE {table}")
        for wrong in LARGEST:
            with suppress(psycopg.Error):
                attacker(f"UPDATE {table} SET {column} = ?", wrong)
                if errors := foreign_errors(postgres_url, READING):
                    found[table, column, wrong] = errors
                break
        attacker(f"DELETE FROM {table}")
        attacker(f"INSERT INTO {table} SELECT * FROM saved")
        attacker("DROP TABLE saved")
    attacker.close()

    assert found == {}
