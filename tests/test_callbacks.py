"""Chains of LangChain recorded by the callback handler."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.language_models import FakeListLLM, GenericFakeChatModel
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, ToolMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command, interrupt

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated.errors import DatabaseError, IsolationViolation, ScopeError
from tests.conftest import Attacker, Door
from tests.lasting import lasting, lasting_url, newcomer

FIXTURES = (lasting, lasting_url)

PROMPT = ChatPromptTemplate.from_messages(
    [("system", "You teach."), MessagesPlaceholder("history", optional=True), ("human", "{said}")]
)


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def fail() -> str:
    """Fail."""
    raise ValueError("out of ink")


class Failing(GenericFakeChatModel):
    """A model that cannot be reached."""

    def _generate(self, *_: Any, **__: Any) -> Any:
        raise ConnectionError("no route")


def model(*said: str | AIMessage) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter(said))


def of(scoped: ScopedMemory, session_id: str = "s") -> RunnableConfig:
    return {"callbacks": [scoped.callback_handler(session_id)]}


def texts(scoped: ScopedMemory, session_id: str = "s") -> list[str]:
    return [
        f"{m.role if isinstance(m, ChatMessage) else m.type}: {m.text}"
        for m in scoped.chat_history(session_id).messages
    ]


# --- what is recorded -----------------------------------------------------------------------------


async def test_questions_and_answers_of_a_chain_are_recorded_once(tutor: ScopedMemory, door: Door):
    chain = PROMPT | model("one", "two") | StrOutputParser()
    handler = tutor.callback_handler("s", channel="lessons")
    config: RunnableConfig = {"callbacks": [handler]}

    await door(chain, "invoke", {"said": "first"}, config)
    await door(chain, "invoke", {"said": "second"}, config)

    assert texts(tutor) == ["human: first", "ai: one", "human: second", "ai: two"]
    assert len(tutor.recent({"lessons": 9})) == 4
    assert handler._runs == {}


async def test_history_and_examples_in_a_prompt_are_not_recorded_again(
    tutor: ScopedMemory, door: Door
):
    chain = PROMPT | model("one", "two", "three")

    for said in ("first", "second", "third"):
        history = tutor.chat_history("s").messages
        await door(chain, "invoke", {"said": said, "history": history}, of(tutor))

    assert texts(tutor) == [
        "human: first", "ai: one", "human: second", "ai: two", "human: third", "ai: three",
    ]  # fmt: skip


async def test_a_streamed_answer_is_recorded_whole(tutor: ScopedMemory):
    list((PROMPT | model("one two three")).stream({"said": "count"}, of(tutor)))
    async for _ in (PROMPT | model("four five")).astream({"said": "go on"}, of(tutor)):
        pass

    assert texts(tutor) == ["human: count", "ai: one two three", "human: go on", "ai: four five"]
    assert {type(m) for m in tutor.chat_history("s").messages} == {HumanMessage, AIMessage}


async def test_a_model_in_place_of_another_does_not_repeat_the_question(
    tutor: ScopedMemory, door: Door
):
    chain = PROMPT | Failing(messages=iter(())).with_fallbacks([model("here")])

    await door(chain, "invoke", {"said": "hello"}, of(tutor))

    assert texts(tutor) == ["human: hello", "error: no route", "ai: here"]


@pytest.mark.parametrize("is_chain", [False, True])
async def test_what_stands_in_for_another_is_recorded_for_whom_the_run_is(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door, is_chain: bool
):
    handler = memory.callback_handler()
    named = {"user_id": "alice", "module_id": "tutor", "session_id": "s"}
    failing, here = Failing(messages=iter(())), model("here", "again")
    chain = PROMPT | failing.with_fallbacks([RunnableLambda(str) | here if is_chain else here])

    for said in ("hello", "you"):
        await door(chain, "invoke", {"said": said}, {"configurable": named, "callbacks": [handler]})

    said = [text for text in texts(tutor) if "Human" not in text]
    asked = ["human: hello", "error: no route", "ai: here", "human: you", "error: no route"]
    assert said == [*asked, "ai: again"]
    assert handler._runs == {}


@given(
    turns=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from(["resp_1", "resp_2", None])), max_size=6
    )
)
@settings(max_examples=25, deadline=None)
def test_every_turn_of_a_chain_is_recorded_whatever_ids_the_server_gives(
    lasting: IsolatedMemory, turns: list[tuple[str, str | None]]
):
    alice = newcomer(lasting)
    chain = PROMPT | model(*(AIMessage(text, id=id_) for text, id_ in turns))

    for _ in turns:
        chain.invoke({"said": "again?"}, of(alice))

    assert texts(alice) == [said for text, _ in turns for said in ("human: again?", f"ai: {text}")]


async def test_two_models_of_one_chain_that_say_the_same_are_both_recorded(
    tutor: ScopedMemory, door: Door
):
    said = AIMessage("same", id="resp_1")
    chain = PROMPT | model(said) | RunnableLambda(lambda m: m.text) | model(said)

    await door(chain, "invoke", {"said": "hello"}, of(tutor))

    assert texts(tutor) == ["human: hello", "ai: same", "human: same", "ai: same"]


async def test_two_handlers_of_one_session_record_each_message_once(
    tutor: ScopedMemory, door: Door
):
    config: RunnableConfig = {
        "callbacks": [tutor.callback_handler("s"), tutor.callback_handler("s")]
    }
    chain = PROMPT | model(*(AIMessage("same", id="resp_1") for _ in range(2)))

    for _ in range(2):
        await door(chain, "invoke", {"said": "hello"}, config)

    assert texts(tutor) == ["human: hello", "ai: same"] * 2


async def test_each_input_of_a_batch_is_recorded(tutor: ScopedMemory, door: Door):
    def says(value: Any) -> str:
        return f"re: {value.to_messages()[-1].text}"

    chain = PROMPT | RunnableLambda(says) | model("a", "b", "c")

    await door(chain, "batch", [{"said": text} for text in ("one", "two", "two")], of(tutor))

    found = texts(tutor)
    assert sorted(found) == [
        "ai: a", "ai: b", "ai: c", "human: re: one", "human: re: two", "human: re: two",
    ]  # fmt: skip


async def test_a_model_that_takes_text_is_recorded(tutor: ScopedMemory, door: Door):
    await door(FakeListLLM(responses=["fine"]), "invoke", "how are you?", of(tutor))

    assert texts(tutor) == ["human: how are you?", "ai: fine"]


async def test_tool_calls_and_answers_are_recorded_once(tutor: ScopedMemory, door: Door):
    call = {"name": "add", "args": {"a": 1, "b": 2}, "id": "call-1", "type": "tool_call"}
    chat = model(AIMessage("", tool_calls=[call]), "three")

    async def loop(said: str, config: RunnableConfig) -> BaseMessage:
        asked = await chat.ainvoke([HumanMessage(said)], config)
        answer = await add.ainvoke(asked.tool_calls[0], config)
        return await chat.ainvoke([HumanMessage(said), asked, answer], config)

    def sync_loop(said: str, config: RunnableConfig) -> BaseMessage:
        asked = chat.invoke([HumanMessage(said)], config)
        answer = add.invoke(asked.tool_calls[0], config)
        return chat.invoke([HumanMessage(said), asked, answer], config)

    await door(RunnableLambda(sync_loop, loop), "invoke", "1+2", of(tutor))

    assert texts(tutor) == ["human: 1+2", "ai: ", "tool: 3", "ai: three"]
    assert tutor.chat_history("s").messages[1].tool_calls == [call]


async def test_a_tool_called_by_no_model_is_recorded_with_its_call(tutor: ScopedMemory, door: Door):
    await door(add, "invoke", {"a": 1, "b": 2}, of(tutor))

    called, answer = tutor.chat_history("s").messages
    assert isinstance(called, AIMessage)
    assert isinstance(answer, ToolMessage)
    assert [(c["name"], c["args"]) for c in called.tool_calls] == [("add", {"a": 1, "b": 2})]
    assert answer.tool_call_id == called.tool_calls[0]["id"]
    assert answer.text == "3"


# --- failures -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chain", "expected"),
    [
        (PROMPT | Failing(messages=iter(())), ["human: x", "error: no route"]),
        (RunnableLambda(lambda _: {}) | fail, ["error: out of ink"]),
        (
            PROMPT | GenericFakeChatModel(messages=iter(["no json"] * 9)) | JsonOutputParser(),
            ["human: x", "ai: no json", "error: Invalid json output: no json"],
        ),
        (RunnableLambda(lambda _: 1 // 0), ["error: integer division or modulo by zero"]),
    ],
    ids=["model", "tool", "parser", "whole"],
)
async def test_a_failure_is_recorded_once(
    tutor: ScopedMemory, door: Door, chain: Runnable[Any, Any], expected: list[str]
):
    with pytest.raises((ConnectionError, ValueError, ZeroDivisionError)):
        await door(chain, "invoke", {"said": "x"}, of(tutor))

    assert [text.partition("\n")[0] for text in texts(tutor)] == expected
    assert [m.text for m in tutor.recent({"events": 9})] == [
        m.text for m in tutor.chat_history("s").messages if isinstance(m, ChatMessage)
    ]


async def test_a_cancelled_chain_is_recorded(tutor: ScopedMemory):
    begun = asyncio.Event()

    async def wait(_: Any) -> str:
        begun.set()
        await asyncio.sleep(60)
        return ""

    chain = PROMPT | model("thinking") | RunnableLambda(wait)
    task = asyncio.create_task(chain.ainvoke({"said": "wait"}, of(tutor)))
    await begun.wait()

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert texts(tutor)[:2] == ["human: wait", "ai: thinking"]


def test_a_stream_that_is_no_longer_read_is_one_event(tutor: ScopedMemory):
    chain = RunnableLambda(lambda said: said) | model("one two three")

    async def read_one() -> None:
        stream = chain.astream("count", of(tutor))
        await anext(stream)
        await stream.aclose()

    asyncio.run(read_one())

    assert texts(tutor) == ["human: count", "error: "]


async def test_runs_that_are_refused_are_forgotten(memory: IsolatedMemory, door: Door):
    handler = memory.callback_handler()

    for named in ({}, {"user_id": "alice"}, {"user_id": "alice", "module_id": "tutor"}):
        config: RunnableConfig = {"callbacks": [handler], "configurable": named}
        with pytest.raises(ScopeError):
            await door(PROMPT | model("x"), "invoke", {"said": "hello"}, config)

    assert handler._runs == {}


async def test_what_a_graph_asks_is_recorded_once(tutor: ScopedMemory, door: Door):
    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"you said {interrupt({'question': 'sure?'})}")]}

    builder = StateGraph(MessagesState)
    builder.add_node("ask", ask)
    builder.add_edge(START, "ask")
    graph = builder.compile(checkpointer=InMemorySaver())
    config: RunnableConfig = {**of(tutor), "configurable": {"thread_id": "t"}}

    await door(graph, "invoke", {"messages": [("user", "go")]}, config)
    await door(graph, "invoke", Command(resume="yes"), config)

    assert texts(tutor) == ['interrupt: {"question": "sure?"}']


async def test_a_recording_that_fails_fails_the_run(
    tutor: ScopedMemory, door: Door, attacker: Attacker
):
    await door(PROMPT | model("x"), "invoke", {"said": "hello"}, of(tutor))
    attacker("ALTER TABLE records RENAME TO elsewhere")

    with pytest.raises(DatabaseError):
        await door(PROMPT | model("x"), "invoke", {"said": "hello"}, of(tutor))


# --- whose ----------------------------------------------------------------------------------------


async def test_one_handler_records_each_run_to_its_own_user(memory: IsolatedMemory, door: Door):
    handler = memory.callback_handler()
    users = [f"user {number}" for number in range(6)]

    def endless() -> Iterator[str]:
        while True:
            yield "fine"

    chain = PROMPT | GenericFakeChatModel(messages=endless())

    async def talk(user: str) -> None:
        names = {"user_id": user, "module_id": "tutor", "session_id": "s"}
        for number in range(2):
            value = {"said": f"{user} {number}"}
            config = {"callbacks": [handler], "configurable": names}
            await door(chain, "invoke", value, config)

    await asyncio.gather(*map(talk, users))

    for user in users:
        expected = [f"human: {user} 0", "ai: fine", f"human: {user} 1", "ai: fine"]
        assert texts(memory.scope(user_id=user, module_id="tutor")) == expected
    assert handler._runs == {}


async def test_a_model_by_itself_is_recorded_in_the_scope_around(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door
):
    handler = memory.callback_handler()
    config: RunnableConfig = {"callbacks": [handler]}

    with pytest.raises(ScopeError):
        await door(model("x"), "invoke", "hello", config)
    with memory.using(tutor), pytest.raises(ScopeError, match="no chat session"):
        await door(model("x"), "invoke", "hello", config)

    await door(model("x"), "invoke", "hello", of(tutor))
    assert texts(tutor) == ["human: hello", "ai: x"]


async def test_a_model_without_a_chain_around_it_is_refused_and_told_what_to_do(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door
):
    where = {"user_id": "alice", "module_id": "tutor", "session_id": "s"}
    config: RunnableConfig = {"callbacks": [memory.callback_handler()], "configurable": where}

    for alone, said in ((model("x"), "hello"), (add, {"a": 1, "b": 2})):
        with pytest.raises(
            ScopeError, match=r"invoked by itself.* prompt \| model, .*callback_handl"
        ):
            await door(alone, "invoke", said, config)
    assert texts(tutor) == []

    await door(RunnableLambda(lambda said: said) | model("x"), "invoke", "hello", config)
    assert texts(tutor) == ["human: hello", "ai: x"]


async def test_a_bound_handler_refuses_a_run_of_another_user(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door
):
    names = {"user_id": "bob", "module_id": "tutor"}
    handler = tutor.callback_handler("s")
    config: RunnableConfig = {"callbacks": [handler], "configurable": names}

    with pytest.raises(IsolationViolation):
        await door(PROMPT | model("x"), "invoke", {"said": "hello"}, config)

    assert handler._runs == {}
    assert texts(tutor) == []
    assert memory.scope(user_id="bob", module_id="tutor").sessions() == []


def test_a_handler_names_no_one(tutor: ScopedMemory):
    assert repr(tutor.callback_handler("secret")) == "IsolatedCallbackHandler()"
