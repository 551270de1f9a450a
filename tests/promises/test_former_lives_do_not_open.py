"""Former lives: what stood below a name that was removed opens below no later one of that name."""

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated.errors import RecordDoesNotOpen
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings

Row = tuple[Any, ...]
COLUMNS = (
    "scope_id, kind, parent, key, alias, tag, sealed, size, created_at, updated_at, expires_at,"
    " expiry_mac"
)
CONFIG: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
ID = "1ef00000-0000-6000-8000-000000000001"


def put_checkpoint(scoped: ScopedMemory, text: str) -> None:
    values = {"messages": [HumanMessage(text, id=text)]}
    checkpoint: Any = {**empty_checkpoint(), "id": ID, "channel_values": values}
    scoped.checkpointer().put(CONFIG, checkpoint, {}, {})


def put_document(scoped: ScopedMemory, text: str) -> None:
    scoped.vector_store(NGramEmbeddings()).add_texts([text], ids=["d"])


def clear_session(scoped: ScopedMemory) -> None:
    scoped.chat_history("s").clear()


Put = Callable[[ScopedMemory, str], None]
LIVES: dict[str, tuple[Put, Callable[[ScopedMemory], object], str, tuple[Any, ...]]] = {
    "session deleted": (lambda scoped, text: scoped.chat_history("s").add_user_message(text),
                        lambda scoped: scoped.sessions.delete("s"), "recall", ("secret",)),
    "session cleared": (lambda scoped, text: scoped.chat_history("s").add_user_message(text),
                        clear_session, "recall", ("secret",)),
    "thread": (put_checkpoint, lambda scoped: scoped.checkpointer().delete_thread("t"),
               "get_tuple", (CONFIG,)),
    "collection": (put_document,
                   lambda scoped: scoped.vector_store(NGramEmbeddings()).clear(),
                   "similarity_search", ("secret",)),
}  # fmt: skip


def insert(attacker: Attacker, *rows: Row) -> None:
    for row in rows:
        marks = ", ".join("?" * len(row))
        attacker(f"INSERT INTO records ({COLUMNS}) VALUES ({marks})", *row)


def reader(scoped: ScopedMemory, read: str) -> Any:
    if read == "recall":
        return scoped
    return scoped.checkpointer() if read == "get_tuple" else scoped.vector_store(NGramEmbeddings())


@pytest.mark.parametrize("life", LIVES)
async def test_rows_of_a_former_life_are_refused_where_they_stood(
    memory: IsolatedMemory, door: Door, attacker: Attacker, life: str
):
    """The address, the key and the name are the same in both lives: only the birth is another."""
    put, end, read, arguments = LIVES[life]
    scoped = memory.scope(user_id="alice", module_id="tutor")
    put(scoped, "the secret")
    former = attacker(f"SELECT {COLUMNS} FROM records")
    end(scoped)
    put(scoped, "a later text")

    for row in former:
        later = attacker(f"SELECT {COLUMNS} FROM records")
        attacker("DELETE FROM records WHERE kind = ? AND parent = ? AND key = ?", *row[1:4])
        insert(attacker, row)
        with pytest.raises(RecordDoesNotOpen):
            await door(reader(scoped, read), read, *arguments)
        attacker("DELETE FROM records")
        insert(attacker, *later)
