"""An ASGI application as each worker of a server has it: a history, a thread and items a user.

`POST /history`, `/thread` or `/items` with a user and a text is a turn: something is read, and
something is stored. The answer says which worker gave it, and which error it met.
"""

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Protocol

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from langmem_isolated import IsolatedMemory

DATABASE = "CHAT_DATABASE"
"""The variable with the URL."""
MODULE = "chat"
NAMESPACE = ("notes",)


class Turns(Protocol):
    """What a worker does for a user."""

    async def history(self, user: str, text: str) -> object:
        """Read a chat history and add two messages."""

    async def thread(self, user: str, text: str) -> object:
        """Run a graph on the user's thread."""

    async def items(self, user: str, text: str) -> object:
        """Put an item and list some."""


def answer(_: MessagesState) -> dict[str, Any]:
    return {"messages": [("ai", "I have heard it, and will remember. " * 5)]}


def graph(**parts: Any) -> Any:
    """One node that answers, compiled with a checkpointer."""
    builder = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer")
    return builder.compile(**parts)


class Ours:
    """The turns of this package."""

    def __init__(self, memory: IsolatedMemory) -> None:
        self._memory = memory
        self._graph = graph(checkpointer=memory.checkpointer())

    async def history(self, user: str, text: str) -> object:
        history = self._memory.scope(user_id=user, module_id=MODULE).chat_history("monday")
        await history.alast(20)
        return await history.aadd_messages([HumanMessage(text), AIMessage(text)])

    async def thread(self, user: str, text: str) -> object:
        named = {"thread_id": "monday", "user_id": user, "module_id": MODULE}
        return await self._graph.ainvoke({"messages": [("human", text)]}, {"configurable": named})

    async def items(self, user: str, text: str) -> object:
        store = self._memory.scope(user_id=user, module_id=MODULE).store()
        await store.aput(NAMESPACE, text, {"text": text})
        return await store.asearch(NAMESPACE, limit=10)


Opened = Callable[[], AbstractAsyncContextManager[Turns]]


@asynccontextmanager
async def ours() -> AsyncIterator[Turns]:
    async with IsolatedMemory(os.environ[DATABASE]) as memory:
        yield Ours(memory)


def application(opened: Opened = ours) -> Starlette:
    """The application; what it stands on is opened in each worker.

    Args:
        opened: Opens it.
    """
    open_turns: dict[str, Any] = {}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with opened() as turns:
            open_turns.update(history=turns.history, thread=turns.thread, items=turns.items)
            yield

    async def turn(request: Request) -> JSONResponse:
        given, begin, error = await request.json(), time.perf_counter(), None
        try:
            await open_turns[request.path_params["what"]](given["user"], given["text"])
        except Exception as failure:  # noqa: BLE001 - whatever it raises is counted
            error = f"{type(failure).__name__}: {getattr(failure, 'orig', failure)}"
        taken = time.perf_counter() - begin
        return JSONResponse({"worker": os.getpid(), "seconds": taken, "error": error})

    async def worker(_: Request) -> JSONResponse:
        return JSONResponse({"worker": os.getpid()})

    routes = [Route("/{what}", turn, methods=["POST"]), Route("/", worker)]
    return Starlette(routes=routes, lifespan=lifespan)
