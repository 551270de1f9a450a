"""The FastAPI example over HTTP: streams of two users at once, forgeries, and `using`."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import httpx
import pytest
from fastapi import Depends, FastAPI, Response
from fastapi.responses import StreamingResponse
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import START, MessagesState, StateGraph

from examples.fastapi_chat import application
from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated.errors import IsolationViolation, ScopeError
from tests.servers.models import Echo
from tests.servers.uvicorn_thread import served

USERS = ("alice", "bob")
ALICE, BOB = (Scope(user, "chat") for user in USERS)


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def url(memory: IsolatedMemory) -> Iterator[str]:
    with served(application(memory, Echo())) as url:
        yield url


def headers(user: str) -> dict[str, str]:
    return {"authorization": f"Bearer token of {user}"}


async def stream(url: str, user: str, said: Any, thread: str = "1") -> list[str]:
    """The parts in which an answer came."""
    async with (
        httpx.AsyncClient(base_url=url, headers=headers(user), timeout=30) as client,
        client.stream("POST", f"/threads/{thread}", json=said) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        return [
            json.loads(line.removeprefix("data: ")) async for line in response.aiter_lines() if line
        ]


def read(url: str, user: str, thread: str = "1") -> list[str]:
    answer = httpx.get(f"{url}/threads/{thread}", headers=headers(user), timeout=30)
    found: list[str] = answer.json()
    return found


async def test_interleaved_streams_of_one_thread_id_stay_with_their_users(
    url: str, memory: IsolatedMemory
):
    for number in range(3):
        said = [f"{user} {number}" for user in USERS]
        answers = await asyncio.gather(*map(stream, [url] * 2, USERS, said))
        for user, parts in zip(USERS, answers, strict=True):
            so_far = ", ".join(f"{user} {n}" for n in range(number + 1))
            assert "".join(parts).strip() == f"You said: {so_far}"
            assert len([part for part in parts if part]) > 3

    for user, scope in zip(USERS, (ALICE, BOB), strict=True):
        assert [text for text in read(url, user) if not text.startswith("You")] == [
            f"{user} {number}" for number in range(3)
        ]
        recorded = memory.scope(scope).chat_history("1").messages
        assert [message.text.strip() for message in recorded] == [
            text.strip() for text in read(url, user)
        ]


async def test_many_streams_at_once_stay_with_their_threads(url: str):
    asked = [(user, f"{number}") for number in range(6) for user in USERS]

    answers = await asyncio.gather(
        *(stream(url, user, f"{user} in {thread}", thread) for user, thread in asked)
    )

    assert ["".join(parts).strip() for parts in answers] == [
        f"You said: {user} in {thread}" for user, thread in asked
    ]


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer token of mallory", "alice"])
def test_who_is_not_authenticated_gets_401(url: str, memory: IsolatedMemory, token: str):
    sent = {"authorization": token} if token.strip() == token else {}
    for answer in (
        httpx.post(f"{url}/threads/1", json="hello", headers=sent),
        httpx.get(f"{url}/threads/1", headers=sent),
    ):
        assert answer.status_code == 401
    assert memory.modules(user_id="alice") == []


async def test_a_client_that_names_another_user_gets_nothing_of_theirs(
    url: str, memory: IsolatedMemory
):
    await stream(url, "alice", "my secret")
    forged = {"user_id": "alice", "module_id": "chat", "configurable": {"user_id": "alice"}}
    query = "?user_id=alice&module_id=chat"

    async with httpx.AsyncClient(base_url=url, headers=headers("bob"), timeout=30) as client:
        assert (await client.post("/threads/1", json=forged)).status_code == 422
        said = await client.post(f"/threads/1{query}", json=json.dumps(forged))
        found = await client.get(f"/threads/1{query}", headers={"user_id": "alice"})

    assert "secret" not in said.text
    assert "secret" not in found.text
    assert len(found.json()) == 2
    assert len(read(url, "alice")) == 2


async def test_a_client_that_leaves_in_the_middle_leaves_nothing_to_the_next(url: str):
    async with (
        httpx.AsyncClient(base_url=url, headers=headers("alice"), timeout=30) as client,
        client.stream("POST", "/threads/1", json="alice " * 50) as response,
    ):
        async for _ in response.aiter_lines():
            break

    assert "".join(await stream(url, "bob", "bob alone")).strip() == "You said: bob alone"
    assert "".join(await stream(url, "bob", "again", "2")).strip() == "You said: again"


# `using` around an endpoint, from dependencies with `yield`.


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
