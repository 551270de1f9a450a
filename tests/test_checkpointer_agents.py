"""Graphs as applications have them: with ours every step has the outcome it has in memory."""

import asyncio
import functools
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from tests.conftest import ROOT_KEY, new_postgres_url
from tests.scenarios import SCENARIOS, Run, Scenario

_numbers = itertools.count()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def shared_memory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[IsolatedMemory]:
    """One memory of either kind for all scenarios: each has users of its own."""
    if request.param == "postgres":
        url = new_postgres_url(request.getfixturevalue("postgres"))
    else:
        url = f"sqlite:///{tmp_path_factory.mktemp('agents')}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        yield memory


@functools.cache
def expected(scenario: Scenario, who: str, *, is_async: bool) -> list[Any]:
    """What comes of each step with LangGraph's saver in memory."""
    run = Run(who, InMemorySaver(), is_async=is_async)
    asyncio.run(scenario(run))
    return run.noted


def bound(memory: IsolatedMemory, scoped: ScopedMemory, who: str, *, is_async: bool) -> Run:
    return Run(who, scoped.checkpointer(), is_async=is_async)


def by_config(memory: IsolatedMemory, scoped: ScopedMemory, who: str, *, is_async: bool) -> Run:
    """The scope is in the config, and around the calls that LangGraph makes without it."""
    scope = {"user_id": scoped.scope.user_id, "module_id": scoped.scope.module_id}
    using = functools.partial(memory.using, scoped)
    return Run(who, memory.checkpointer(), is_async=is_async, scope=scope, using=using)


@pytest.mark.parametrize("door", ["sync", "async"])
@pytest.mark.parametrize("form", [bound, by_config])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_every_step_is_as_in_memory_for_two_users_at_once_with_the_same_threads(
    shared_memory: IsolatedMemory, scenario: Scenario, form: Any, door: str
):
    number, is_async = next(_numbers), door == "async"
    users = {
        who: shared_memory.scope(user_id=f"{who} {number}", module_id="m")
        for who in ("Alice", "Bob")
    }
    runs = [form(shared_memory, users[who], who, is_async=is_async) for who in users]

    async def at_once() -> None:
        await asyncio.gather(*(scenario(run) for run in runs))

    asyncio.run(at_once())

    for run, stranger in zip(runs, ["Bob", "Alice"], strict=True):
        for step, (mine, theirs) in enumerate(
            zip(run.noted, expected(scenario, run.who, is_async=is_async), strict=True)
        ):
            assert mine == theirs, f"step {step}"
        assert stranger not in repr(run.noted)
    for scoped in users.values():
        saver = scoped.checkpointer()
        threads = saver.threads()
        assert threads
        for thread in threads:
            assert saver.verify_thread(str(thread.id)) > 0
