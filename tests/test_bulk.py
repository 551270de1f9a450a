"""Thousands of documents, items and ids in one call: time grows with their number, not faster."""

import gc
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langchain_core.messages import HumanMessage
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.base import empty_checkpoint
from langgraph.store.base import PutOp

from langmem_isolated import IsolatedMemory
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction


class Lengths(Embeddings):
    """Two numbers a text: the smallest vectors, of which a block has the most."""

    def embed_query(self, text: str) -> list[float]:
        return [1.0, float(len(text))]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


def test_as_many_questions_as_one_likes_open_a_few_cursors_at_a_time(sqlite_url: str):
    """SQLite's driver crashed with 70,000 of them, and each write goes through all."""
    statement = sa.select(sa.bindparam("number", type_=sa.Integer))

    def asked(transaction: Transaction) -> tuple[list[int], int]:
        most, found = 0, []
        for [(number,)] in transaction.rows_of_each(statement, ({"number": n} for n in range(500))):
            found.append(number)
            if number % 50 == 0:
                most = max(most, sum(isinstance(o, sqlite3.Cursor) for o in gc.get_objects()))
        return found, most

    database = Database(sqlite_url)
    found, most = database.snapshot(asked)
    database.close()

    assert found == list(range(500))
    assert 0 < most <= 70


def test_thousands_of_documents_are_replaced_and_deleted_in_one_call(memory: IsolatedMemory):
    scope = memory.scope(user_id="alice", module_id="tutor")
    notes, ids = scope.vector_store(Lengths()), [str(n) for n in range(5_000)]
    notes.add_texts(ids, ids=ids)
    notes.add_texts([f"{id_} again" for id_ in ids], ids=ids)

    assert [found.page_content for found in notes.get_by_ids(ids[::1_000])] == [
        f"{id_} again" for id_ in ids[::1_000]
    ]
    notes.delete(ids[:4_990])
    assert {document.id for document in notes.documents()} == set(ids[4_990:])
    assert scope.verify()
    notes.delete(ids)
    assert notes.documents() == []


def work_to_delete(notes: Any, count: int, steps: list[None]) -> int:
    ids = [str(n) for n in range(count)]
    notes.add_texts(ids, ids=ids)
    steps.clear()
    notes.delete(ids)
    return len(steps)


def test_the_work_of_a_deletion_grows_with_its_number_not_with_the_square(
    sqlite_url: str, root_key: Any
):
    """8 times as many took 100 times as long, in the database: its steps are counted."""
    steps: list[None] = []
    with counted_steps(steps), IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        notes = memory.scope(user_id="alice", module_id="tutor").vector_store(Lengths())
        few = work_to_delete(notes, 1_000, steps)

        assert few < work_to_delete(notes, 8_000, steps) < 16 * few


@contextmanager
def counted_steps(steps: list[None]) -> Iterator[None]:
    """Note every 100th instruction of SQLite's virtual machine, in connections made meanwhile."""

    def count(connection: sqlite3.Connection, _: object) -> None:
        connection.set_progress_handler(lambda: steps.append(None), 100)

    sa.event.listen(sa.engine.Engine, "connect", count)
    try:
        yield
    finally:
        sa.event.remove(sa.engine.Engine, "connect", count)


def test_thousands_of_counted_items_are_put_and_deleted_in_one_batch(memory: IsolatedMemory):
    scope = memory.scope(user_id="alice", module_id="tutor")
    store = scope.store(integrity="counted")
    store.batch([PutOp(("a",), str(n), {"n": n}) for n in range(2_000)])
    store.batch([PutOp(("a",), str(n), {"n": -n}) for n in range(2_000)])
    assert scope.verify()
    store.batch([PutOp(("a",), str(n), None) for n in range(1, 2_000)])

    assert [item.value for item in store.search(("a",), limit=10)] == [{"n": 0}]
    assert scope.verify()


def test_a_checkpoint_of_thousands_of_messages_is_put_into_a_thread_that_has_them(
    memory: IsolatedMemory, database_url: str, root_key: Any
):
    """By another process, which knows none of their numbers."""
    messages = [HumanMessage(str(n), id=str(n)) for n in range(2_000)]
    config: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}

    def put(memory: IsolatedMemory) -> Any:
        saver = memory.scope(user_id="alice", module_id="tutor").checkpointer()
        new: Any = {**empty_checkpoint(), "channel_values": {"messages": [*messages]}}
        return saver.put(config, new, {}, {}), saver

    put(memory)
    with IsolatedMemory(database_url, root_key=root_key) as other:
        placed, saver = put(other)
        assert saver.get_tuple(placed).checkpoint["channel_values"]["messages"] == messages
        saver.prune(["t"])
        assert saver.verify_thread("t") == 1


def test_a_wrapped_store_is_given_a_thousand_at_a_time(memory: IsolatedMemory):
    """Chroma and PostgreSQL refuse more ids than they have parameters for."""
    most = []

    class Counting(InMemoryVectorStore):
        def add_documents(self, documents: list[Document], **options: Any) -> list[str]:
            most.append(len(documents))
            return super().add_documents(documents, **options)

        def delete(self, ids: Any = None, **options: Any) -> None:
            most.append(len(ids))
            super().delete(ids, **options)

        def get_by_ids(self, ids: Any) -> list[Document]:
            most.append(len(ids))
            return super().get_by_ids(ids)

    wrapped = memory.scope(user_id="alice", module_id="tutor").vector_store(
        wrapping=Counting(DeterministicFakeEmbedding(size=4))
    )
    ids = [str(n) for n in range(2_500)]

    assert wrapped.add_texts(ids, ids=ids) == ids
    assert len(wrapped.get_by_ids(ids)) == 2_500
    wrapped.delete(ids)
    assert wrapped.get_by_ids(ids) == []
    assert max(most) == 1_000
