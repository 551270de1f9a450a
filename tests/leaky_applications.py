"""Applications that leak, each in another way, and the same applications written with ours.

Each leak is one that was met: a saver that is asked by thread alone, a filter that was forgotten, a
cache without the user in its key. Behind each stands what it is written as with this library.
"""

import asyncio
import base64
import itertools
import json
import logging
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import ContextVar
from functools import lru_cache
from typing import Annotated, Any, NamedTuple

from fastapi import Body, FastAPI, Header, Response
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_core.tools import tool
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated.testing import FAILURE, EchoChatModel

MODEL = EchoChatModel()
LOGGER = logging.getLogger("shop")
EMBEDDINGS = DeterministicFakeEmbedding(size=8)
Application = Any


def answer(state: MessagesState) -> dict[str, list[BaseMessage]]:
    return {"messages": [MODEL.invoke(state["messages"])]}


def graph() -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer")


class Leak(NamedTuple):
    """One kind of leak: the application that has it, and the same with ours."""

    leaking: Callable[[], Application]
    ours: Callable[[IsolatedMemory], Application]
    found_in: str
    """What is in `where` or `run` of a sighting."""
    users: int = 3


def scope_of(memory: IsolatedMemory, user: str) -> ScopedMemory:
    return memory.scope(user_id=user, module_id="chat")


# A thread's id, without the user.


def reused_thread() -> Application:
    return graph().compile(checkpointer=InMemorySaver())


def isolated_thread(memory: IsolatedMemory) -> Application:
    return graph().compile(checkpointer=memory.checkpointer())


# A session's id, without the user.


def shared_session_history() -> Application:
    histories: dict[str, Any] = defaultdict(lambda: _ListHistory([]))
    return RunnableWithMessageHistory(MODEL, lambda session_id: histories[session_id])


class _ListHistory:
    """The least that `RunnableWithMessageHistory` asks of a history."""

    def __init__(self, messages: list[BaseMessage]) -> None:
        self.messages = messages

    def add_messages(self, messages: list[BaseMessage]) -> None:
        self.messages.extend(messages)

    async def aget_messages(self) -> list[BaseMessage]:
        return self.messages

    async def aadd_messages(self, messages: list[BaseMessage]) -> None:
        self.messages.extend(messages)


def isolated_session_history(memory: IsolatedMemory) -> Application:
    return RunnableWithMessageHistory(
        MODEL, memory.session_history, history_factory_config=memory.history_config
    )


# A filter that was forgotten.


def forgotten_filter() -> Application:
    shared = InMemoryVectorStore(EMBEDDINGS)

    def app(user: str, session: str, text: str) -> str:
        found = shared.as_retriever(search_kwargs={"k": 20}).invoke(text)
        shared.add_documents([Document(text, metadata={"user": user})])
        return MODEL.invoke([*(HumanMessage(one.page_content) for one in found), text]).text

    return app


def stamped_documents(memory: IsolatedMemory) -> Application:
    shared = InMemoryVectorStore(EMBEDDINGS)

    def app(user: str, session: str, text: str) -> str:
        store = scope_of(memory, user).vector_store(wrapping=shared)
        found = store.as_retriever(search_kwargs={"k": 20}).invoke(text)
        store.add_documents([Document(text)])
        return MODEL.invoke([*(HumanMessage(one.page_content) for one in found), text]).text

    return app


# A cache without the user in its key.


def cache_without_user() -> Application:
    heard: dict[str, list[str]] = defaultdict(list)
    cache: dict[tuple[str, str], str] = {}

    def app(user: str, session: str, text: str) -> str:
        heard[user].append(text)
        if (session, text) not in cache:
            cache[session, text] = MODEL.invoke(" ".join(heard[user])).text
        return cache[session, text]

    return app


def cache_of_a_scope(memory: IsolatedMemory) -> Application:
    def app(user: str, session: str, text: str) -> str:
        scope = scope_of(memory, user)
        history, cache = scope.chat_history(session), scope.byte_store("answers")
        history.add_user_message(text)
        [known] = cache.mget([text])
        if known is None:
            known = MODEL.invoke(history.messages).text.encode()
            cache.mset([(text, known)])
        return known.decode()

    return app


# A prompt that is remembered for good.


def lru_cache_on_the_prompt() -> Application:
    heard: dict[str, list[str]] = defaultdict(list)
    here = threading.local()

    @lru_cache(maxsize=1000)
    def answered(text: str) -> str:
        return MODEL.invoke(" ".join(heard[here.user])).text

    def app(user: str, session: str, text: str) -> str:
        here.user = user
        heard[user].append(text)
        return answered(text)

    return app


