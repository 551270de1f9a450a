"""Promise 1 on whole applications: every adapter at once, driven as several users at once."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.tools import create_retriever_tool

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated.testing import (
    EchoChatModel,
    IsolationReport,
    assert_isolated,
    assert_nothing_readable,
)

MODEL = EchoChatModel()
EMBEDDINGS = DeterministicFakeEmbedding(size=8)


def assistant(memory: IsolatedMemory) -> Any:
    """One agent for everybody: recorded, recalled, with a store, documents, and a profile."""
    documents = memory.vector_store(EMBEDDINGS)

    def note(text: str, config: RunnableConfig) -> str:
        """Note something."""
        documents.add_texts([text])
        store = memory.store()
        store.put(("notes",), text, {"text": text})
        return str([item.value for item in store.search(("notes",), limit=50)])

    found = create_retriever_tool(memory.retriever(EMBEDDINGS), "find", "Find documents.")
    return create_agent(
        MODEL,
        [note, found, memory.recall_tool()],
        middleware=[memory.middleware()],
        checkpointer=memory.checkpointer(),
        store=memory.store(),
    )


def of_a_scope(scope: ScopedMemory, session: str, text: str) -> list[Any]:
    """What one scope makes, used directly; everything that it gives is shown to the user."""
    history, cache = scope.chat_history(session), scope.byte_store("seen")
    history.add_user_message(text)
    cache.mset([(text, text.encode())])
    scope.vector_store(EMBEDDINGS).add_texts([text])
    recalled = [HumanMessage(one.text) for one in scope.recall(text, limit=5)]
    said: list[BaseMessage] = [*history.messages, *recalled]
    return [
        MODEL.invoke(said).text,
        cache.mget([text, "Remember"]),
        scope.vector_store(EMBEDDINGS).similarity_search(text, k=10),
        [session.title for session in scope.sessions()],
        str(scope.overview()),
    ]


def checked(memory: IsolatedMemory, report: IsolationReport, place: str | Path) -> None:
    assert set(report.errors) <= {"EchoFailed"}
    assert_nothing_readable(place, canaries=report.canaries)


@pytest.fixture
def place(database_url: str, tmp_path: Path) -> str | Path:
    """Where nothing must be readable."""
    return database_url if database_url.startswith("postgresql") else tmp_path


def test_everything_that_a_scope_makes(memory: IsolatedMemory, place: str | Path):
    def app(user: str, session: str, text: str) -> list[Any]:
        return of_a_scope(memory.scope(user_id=user, module_id="chat"), session, text)

    report = assert_isolated(app, users=3)

    checked(memory, report, place)


@contextmanager
def meanwhile(action: Any) -> Iterator[list[Any]]:
    """Do it again and again in a thread of its own; what it raised is raised at the end."""
    is_over, done, errors = threading.Event(), [], []

    def run() -> None:
        while not is_over.is_set():
            try:
                done.append(action())
            except Exception as error:  # noqa: BLE001 - raised below
                errors.append(error)
                return

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield done
    finally:
        is_over.set()
        thread.join()
    if errors:
        raise errors[0]


@pytest.mark.slow
def test_an_agent_for_everybody_while_all_keys_rotate(memory: IsolatedMemory, place: str | Path):
    agent = assistant(memory)

    with meanwhile(lambda: memory.rotate_keys(all=True)) as rotations:
        report = assert_isolated(agent, users=2)

    assert sum(rotated.keys_destroyed for rotated in rotations) >= 2
    assert memory.verify(read_only=True).is_clean
    checked(memory, report, place)
