"""`using`: a scope for calls that carry none, within its block and never beyond it."""

import _thread
import asyncio
import contextvars
import gc
import queue
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import (
    AsyncExitStack,
    ExitStack,
    asynccontextmanager,
    closing,
    contextmanager,
    suppress,
)
from types import TracebackType
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI
from fastapi.responses import StreamingResponse
from fastapi.testclient import TestClient

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated._adapters.using import _Entry, surrounding_scope
from langmem_isolated.errors import IsolationViolation, ScopeError

ALICE, BOB = Scope("alice", "m"), Scope("bob", "m")


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> IsolatedMemory:
    return IsolatedMemory(sqlite_url, root_key=root_key)


def around() -> str | None:
    """Whose block is around."""
    scope = surrounding_scope()
    return scope and scope.user_id


def entries() -> int:
    """How many blocks the process knows of."""
    return sum(isinstance(thing, _Entry) for thing in gc.get_objects())


def test_it_stands_within_its_block_and_for_what_the_block_starts(memory: IsolatedMemory):
    with memory.using(ALICE) as scope:
        assert (scope, around()) == (ALICE, "alice")
        with memory.using(memory.scope(ALICE)):
            assert around() == "alice"
        assert around() == "alice"
        assert contextvars.copy_context().run(around) == "alice"
    assert around() is None


@pytest.mark.parametrize("thing", [None, "alice", object(), {"user_id": "alice"}, Scope])
def test_it_takes_a_scope_and_nothing_that_looks_like_one(memory: IsolatedMemory, thing: Any):
    with pytest.raises(ScopeError, match=r"takes a Scope or memory\.scope\(…\), got"):
        memory.using(thing)


def test_another_scope_inside_is_refused_and_the_outer_one_stays(memory: IsolatedMemory):
    with memory.using(ALICE):
        with pytest.raises(IsolationViolation, match="inside `using` of another scope"):
            memory.using(BOB).__enter__()
        assert around() == "alice"
    with memory.using(BOB):
        assert around() == "bob"


def test_the_first_error_is_not_masked(memory: IsolatedMemory):
    outer, inner = memory.using(ALICE), memory.using(ALICE)
    outer.__enter__()
    inner.__enter__()

    error = KeyError("first")
    assert outer.__exit__(KeyError, error, None) is None

    assert error.__notes__[0].startswith("`using` was left in another context")
    assert around() is None


def test_leaving_out_of_order_ends_everything(memory: IsolatedMemory):
    outer, inner = memory.using(ALICE), memory.using(ALICE)
    outer.__enter__()
    inner.__enter__()
    copied = contextvars.copy_context()

    for one in (outer, inner):
        with pytest.raises(IsolationViolation, match="not in order"):
            one.__exit__(None, None, None)
        assert (around(), copied.run(around)) == (None, None)
    with memory.using(BOB):
        assert around() == "bob"


def test_a_block_that_was_left_is_not_kept(memory: IsolatedMemory):
    using = memory.using(ALICE)
    before = entries()
    for _ in range(20):
        with using:
            assert entries() == before + 1
    assert entries() == before


def test_leaving_without_entering_disturbs_nobody(memory: IsolatedMemory):
    with memory.using(BOB):
        with pytest.raises(IsolationViolation):
            memory.using(ALICE).__exit__(None, None, None)
        assert around() == "bob"


def test_leaving_in_a_copy_of_the_context_ends_it_in_the_first_one_too(memory: IsolatedMemory):
    using = memory.using(ALICE)
    using.__enter__()

    with pytest.raises(IsolationViolation, match="another context"):
        contextvars.copy_context().run(using.__exit__, None, None, None)

    assert around() is None


def test_leaving_in_another_thread_ends_it_everywhere(memory: IsolatedMemory):
    using, errors = memory.using(ALICE), []
    using.__enter__()

    def leave() -> None:
        try:
            using.__exit__(None, None, None)
        except IsolationViolation as error:
            errors.append(error)

    thread = threading.Thread(target=leave)
    thread.start()
    thread.join()

    assert len(errors) == 1
    assert around() is None


# --- generators -----------------------------------------------------------------------------------


def by_with(memory: IsolatedMemory) -> Iterator[int]:
    with memory.using(ALICE):
        yield 1


def by_stack(memory: IsolatedMemory) -> Iterator[int]:
    with ExitStack() as stack:
        stack.enter_context(memory.using(ALICE))
        yield 1


def by_hand(memory: IsolatedMemory) -> Iterator[int]:
    memory.using(ALICE).__enter__()
    yield 1


@contextmanager
def wrapped(memory: IsolatedMemory) -> Iterator[None]:
    with memory.using(ALICE):
        yield


