"""The kit's chat model, which says its prompt again, and its clock, which the test advances."""

import asyncio
import time
from datetime import timedelta
from typing import Any, Literal

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._runtime import clock as clock_of_the_library
from langmem_isolated.testing import FAILURE, EchoChatModel, EchoFailed, FakeClock

PROMPT = [
    SystemMessage("You know: Bob's PIN."),
    HumanMessage("My PIN?"),
    AIMessage("My answer"),
    ToolMessage("a result", tool_call_id="1"),
    HumanMessage("My last"),
]
SAID = "You know: Bob's PIN. My PIN? answer a result last"


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Any:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


def test_it_says_every_word_of_its_prompt_once_by_every_way():
    model = EchoChatModel()

    async def by_tasks() -> list[str]:
        chunks = [chunk.text async for chunk in model.astream(PROMPT)]
        return [(await model.ainvoke(PROMPT)).text, "".join(chunks)]

    assert model.invoke(PROMPT).text == SAID
    assert "".join(chunk.text for chunk in model.stream(PROMPT)) == SAID
    assert asyncio.run(by_tasks()) == [SAID, SAID]
    assert len([*model.stream(PROMPT)]) == len(SAID.split())


def test_an_answer_does_not_grow_when_it_is_said_again():
    model, messages = EchoChatModel(), [HumanMessage("one two")]

    for _ in range(20):
        messages.append(model.invoke(messages))

    assert messages[-1].text == "one two"


@pytest.mark.parametrize("call", ["invoke", "stream", "ainvoke", "astream"])
def test_it_fails_when_told_and_quotes_nothing(call: str):
    model = EchoChatModel()

    async def consumed() -> None:
        if call == "ainvoke":
            await model.ainvoke(f"My PIN {FAILURE}")
        async for _ in model.astream(f"My PIN {FAILURE}"):
            pass

    def called() -> None:
        if call.startswith("a"):
            asyncio.run(consumed())
        list(getattr(model, call)(f"My PIN {FAILURE}"))

    with pytest.raises(EchoFailed) as caught:
        called()

    assert "PIN" not in str(caught.value)


def test_it_answers_again_behind_a_failure():
    said = [HumanMessage(f"first {FAILURE}"), HumanMessage("second")]

    assert EchoChatModel().invoke(said).text == f"first {FAILURE} second"


@tool
def search(query: str, limit: int, order: Literal["new", "old"], more: str = "none") -> str:
    """Search."""
    return f"found {query} {limit} {order} {more}"


@tool
def now() -> str:
    """Tell the time."""
    return "noon"


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_agent_calls_each_tool_once_and_says_what_came_of_it(is_streamed: bool):
    agent = create_agent(EchoChatModel(), [search, now], checkpointer=InMemorySaver())
    config: Any = {"configurable": {"thread_id": "1"}}

    for number in range(2):
        said: Any = {"messages": [HumanMessage(f"question {number}")]}
        if is_streamed:
            list(agent.stream(said, config, stream_mode="messages"))
        else:
            agent.invoke(said, config)

    messages = agent.get_state(config).values["messages"]
    assert [message.type for message in messages] == ["human", "ai", "tool", "tool", "ai"] * 2
    assert messages[2].text == "found question 0 1 new none"
    assert messages[-1].text.startswith("question 0")
    assert "noon" in messages[-1].text


def test_a_pause_below_zero_is_refused():
    with pytest.raises(ValueError, match="pause must be 0 or more"):
        EchoChatModel(pause=-1)


def test_others_come_between_in_its_pauses():
    order: list[str] = []

    async def one(name: str) -> None:
        async for chunk in EchoChatModel(pause=0.001).astream("a b"):
            order.append(f"{name} {chunk.text.strip()}")  # noqa: PERF401 - as they come

    async def both() -> None:
        await asyncio.gather(one("alice"), one("bob"))

    asyncio.run(both())

    assert {*order[:2]} == {"alice a", "bob a"}
    assert {*order[2:]} == {"alice b", "bob b"}


# The clock.


def test_retention_goes_by_the_clock_of_the_test(memory: IsolatedMemory):
    with FakeClock().installed() as clock:
        memory.retention.keep("message", days=30)
        history = memory.scope(user_id="alice", module_id="chat").chat_history("1")
        history.add_user_message("Hi")
        clock.advance(timedelta(days=29))
        assert history.count() == 1
        clock.advance(timedelta(days=2))
        assert memory.sweep().is_done

        assert history.count() == 0


def test_the_clock_of_the_library_is_that_of_the_machine_behind_it():
    with FakeClock().installed() as clock:
        clock.advance(timedelta(days=1))
        assert clock_of_the_library.now() // 1_000_000 == clock.time_ns() // 1_000_000_000

    assert abs(clock_of_the_library.now() / 1e6 - time.time()) < 5


def test_a_clock_in_another_puts_that_one_back():
    with FakeClock().installed() as outer:
        outer.advance(timedelta(days=2))
        with FakeClock().installed():
            pass
        assert clock_of_the_library.now() // 1_000_000 == outer.time_ns() // 1_000_000_000


@pytest.mark.parametrize(
    ("span", "error"), [("1 day", TypeError), (True, TypeError), (-1, ValueError)]
)
def test_a_span_that_is_none_is_refused(span: Any, error: type[Exception]):
    clock = FakeClock()
    before = clock.now

    with pytest.raises(error, match="advance takes"):
        clock.advance(span)
    assert clock.now == before
