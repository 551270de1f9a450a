"""Who reads while another removes and begins anew finds one life or the other, never damage."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage.sessions import reading as messages
from langmem_isolated._storage.threads import reading as threads
from langmem_isolated.checkpointer.repository import GUESSED_OF_KNOWN
from tests.embeddings import NGramEmbeddings
from tests.threads import at, put, values_at


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def other(database_url: str, root_key: LocalRootKey) -> Iterator[ScopedMemory]:
    """The same user's memory in another process."""
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        yield memory.scope(user_id="alice", module_id="tutor")


def once(found: Callable[..., Any], happens: Callable[[], object]) -> Callable[..., Any]:
    """``found``, behind whose first answer something happens."""
    is_first = iter([True])

    def answer(*args: Any, **named: Any) -> Any:
        answered = found(*args, **named)
        if next(is_first, False):
            happens()
        return answered

    return answer


def test_a_thread_is_deleted_and_begins_anew(
    scoped: ScopedMemory, other: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    def again() -> None:
        other.checkpointer().delete_thread("t")
        put(other.checkpointer(), at("t"), {"messages": [HumanMessage("new", id="1")]})

    saver = scoped.checkpointer()
    # So many that PostgreSQL is asked for them by a statement of their own.
    old = [HumanMessage("old", id=str(n)) for n in range(GUESSED_OF_KNOWN + 1)]
    put(saver, at("t"), {"messages": old})
    monkeypatch.setattr(threads, "get", once(threads.get, again))

    assert [m.text for m in values_at(saver, at("t"))["messages"]] == ["new"]


def test_a_session_is_cleared_and_filled_again(
    scoped: ScopedMemory, other: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    def again() -> None:
        other.chat_history("s").clear()
        other.chat_history("s").add_messages([HumanMessage(text, id=text) for text in "xba"])

    scoped.chat_history("s").add_messages([HumanMessage(text, id=text) for text in "ab"])
    monkeypatch.setattr(messages, "find_by_id", once(messages.find_by_id, again))

    found = scoped._records.read_apart(
        messages.trace, None, "s", ["a", "b"], lambda: lambda *_: False, now()
    )

    assert found == [2, 1]


@pytest.mark.parametrize("read", ["messages", "last"])
def test_a_session_is_cleared_and_filled_again_between_two_statements_of_a_read(
    scoped: ScopedMemory, other: ScopedMemory, monkeypatch: pytest.MonkeyPatch, read: str
):
    def again() -> None:
        other.chat_history("s").clear()
        other.chat_history("s").add_messages([HumanMessage("new")])

    history = scoped.chat_history("s")
    history.add_messages([HumanMessage(text) for text in "abc"])
    monkeypatch.setattr(Transaction, "_query", once(Transaction._query, again))

    found = [history.messages if read == "messages" else history.last(2) for _ in range(2)]

    former = ["a", "b", "c"] if read == "messages" else ["b", "c"]
    assert [[one.text for one in messages] for messages in found] == [former, ["new"]]


def test_a_session_begins_between_two_statements_of_a_read(
    scoped: ScopedMemory, other: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    def begin() -> None:
        other.chat_history("s").add_messages([HumanMessage("new")])

    scoped.chat_history("another").add_messages([HumanMessage("a")])
    monkeypatch.setattr(Transaction, "_query", once(Transaction._query, begin))
    history = scoped.chat_history("s")

    found = [history.messages, history.messages]

    assert [one.text for one in found[0]] in ([], ["new"])
    assert [one.text for one in found[1]] == ["new"]


def test_a_session_is_cleared_and_embedded_again(
    scoped: ScopedMemory, other: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    embeddings = NGramEmbeddings()

    def again() -> None:
        other.chat_history("s").clear()
        other.chat_history("s").add_user_message("the new garden")
        other.recall("garden", embeddings=embeddings)

    scoped.chat_history("s").add_user_message("the old garden")
    monkeypatch.setattr(type(scoped.recall), "_read", once(type(scoped.recall)._read, again))

    assert [found.text for found in scoped.recall("garden", embeddings=embeddings)] == [
        "the old garden"
    ]
    scoped.verify()