def through_a_wrapped_one(memory: IsolatedMemory) -> Iterator[int]:
    with wrapped(memory):
        yield 1


class Delegating:
    """A context manager of the application's own."""

    def __init__(self, memory: IsolatedMemory) -> None:
        self.using = memory.using(ALICE)

    def __enter__(self) -> Scope:
        return self.using.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.using.__exit__(kind, error, traceback)


def through_a_class(memory: IsolatedMemory) -> Iterator[int]:
    with Delegating(memory):
        yield 1


def from_another(memory: IsolatedMemory) -> Iterator[int]:
    yield from by_with(memory)


@pytest.mark.parametrize(
    "generator",
    [by_with, by_stack, by_hand, through_a_wrapped_one, through_a_class, from_another],
)
def test_a_generator_must_not_enter(
    memory: IsolatedMemory, generator: Callable[[IsolatedMemory], Iterator[int]]
):
    with pytest.raises(IsolationViolation, match="A generator must not enter"):
        next(generator(memory))

    assert around() is None


def test_a_generator_that_a_thread_resumes_by_itself_must_not_enter(memory: IsolatedMemory):
    """Nothing of Python's is below it on the stack: neither `Thread.run` nor a test."""
    found: queue.SimpleQueue[BaseException | int] = queue.SimpleQueue()

    def generator() -> Iterator[int]:
        try:
            with memory.using(ALICE):
                yield 1
        except IsolationViolation as error:
            found.put(error)
        yield 0

    _thread.start_new_thread(generator().__next__, ())

    assert isinstance(found.get(timeout=30), IsolationViolation)


async def a_by_with(memory: IsolatedMemory) -> AsyncIterator[int]:
    async with memory.using(ALICE):
        yield 1


async def a_by_plain_with(memory: IsolatedMemory) -> AsyncIterator[int]:
    with memory.using(ALICE):
        yield 1


async def a_by_stack(memory: IsolatedMemory) -> AsyncIterator[int]:
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(memory.using(ALICE))
        yield 1


@asynccontextmanager
async def a_wrapped(memory: IsolatedMemory) -> AsyncIterator[None]:
    async with memory.using(ALICE):
        yield


async def a_through_a_wrapped_one(memory: IsolatedMemory) -> AsyncIterator[int]:
    async with a_wrapped(memory):
        yield 1


A_GENERATORS = [a_by_with, a_by_plain_with, a_by_stack, a_through_a_wrapped_one]
AGenerator = Callable[[IsolatedMemory], AsyncIterator[int]]


@pytest.mark.parametrize("generator", A_GENERATORS)
async def test_an_async_generator_must_not_enter(memory: IsolatedMemory, generator: AGenerator):
    with pytest.raises(IsolationViolation, match="A generator must not enter"):
        await anext(generator(memory))
    with pytest.raises(IsolationViolation, match="A generator must not enter"):
        await asyncio.wait_for(anext(generator(memory)), 1)

    assert around() is None


async def test_what_contextlib_wraps_may_enter(memory: IsolatedMemory):
    with wrapped(memory):
        assert around() == "alice"
    async with a_wrapped(memory), AsyncExitStack() as stack:
        assert around() == "alice"
        stack.enter_context(wrapped(memory))
    with Delegating(memory), ExitStack() as both:
        both.enter_context(memory.using(ALICE))
        assert around() == "alice"

    @wrapped(memory)
    def decorated() -> str | None:
        return around()

    assert (decorated(), around()) == ("alice", None)


def test_a_function_that_a_generator_calls_may_enter(memory: IsolatedMemory):
    def asked() -> str | None:
        with memory.using(ALICE):
            return around()

    def generator() -> Iterator[str | None]:
        yield asked()
        yield around()

    assert list(generator()) == ["alice", None]


async def test_what_is_awaited_may_enter_though_it_is_written_as_a_generator(
    memory: IsolatedMemory,
):
    @types.coroutine
    def asked() -> Iterator[None]:
        with memory.using(ALICE):
            yield
            return around()

    assert (await asked(), around()) == ("alice", None)


def test_a_wrapped_one_that_is_dropped_ends(memory: IsolatedMemory):
    entered = wrapped(memory)
    entered.__enter__()
    del entered
    gc.collect()

    assert around() is None


def test_a_wrapped_one_that_another_context_collects_ends_there_and_here(memory: IsolatedMemory):
    held = [wrapped(memory)]
    copied = contextvars.copy_context()
    copied.run(held[0].__enter__)

    with memory.using(BOB):
        held.clear()
        gc.collect()
        assert around() == "bob"

    assert copied.run(around) is None


