"""LangChain's `RunnableWithMessageHistory` over our histories: the change of one line."""

import asyncio
import itertools
import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from langchain_core.chat_history import InMemoryChatMessageHistory
from langchain_core.language_models import FakeListChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.runnables.history import RunnableWithMessageHistory

from langmem_isolated import IsolatedChatMessageHistory, IsolatedMemory, LocalRootKey
from langmem_isolated.errors import LangmemIsolatedError, ScopeError

PROMPT = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{input}")])


class Chain:
    """A prompt and an offline model that answers `answer 0`, `answer 1`, …; keeps what it saw."""

    def __init__(self) -> None:
        self.saw: list[list[str]] = []
        answers = (AIMessage(f"answer {number}") for number in itertools.count())
        self.runnable: Runnable[Any, Any] = (
            PROMPT | RunnableLambda(self._look) | GenericFakeChatModel(messages=answers)
        )

    def _look(self, prompt: Any) -> Any:
        self.saw.append(texts(prompt.to_messages()))
        return prompt


def texts(messages: list[BaseMessage]) -> list[str]:
    return [str(message.content) for message in messages]


def with_history(runnable: Runnable[Any, Any], memory: IsolatedMemory) -> Runnable[Any, Any]:
    return RunnableWithMessageHistory(
        runnable,
        memory.session_history,
        input_messages_key="input",
        history_messages_key="history",
        history_factory_config=memory.history_config,
    )


def config(user: str = "alice", module: str = "tutor", session: str = "1") -> RunnableConfig:
    return {"configurable": {"user_id": user, "module_id": module, "session_id": session}}


def stored(memory: IsolatedMemory, **who: str) -> list[str]:
    return texts(memory.session_history(**config(**who)["configurable"]).messages)


def test_an_existing_chain_keeps_working_with_another_line(memory: IsolatedMemory):
    """The same turns over LangChain's own history and over ours."""
    in_memory: dict[str, InMemoryChatMessageHistory] = {}

    class Plain(InMemoryChatMessageHistory):  # deriving does not warn
        pass

    before, after = Chain(), Chain()
    stock = RunnableWithMessageHistory(
        before.runnable,
        lambda session_id: in_memory.setdefault(session_id, Plain()),
        input_messages_key="input",
        history_messages_key="history",
    )
    ours = with_history(after.runnable, memory)

    for turn in range(3):
        question = {"input": f"question {turn}"}
        expected = stock.invoke(question, {"configurable": {"session_id": "1"}})
        assert ours.invoke(question, config()).content == expected.content

    assert after.saw == before.saw
    assert after.saw[-1] == ["question 0", "answer 0", "question 1", "answer 1", "question 2"]
    assert stored(memory) == texts(in_memory["1"].messages)


def invoke(chain: Runnable[Any, Any], text: str, config: RunnableConfig) -> None:
    chain.invoke({"input": text}, config)


def stream(chain: Runnable[Any, Any], text: str, config: RunnableConfig) -> None:
    assert len(list(chain.stream({"input": text}, config))) > 1


def batch(chain: Runnable[Any, Any], text: str, config: RunnableConfig) -> None:
    chain.batch([{"input": text}], config)


def ainvoke(chain: Runnable[Any, Any], text: str, config: RunnableConfig) -> None:
    asyncio.run(chain.ainvoke({"input": text}, config))


def astream(chain: Runnable[Any, Any], text: str, config: RunnableConfig) -> None:
    async def consume() -> int:
        return len([chunk async for chunk in chain.astream({"input": text}, config)])

    assert asyncio.run(consume()) > 1


def abatch(chain: Runnable[Any, Any], text: str, config: RunnableConfig) -> None:
    asyncio.run(chain.abatch([{"input": text}], config))