def chat_history(memory: IsolatedMemory) -> Application:
    def app(user: str, session: str, text: str) -> str:
        history = scope_of(memory, user).chat_history(session)
        history.add_user_message(text)
        return MODEL.invoke(history.messages).text

    return app


# A history in a global, and one in a default argument.


def global_history() -> Application:
    history: list[str] = []

    def app(user: str, session: str, text: str) -> str:
        history.append(text)
        return MODEL.invoke(" ".join(history)).text

    return app


def default_argument() -> Application:
    def app(user: str, session: str, text: str, heard: list[str] = []) -> str:  # noqa: B006
        heard.append(text)
        return MODEL.invoke(" ".join(heard)).text

    return app


# A context variable that is set in a thread of a pool, and not reset.


def context_not_reset() -> Application:
    caller: ContextVar[str | None] = ContextVar("caller", default=None)
    heard: dict[str, list[str]] = defaultdict(list)

    def app(user: str, session: str, text: str) -> str:
        if caller.get() is None:
            caller.set(user)
        mine = heard[caller.get() or ""]
        mine.append(text)
        return MODEL.invoke(" ".join(mine)).text

    return app


def using_a_scope(memory: IsolatedMemory) -> Application:
    store = memory.store()

    def app(user: str, session: str, text: str) -> str:
        with memory.using(scope_of(memory, user).scope):
            store.put(("heard",), text, {"text": text})
            heard = [item.value["text"] for item in store.search(("heard",), limit=100)]
        return MODEL.invoke(" ".join(heard)).text

    return app


# A namespace of a store without the user.


def with_store(state: MessagesState, config: RunnableConfig, *, store: BaseStore) -> dict[str, Any]:
    text = state["messages"][-1].text
    store.put(("memories",), text, {"text": text})
    known = [item.value["text"] for item in store.search(("memories",), limit=100)]
    return {"messages": [MODEL.invoke([("system", " ".join(known)), *state["messages"]])]}


def graph_with_store() -> StateGraph[Any, Any, Any, Any]:
    return StateGraph(MessagesState).add_node("answer", with_store).add_edge(START, "answer")


def namespace_without_user() -> Application:
    return graph_with_store().compile(store=InMemoryStore())


def store_of_a_run(memory: IsolatedMemory) -> Application:
    return graph_with_store().compile(store=memory.store())


# A buffer that all streams share.


def shared_stream_buffer() -> Application:
    buffer: list[str] = []

    async def app(user: str, session: str, text: str) -> AsyncIterator[str]:
        async for chunk in MODEL.astream(text):
            buffer.append(chunk.text)
            await asyncio.sleep(0.001)
            yield "".join(buffer)
            buffer.clear()

    return app


def stream_of_ones_own(memory: IsolatedMemory) -> Application:
    async def app(user: str, session: str, text: str) -> AsyncIterator[str]:
        history = scope_of(memory, user).chat_history(session)
        await history.aadd_messages([HumanMessage(text)])
        async for chunk in MODEL.astream(await history.aget_messages()):
            yield chunk.text

    return app


# Characters of one stream between those of another: no chunk holds a whole word.


def streams_by_character() -> Application:
    last = [""]

    def app(user: str, session: str, text: str) -> Iterator[str]:
        before, last[0] = last[0], text
        yield from MODEL.invoke(f"{before} {text}").text

    return app


def own_streams_by_character(memory: IsolatedMemory) -> Application:
    def app(user: str, session: str, text: str) -> Iterator[str]:
        yield from chat_history(memory)(user, session, text)

    return app


# Results of a tool, known by its name alone.


def tool_memo() -> Application:
    memo: dict[str, str] = {}

    @tool
    def look_up(question: str) -> str:
        """Look something up."""
        return memo.setdefault("look_up", f"found for {question}")

    return create_agent(MODEL, [look_up])


def tool_of_a_scope(memory: IsolatedMemory) -> Application:
    store = memory.store()

    @tool
    def look_up(question: str) -> str:
        """Look something up."""
        item = store.get(("look_up",), "last")
        store.put(("look_up",), "last", {"result": f"found for {question}"})
        return item.value["result"] if item else "nothing yet"

    return create_agent(MODEL, [look_up], store=store)


# An error that quotes what another said.


def quoting_error() -> Application:
    last = [""]

    def app(user: str, session: str, text: str) -> str:
        if FAILURE in text:
            raise RuntimeError(f"failed after {last[0]}")
        last[0] = text
        return MODEL.invoke(text).text

    return app


# A line in a log.


def log_line() -> Application:
    def app(user: str, session: str, text: str) -> str:
        LOGGER.info("%s said: %s", user, text)
        return MODEL.invoke(text).text

    return app


def log_of_counts(memory: IsolatedMemory) -> Application:
    talk = chat_history(memory)

    def app(user: str, session: str, text: str) -> str:
        LOGGER.info("a message of %d characters", len(text))
        return talk(user, session, text)

    return app


