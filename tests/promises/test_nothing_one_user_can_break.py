"""Ten users, one hostile at every limit and beyond at once: no error of another user."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from langmem_isolated import IsolatedMemory, LangmemIsolatedError, Limits, LocalRootKey

ROUNDS = 12
LIMITS = Limits(batch_items=2_000, ids=2_000)
CONFIG: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


class Lengths(Embeddings):
    def embed_query(self, text: str) -> list[float]:
        return [1.0, float(len(text))]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


@pytest.fixture
def memory(database_url: str, root_key: LocalRootKey) -> Any:
    with IsolatedMemory(database_url, root_key=root_key, limits=LIMITS) as memory:
        yield memory


def hostile_calls(scope: Any) -> list[Callable[[], Any]]:
    """Every limit, reached and broken; numbers and filters that are none; ids of others."""
    big, ids = "\ufdfa" * 330_000, [str(n) for n in range(2_000)]
    deep: Any = {"a": 1}
    for _ in range(50_000):
        deep = {"a": deep}
    store, notes = scope.store(), scope.vector_store(Lengths())
    history, saver = scope.chat_history("s"), scope.checkpointer()

    def put(size: int) -> Any:
        values = {"text": "x" * size, "parts": [{"n": str(n) * 200} for n in range(200)]}
        new: Any = {**empty_checkpoint(), "channel_values": values}
        return saver.put(CONFIG, new, {}, {})

    return [
        lambda: history.add_messages([HumanMessage(big)]),
        lambda: history.add_messages([HumanMessage(big * 2)]),
        lambda: history.add_messages([HumanMessage("x")] * 2_000),
        lambda: history.add_messages([HumanMessage("x")] * 2_001),
        lambda: history.messages,
        lambda: scope.recall("x"),
        lambda: store.put(("a",), "k", {"v": "x" * 8_000_000}),
        lambda: store.put(("a",), "k", {"v": "x" * 16_000_000}),
        lambda: store.search(("a",), filter=deep),
        lambda: store.search(("a",), limit=-1),
        lambda: put(4_000_000),
        lambda: put(17_000_000),
        lambda: saver.get_tuple(CONFIG),
        lambda: notes.add_texts(ids, ids=ids),
        lambda: notes.add_texts([*ids, "x"], ids=[*ids, "x"]),
        lambda: notes.similarity_search("x" * 20_000),
        lambda: notes.similarity_search("x", k=2**70, filter={"$not": deep}),
        lambda: notes.delete(ids),
        lambda: scope.byte_store().mset([(id_, b"x" * 1_000) for id_ in ids]),
        lambda: saver.delete_thread("t"),
        history.clear,
    ]


def ordinary_calls(scope: Any) -> None:
    """What a user does in a turn, and what must come of it."""
    history = scope.chat_history("s")
    history.add_messages([HumanMessage("hello")])
    assert {message.text for message in history.last(2)} == {"hello"}
    scope.store().put(("a",), "k", {"v": "mine"})
    assert scope.store().get(("a",), "k").value == {"v": "mine"}
    scope.vector_store(Lengths()).add_texts(["mine"], ids=["1"])
    assert [d.page_content for d in scope.vector_store(Lengths()).documents()] == ["mine"]
    new: Any = {**empty_checkpoint(), "channel_values": {"text": "mine"}}
    placed = scope.checkpointer().put(CONFIG, new, {}, {})
    assert scope.checkpointer().get_tuple(placed).checkpoint["channel_values"] == {"text": "mine"}


def within_errors_of_ours(call: Callable[[], Any]) -> None:
    with suppress(LangmemIsolatedError, ValueError):
        call()


def others_of(memory: IsolatedMemory) -> list[Any]:
    return [memory.scope(user_id=f"user {n}", module_id="tutor") for n in range(9)]


def check_all_is_there(others: list[Any]) -> None:
    for other in others:
        assert other.chat_history("s").count() == ROUNDS
        assert other.verify()


def test_from_threads_no_other_user_has_an_error(memory: IsolatedMemory):
    mallory, others = memory.scope(user_id="mallory", module_id="tutor"), others_of(memory)
    stop = threading.Event()

    def attack(number: int) -> None:
        calls = hostile_calls(mallory)
        while not stop.is_set():
            within_errors_of_ours(calls[number % len(calls)])
            number += 1

    def live(other: Any) -> None:
        for _ in range(ROUNDS):
            ordinary_calls(other)

    with ThreadPoolExecutor(len(others) + 21) as threads:
        attackers = [threads.submit(attack, number) for number in range(21)]
        try:
            for done in [threads.submit(live, other) for other in others]:
                done.result(120)
        finally:
            stop.set()
        for attacker in attackers:
            attacker.result(120)
    check_all_is_there(others)


async def test_from_tasks_no_other_user_has_an_error(memory: IsolatedMemory):
    mallory, others = memory.scope(user_id="mallory", module_id="tutor"), others_of(memory)
    calls = hostile_calls(mallory)

    async def attack(number: int) -> None:
        while True:
            call = calls[number % len(calls)]
            await mallory.recall._records.arun(within_errors_of_ours, call)
            number += 1

    async def live(other: Any) -> None:
        for _ in range(ROUNDS):
            await other.recall._records.arun(ordinary_calls, other)

    attackers = [asyncio.create_task(attack(number)) for number in range(100)]
    try:
        await asyncio.wait_for(asyncio.gather(*map(live, others)), 120)
    finally:
        for attacker in attackers:
            attacker.cancel()
    ended = await asyncio.gather(*attackers, return_exceptions=True)

    assert {type(end) for end in ended} == {asyncio.CancelledError}
    check_all_is_there(others)