Way = Callable[[Runnable[Any, Any], str, RunnableConfig], None]
WAYS: list[Way] = [invoke, stream, batch, ainvoke, astream, abatch]


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_run_it_loads_and_stores_the_turn(memory: IsolatedMemory, way: Way):
    chain = Chain()
    runnable = with_history(chain.runnable, memory)

    way(runnable, "first", config())
    way(runnable, "second", config())

    assert chain.saw == [["first"], ["first", "answer 0", "second"]]
    assert stored(memory) == ["first", "answer 0", "second", "answer 1"]
    kinds = {type(m) for m in memory.session_history(**config()["configurable"]).messages}
    assert kinds <= {HumanMessage, AIMessage, AIMessageChunk}


def test_ways_can_be_mixed_in_one_session(memory: IsolatedMemory):
    runnable = with_history(Chain().runnable, memory)

    for number, way in enumerate(WAYS):
        way(runnable, f"question {number}", config())

    assert stored(memory) == [
        text for number in range(len(WAYS)) for text in (f"question {number}", f"answer {number}")
    ]


def test_two_users_with_one_session_id_do_not_see_each_other(memory: IsolatedMemory):
    chain = Chain()
    runnable = with_history(chain.runnable, memory)

    runnable.invoke({"input": "my pin is 1234"}, config(user="alice"))
    runnable.invoke({"input": "what is my pin?"}, config(user="bob"))
    runnable.invoke({"input": "what is my pin?"}, config(user="alice", module="planner"))

    assert chain.saw[1:] == [["what is my pin?"], ["what is my pin?"]]
    assert stored(memory, user="bob") == ["what is my pin?", "answer 1"]
    assert stored(memory, user="alice") == ["my pin is 1234", "answer 0"]


def test_one_batch_serves_many_users(memory: IsolatedMemory):
    model = FakeListChatModel(responses=["same answer"])
    runnable = with_history(PROMPT | model, memory)
    users = [f"user-{number}" for number in range(10)]

    for turn in range(3):
        runnable.batch(
            [{"input": f"{user} {turn}"} for user in users], [config(user=user) for user in users]
        )

    for user in users:
        assert stored(memory, user=user)[::2] == [f"{user} {turn}" for turn in range(3)]
        assert stored(memory, user=user)[1::2] == ["same answer"] * 3


def test_the_fields_are_asked_for_by_name(memory: IsolatedMemory):
    runnable = with_history(Chain().runnable, memory)

    specs = {spec.id: spec for spec in runnable.config_specs}

    assert {"user_id", "module_id", "session_id"} <= specs.keys()
    for name in ("user_id", "module_id", "session_id"):
        assert specs[name].annotation is str
        assert specs[name].default is None
        assert specs[name].name
        assert specs[name].description


# --- refusals -------------------------------------------------------------------------------------


@pytest.fixture
def untouched(tmp_path: Path) -> Iterator[IsolatedMemory]:
    """A memory whose first I/O would leave a file."""
    file = tmp_path / "never.db"
    memory = IsolatedMemory(f"sqlite:///{file}", root_key=LocalRootKey(bytes(32)))
    yield memory
    assert not file.exists()
    memory.close()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", ["user_id", "module_id", "session_id"])
def test_an_empty_value_is_refused_before_any_io(untouched: IsolatedMemory, way: Way, key: str):
    chain = Chain()
    runnable = with_history(chain.runnable, untouched)

    # A session may have a number, as a thread may; users and modules have none.
    number = () if key == "session_id" else (0, 7)
    for empty in (None, "", *number, False, [], b"alice", "a\x00b", "x" * 256):
        wrong: Any = {"configurable": {**config()["configurable"], key: empty}}
        with pytest.raises(ScopeError, match=key):
            way(runnable, "hello", wrong)

    assert chain.saw == []


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("key", ["user_id", "module_id", "session_id"])
def test_a_missing_key_is_refused_by_langchain_before_any_io(
    untouched: IsolatedMemory, way: Way, key: str
):
    """With an error of the same kind as ours, a `ValueError`, that names the key."""
    chain = Chain()
    runnable = with_history(chain.runnable, untouched)
    configurable = {name: value for name, value in config()["configurable"].items() if name != key}

    for wrong in ({"configurable": configurable}, {"configurable": {}}, {}):
        with pytest.raises(ValueError, match=key):
            way(runnable, "hello", wrong)  # type: ignore[arg-type]

    assert chain.saw == []