def test_closing_a_generator_inside_of_a_block_leaves_the_block(memory: IsolatedMemory):
    def numbers() -> Iterator[int]:
        yield 1

    with memory.using(ALICE):
        with closing(numbers()) as opened:
            next(opened)
        assert around() == "alice"


# --- tasks, threads and executors -----------------------------------------------------------------


async def test_tasks_have_each_their_own(memory: IsolatedMemory):
    async def seen(scope: Scope) -> set[str | None]:
        found = set()
        async with memory.using(scope):
            for _ in range(5):
                await asyncio.sleep(0)
                found |= {around(), await asyncio.to_thread(around)}
        return found | {around()}

    users = [Scope(f"user {number}", "m") for number in range(5)]
    found = await asyncio.gather(*map(seen, users))

    assert found == [{user.user_id, None} for user in users]


async def test_a_task_begun_in_a_block_keeps_its_scope_when_the_block_is_over(
    memory: IsolatedMemory,
):
    go_on = asyncio.Event()

    async def later() -> str | None:
        await go_on.wait()
        return around()

    with memory.using(ALICE):
        task = asyncio.create_task(later())
        await asyncio.sleep(0)
    go_on.set()

    assert (await task, around()) == ("alice", None)


def test_a_plain_executor_gets_nothing(memory: IsolatedMemory):
    with ThreadPoolExecutor(1) as executor, memory.using(ALICE):
        assert executor.submit(around).result() is None
        assert executor.submit(contextvars.copy_context().run, around).result() == "alice"


async def test_entering_in_one_task_and_leaving_in_another_fails_closed(memory: IsolatedMemory):
    using = memory.using(ALICE)
    await asyncio.create_task(using.__aenter__())
    assert around() is None

    with pytest.raises(IsolationViolation):
        await using.__aexit__(None, None, None)


async def test_a_cancelled_block_ends(memory: IsolatedMemory):
    async def wait() -> None:
        async with memory.using(ALICE):
            await asyncio.sleep(10)

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert around() is None


# --- FastAPI and Starlette ------------------------------------------------------------------------


def application(memory: IsolatedMemory) -> FastAPI:  # noqa: C901 - one endpoint a case
    """Endpoints that depend on a user's block, and tell whose block they see."""
    app = FastAPI()

    async def in_the_loop(user: str) -> AsyncIterator[None]:
        async with memory.using(Scope(user, "m")):
            yield

    def in_the_pool(user: str) -> Iterator[None]:
        with memory.using(Scope(user, "m")):
            yield

    def generated(user: str) -> Iterator[str]:
        with memory.using(Scope(user, "m")):
            yield str(around())

    def told() -> Iterator[str]:
        for _ in range(2):
            yield f"{around()} "

    in_loop = Annotated[None, Depends(in_the_loop)]

    @app.get("/async")
    async def of_async(_: in_loop) -> str | None:
        return around()

    @app.get("/sync")
    def of_sync(_: in_loop) -> str | None:
        return around()

    @app.get("/stream")
    async def of_stream(_: in_loop) -> StreamingResponse:
        return StreamingResponse(told())

    @app.get("/background")
    async def of_background(_: in_loop, tasks: BackgroundTasks) -> None:
        tasks.add_task(lambda: app.state.seen.append(around()))

    @app.get("/pool")
    def of_pool(_: Annotated[None, Depends(in_the_pool)]) -> str | None:
        return memory.of_run().scope.user_id

    @app.get("/generated")
    def of_generator(user: str) -> StreamingResponse:
        return StreamingResponse(generated(user))

    app.state.seen = []
    return app


def test_dependencies_of_fastapi_name_the_user_of_their_request(memory: IsolatedMemory):
    app = application(memory)
    with TestClient(app) as client, ThreadPoolExecutor(4) as pool:

        def asked(number: int) -> None:
            user = f"user {number % 5}"
            for path in ("async", "sync"):
                assert client.get(f"/{path}", params={"user": user}).json() == user
            assert client.get("/stream", params={"user": user}).text == f"{user} {user} "

        list(pool.map(asked, range(20)))
        client.get("/background", params={"user": "alice"})
        # FastAPI leaves the block before what runs after the answer, or after it.
        assert set(app.state.seen) <= {"alice", None}
        assert client.get("/async", params={"user": "bob"}).json() == "bob"


def test_what_the_thread_pool_enters_reaches_nobody_and_the_first_error_is_told(
    memory: IsolatedMemory,
):
    with TestClient(application(memory)) as client:
        with pytest.raises(ScopeError, match="names no scope"):
            client.get("/pool", params={"user": "alice"})
        with pytest.raises(IsolationViolation, match="A generator must not enter"):
            client.get("/generated", params={"user": "alice"})
        assert client.get("/sync", params={"user": "bob"}).json() == "bob"
