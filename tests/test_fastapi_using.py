"""`using` around an endpoint of FastAPI, from dependencies with `yield`."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Response
from fastapi.responses import StreamingResponse
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated.errors import IsolationViolation, ScopeError
from tests.servers.uvicorn_thread import served

USERS = ("alice", "bob")
ALICE, BOB = (Scope(user, "chat") for user in USERS)


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


def answer(state: MessagesState) -> dict:
    heard = [m.text for m in state["messages"] if isinstance(m, HumanMessage)]
    return {"messages": [AIMessage(f"heard {heard}")]}


def with_dependency(memory: IsolatedMemory, dependency: Callable[..., Any]) -> FastAPI:
    """An application whose endpoint knows the scope by the surrounding `using` alone."""
    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph = builder.compile(checkpointer=memory.checkpointer())
    config: Any = {"configurable": {"thread_id": "1"}}
    app = FastAPI()
    app.state.errors = []

    @app.post("/async")
    async def say_async(user: str, _: Annotated[None, Depends(dependency)]) -> str:
        with noting(app):
            said = await graph.ainvoke({"messages": [HumanMessage(user)]}, config)
            return str(said["messages"][-1].text)

    @app.post("/sync")
    def say_sync(user: str, _: Annotated[None, Depends(dependency)]) -> str:
        with noting(app):
            said = graph.invoke({"messages": [HumanMessage(user)]}, config)
            return str(said["messages"][-1].text)

    return app


class noting:  # noqa: N801 - reads as a block
    """Notes the error that leaves an endpoint."""

    def __init__(self, app: FastAPI) -> None:
        self._errors = app.state.errors

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error:
            self._errors.append(error)


@asynccontextmanager
async def client_of(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def asked_by_both(app: FastAPI, path: str) -> list[httpx.Response]:
    async with client_of(app) as client:
        users = USERS * 4
        return await asyncio.gather(*(client.post(path, params={"user": user}) for user in users))


@pytest.mark.parametrize("path", ["/async", "/sync"])
async def test_an_async_dependency_may_yield_inside_using(memory: IsolatedMemory, path: str):
    async def scoped(user: str) -> AsyncIterator[None]:
        with memory.using(Scope(user, "chat")):
            yield

    app = with_dependency(memory, scoped)

    for user, response in zip(USERS * 4, await asked_by_both(app, path), strict=True):
        assert response.status_code == 200, app.state.errors
        assert "bob" not in response.text or user == "bob"
        assert "alice" not in response.text or user == "alice"
    for scope in (ALICE, BOB):
        assert [thread.id for thread in memory.scope(scope).checkpointer().threads()] == ["1"]


@pytest.mark.parametrize("path", ["/async", "/sync"])
async def test_a_sync_dependency_that_yields_inside_using_fails_closed_with_one_sentence(
    memory: IsolatedMemory, path: str
):
    # FastAPI enters it in a thread, of whose context the endpoint sees nothing.
    def scoped(user: str) -> Iterator[None]:
        with memory.using(Scope(user, "chat")):
            yield

    app = with_dependency(memory, scoped)

    responses = await asked_by_both(app, path)

    assert [response.status_code for response in responses] == [500] * len(responses)
    assert {type(error) for error in app.state.errors} == {ScopeError}
    assert all("memory.scope(…).bind(graph)" in str(error) for error in app.state.errors)
    for user in USERS:
        assert memory.modules(user_id=user) == []


@pytest.mark.parametrize("path", ["/async", "/sync"])
async def test_a_dependency_may_return_the_users_memory(memory: IsolatedMemory, path: str):
    """What to do instead: the handle travels as a value, and a bound graph needs no context."""
    builder = StateGraph(MessagesState)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    graph = builder.compile()
    config: Any = {"configurable": {"thread_id": "1"}}
    app = FastAPI()

    def authenticated(user: str) -> Any:
        return memory.scope(user_id=user, module_id="chat")

    @app.post("/async")
    async def say_async(user: str, mine: Annotated[Any, Depends(authenticated)]) -> str:
        said = await mine.bind(graph).ainvoke({"messages": [HumanMessage(user)]}, config)
        return str(said["messages"][-1].text)

    @app.post("/sync")
    def say_sync(user: str, mine: Annotated[Any, Depends(authenticated)]) -> str:
        said = mine.bind(graph).invoke({"messages": [HumanMessage(user)]}, config)
        return str(said["messages"][-1].text)

    for user, response in zip(USERS * 4, await asked_by_both(app, path), strict=True):
        assert response.status_code == 200
        other = next(name for name in USERS if name != user)
        assert other not in response.text


async def test_a_streamed_generator_may_not_enter_using(memory: IsolatedMemory):
    app, refused = FastAPI(), []

    @app.get("/")
    async def streamed() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            try:
                with memory.using(ALICE):
                    yield "never sent"
            except IsolationViolation as error:
                refused.append(str(error))
                yield "refused"

        return StreamingResponse(parts())

    async with client_of(app) as client:
        assert (await client.get("/")).text == "refused"
    assert "A generator must not enter `using`" in refused[0]


async def test_after_a_refused_dependency_the_next_request_is_served(memory: IsolatedMemory):
    def scoped(user: str) -> Iterator[None]:
        with memory.using(Scope(user, "chat")):
            yield

    async def scoped_async(user: str) -> AsyncIterator[None]:
        with memory.using(Scope(user, "chat")):
            yield

    await asked_by_both(with_dependency(memory, scoped), "/async")
    responses = await asked_by_both(with_dependency(memory, scoped_async), "/async")

    assert [response.status_code for response in responses] == [200] * len(responses)


def test_a_dependency_that_never_leaves_using_lends_its_scope_to_no_other_request(
    memory: IsolatedMemory,
):
    async def entered(user: str) -> None:
        if user == "alice":
            memory.using(Scope(user, "chat")).__enter__()

    app = with_dependency(memory, entered)
    # Handled, so that the server keeps the connection.
    app.add_exception_handler(ScopeError, lambda *_: Response(status_code=403))
    with served(app) as url, httpx.Client(base_url=url, timeout=30) as one_connection:
        for _ in range(3):
            assert one_connection.post("/async", params={"user": "alice"}).status_code == 200
            assert one_connection.post("/async", params={"user": "bob"}).status_code == 403

    assert {type(error) for error in app.state.errors} == {ScopeError}
    assert len(memory.scope(ALICE).checkpointer().threads()) == 1
    assert memory.modules(user_id="bob") == []