# --- two turns at once ----------------------------------------------------------------------------


@pytest.mark.parametrize("through_async", [False, True], ids=["threads", "tasks"])
def test_whatever_reaches_us_of_two_turns_at_once_is_kept(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch, through_async: bool
):
    """LangChain's class cuts a turn's messages off by the length of the history as it is by then.

    So it may hand us less than was said, where another turn of the session ended meanwhile. What
    it hands to `add_messages` is there, in the order of the calls.
    """
    reached: list[str] = []
    lock = threading.Lock()
    original = IsolatedChatMessageHistory.add_messages

    def recorded(history: IsolatedChatMessageHistory, messages: list[BaseMessage]) -> None:
        with lock:
            original(history, messages)
            reached.extend(texts(messages))

    monkeypatch.setattr(IsolatedChatMessageHistory, "add_messages", recorded)
    fast_is_done = threading.Event()

    def answer(prompt: Any) -> AIMessage:
        text = texts(prompt.to_messages())[-1]
        if text == "slow":
            assert fast_is_done.wait(30)
        return AIMessage(f"re: {text}")

    runnable = with_history(PROMPT | RunnableLambda(answer), memory)

    def turn(text: str) -> None:
        if through_async:
            asyncio.run(runnable.ainvoke({"input": text}, config()))
        else:
            runnable.invoke({"input": text}, config())

    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(turn, "slow")
        threads.submit(turn, "fast").result()
        fast_is_done.set()
        slow.result()

    assert {"fast", "re: fast", "re: slow"} <= set(reached)
    assert stored(memory) == reached


def test_many_turns_at_once_keep_all_that_reaches_us(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    reached: list[tuple[str, ...]] = []
    original = IsolatedChatMessageHistory.add_messages

    def recorded(history: IsolatedChatMessageHistory, messages: list[BaseMessage]) -> None:
        original(history, messages)
        reached.append(tuple(texts(messages)))

    monkeypatch.setattr(IsolatedChatMessageHistory, "add_messages", recorded)
    answer = RunnableLambda(lambda prompt: AIMessage(f"re: {texts(prompt.to_messages())[-1]}"))
    runnable = with_history(PROMPT | answer, memory)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda n: runnable.invoke({"input": str(n)}, config()), range(40)))

    assert len(reached) == 40
    kept = stored(memory)
    assert sorted(kept) == sorted(text for call in reached for text in call)
    assert {f"re: {number}" for number in range(40)} <= set(kept)


# --- what cannot be stored ------------------------------------------------------------------------


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_turn_that_cannot_be_stored_exactly_is_stored_as_far_as_it_can_be_and_told_by_type(
    memory: IsolatedMemory, caplog: pytest.LogCaptureFixture, is_async: bool
):
    """LangChain stores in a callback, and only logs what callbacks raise."""

    class Secret:
        def __repr__(self) -> str:
            return "the secret"

    answer = RunnableLambda(
        lambda _: AIMessage("the secret answer", additional_kwargs={"it": Secret()})
    )
    with caplog.at_level(logging.DEBUG):
        chain, given = with_history(PROMPT | answer, memory), {"input": "the secret question"}
        await chain.ainvoke(given, config()) if is_async else chain.invoke(given, config())

    assert "recorded without what cannot be stored: " in caplog.text
    assert "the secret" not in caplog.text
    assert stored(memory) == ["the secret question", "the secret answer"]


def test_a_tampered_session_stops_the_turn_before_the_model(memory: IsolatedMemory, attacker: Any):
    chain = Chain()
    runnable = with_history(chain.runnable, memory)
    runnable.invoke({"input": "hello"}, config())
    attacker("DELETE FROM records")

    with pytest.raises(LangmemIsolatedError):
        runnable.invoke({"input": "again"}, config())

    assert len(chain.saw) == 1