# An attribute that is set before an `await` and read behind it.


class Assistant:
    def __init__(self) -> None:
        self.user = ""
        self.heard: dict[str, list[str]] = defaultdict(list)

    async def __call__(self, user: str, _: str, text: str) -> str:
        self.user = user
        self.heard[user].append(text)
        await asyncio.sleep(0.001)
        return (await MODEL.ainvoke(" ".join(self.heard[self.user]))).text


def async_history(memory: IsolatedMemory) -> Application:
    async def app(user: str, session: str, text: str) -> str:
        history = scope_of(memory, user).chat_history(session)
        await history.aadd_messages([HumanMessage(text)])
        return (await MODEL.ainvoke(await history.aget_messages())).text

    return app


# What a cancelled call leaves behind.


def left_by_the_cancelled() -> Application:
    prompt: list[str] = []
    turn = asyncio.Lock()

    async def app(user: str, session: str, text: str) -> str:
        async with turn:
            prompt.append(text)
            reply = (await MODEL.ainvoke(" ".join(prompt))).text
            prompt.clear()
            return reply

    return app


# What a failed call leaves behind, in a connection that goes back to its pool.


def left_by_the_failed() -> Application:
    here = threading.local()

    def app(user: str, session: str, text: str) -> str:
        here.prompt = [*getattr(here, "prompt", []), text]
        reply = MODEL.invoke([HumanMessage(one) for one in here.prompt]).text
        here.prompt = []
        return reply

    return app


# A cursor for the next page, in base64.


def cursor_in_base64() -> Application:
    last = {"text": ""}
    numbers = itertools.count()

    def app(user: str, session: str, text: str) -> dict[str, Any]:
        cursor = base64.urlsafe_b64encode(json.dumps({"n": next(numbers), **last}).encode())
        last["text"] = text
        return {"reply": MODEL.invoke(text).text, "next": cursor.decode()}

    return app


# A header of a response.


def header_of_the_last() -> Application:
    app = FastAPI()
    app.state.last = "none"

    @app.post("/chat")
    async def say(
        text: Annotated[str, Body(embed=True)], x_user: Annotated[str, Header()]
    ) -> Response:
        last, app.state.last = app.state.last, text
        reply = (await MODEL.ainvoke(text)).text
        return Response(reply, headers={"x-previous": last})

    return app


def header_of_ones_own(memory: IsolatedMemory) -> Application:
    app = FastAPI()

    @app.post("/chat")
    async def say(
        text: Annotated[str, Body(embed=True)], x_user: Annotated[str, Header()]
    ) -> Response:
        history = scope_of(memory, x_user).chat_history("1")
        last = [message.text for message in await history.aget_messages()][-1:]
        await history.aadd_messages([HumanMessage(text)])
        reply = (await MODEL.ainvoke(text)).text
        return Response(reply, headers={"x-previous": "".join(last)})

    return app


LEAKS = {
    "a thread's id without the user": Leak(reused_thread, isolated_thread, "AIMessage"),
    "a session's id without the user": Leak(
        shared_session_history, isolated_session_history, "AIMessage"
    ),
    "a forgotten filter": Leak(forgotten_filter, stamped_documents, "reply"),
    "a cache without the user": Leak(cache_without_user, cache_of_a_scope, "asking the same"),
    "lru_cache on the prompt": Leak(lru_cache_on_the_prompt, chat_history, "asking the same"),
    "a history in a global": Leak(global_history, chat_history, "reply"),
    "a history in a default argument": Leak(default_argument, chat_history, "reply"),
    "a context variable not reset": Leak(context_not_reset, using_a_scope, "by call"),
    "a namespace without the user": Leak(namespace_without_user, store_of_a_run, "AIMessage"),
    "a buffer of all streams": Leak(shared_stream_buffer, stream_of_ones_own, "streamed chunk"),
    "another's text by character": Leak(
        streams_by_character, own_streams_by_character, "streamed chunks joined"
    ),
    "a memo of tools": Leak(tool_memo, tool_of_a_scope, "ToolMessage"),
    "an error that quotes": Leak(quoting_error, chat_history, "error"),
    "a line in a log": Leak(log_line, log_of_counts, "a log record of shop"),
    "an attribute behind an await": Leak(Assistant, async_history, "at once"),
    "left by a cancelled call": Leak(
        left_by_the_cancelled, async_history, "another's cancelled run"
    ),
    "left by a failed call": Leak(left_by_the_failed, chat_history, "after another's failure"),
    "a cursor in base64": Leak(cursor_in_base64, chat_history, "in base64"),
    "a response's header": Leak(header_of_the_last, header_of_ones_own, "header x-previous"),
}
