import asyncio
import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import (
    IsolatedMemory,
    LangmemIsolatedError,
    LocalRootKey,
    Scope,
    ScopedMemory,
    Sessions,
)
from langmem_isolated.errors import DatabaseError, RootKeyMissing, ScopeError
from tests.conftest import Door


def said(scoped: ScopedMemory, session_id: str = "s") -> list[str]:
    return [str(message.content) for message in scoped.chat_history(session_id).messages]


# --- scopes ---------------------------------------------------------------------------------------


def test_a_scope_is_given_by_names_or_as_one_value(memory: IsolatedMemory):
    scope = Scope("alice", "tutor", project_id="school")
    by_value = memory.scope(scope)
    by_name = memory.scope(user_id="alice", module_id="tutor", project_id="school")

    by_value.chat_history("s").add_user_message("hello")

    assert by_value.scope == by_name.scope == scope
    assert said(by_name) == ["hello"]
    assert said(memory.scope(user_id="alice", module_id="tutor")) == []


def test_another_module_of_the_same_user_is_in_the_same_project(memory: IsolatedMemory):
    tutor = memory.scope(user_id="alice", module_id="tutor", project_id="school")

    assert tutor.module("planner").scope == Scope("alice", "planner", project_id="school")
    assert tutor.module("planner").module("tutor").scope == tutor.scope


def test_a_scope_gives_its_sessions_and_histories(memory: IsolatedMemory):
    tutor = memory.scope(user_id="alice", module_id="tutor")
    tutor.chat_history("s").add_user_message("hello")

    assert isinstance(tutor.sessions, Sessions)
    assert [session.id for session in tutor.sessions()] == ["s"]
    history = memory.session_history(user_id="alice", module_id="tutor", session_id="s")
    assert history.count() == 1


def test_ids_are_in_no_repr(memory: IsolatedMemory):
    tutor = memory.scope(user_id="alice", module_id="tutor", project_id="school")

    for thing in (memory, tutor, tutor.scope, tutor.sessions, tutor.chat_history("monday")):
        for name in ("alice", "tutor", "school", "monday"):
            assert name not in repr(thing).removeprefix("<langmem_isolated")


# --- modules --------------------------------------------------------------------------------------


async def test_the_modules_of_a_user_are_those_that_hold_memory(memory: IsolatedMemory, door: Door):
    for module in ("tutor", "planner", "a"):
        memory.scope(user_id="alice", module_id=module).chat_history("s").add_user_message("hello")
    empty = memory.scope(user_id="alice", module_id="only looked at")
    assert empty.chat_history("s").messages == []
    assert empty.sessions() == []

    assert await door(memory, "modules", user_id="alice") == ["a", "planner", "tutor"]
    assert await door(memory, "modules", user_id="nobody") == []
    assert await door(memory, "modules", user_id="alice", project_id="other") == []
    with pytest.raises(ScopeError):
        await door(memory, "modules", user_id="")


async def test_an_empty_database_has_no_modules(memory: IsolatedMemory, door: Door):
    assert await door(memory, "modules", user_id="alice") == []


# --- opening and closing --------------------------------------------------------------------------


async def test_it_can_be_opened_and_closed_through_both_doors(
    database_url: str, root_key: LocalRootKey, door: Door
):
    memory = IsolatedMemory(database_url, root_key=root_key)

    assert await door(memory, "open") is memory
    assert await door(memory, "open") is memory
    memory.scope(user_id="alice", module_id="m").chat_history("s").add_user_message("hello")
    await door(memory, "close")
    await door(memory, "close")


async def test_both_kinds_of_with_open_and_close_it(database_url: str, root_key: LocalRootKey):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        memory.scope(user_id="alice", module_id="m").chat_history("s").add_user_message("one")
    async with IsolatedMemory(database_url, root_key=root_key) as again:
        history = again.scope(user_id="alice", module_id="m").chat_history("s")
        await history.aadd_user_message("two")
        assert [m.content for m in await history.aget_messages()] == ["one", "two"]

    for closed in (memory, again):
        assert closed._database._engine.pool.checkedin() == 0


async def test_after_closing_every_call_is_refused_and_opens_nothing(
    database_url: str, root_key: LocalRootKey, door: Door
):
    async with IsolatedMemory(database_url, root_key=root_key) as memory:
        scoped = memory.scope(user_id="alice", module_id="m")
        await scoped.chat_history("s").aadd_user_message("hello")

    for target, name, arguments in (
        (scoped.chat_history("s"), "messages", ()),
        (scoped.chat_history("s"), "add_messages", ([HumanMessage("more")],)),
        (scoped.sessions, "__call__", ()),
        (memory, "open", ()),
    ):
        with pytest.raises(DatabaseError, match="closed"):
            await door(target, name, *arguments)
    assert memory._database._engine.pool.checkedin() == 0


async def test_closing_waits_for_what_runs(database_url: str, root_key: LocalRootKey):
    memory = await IsolatedMemory(database_url, root_key=root_key).aopen()
    scopes = [memory.scope(user_id=f"user-{number}", module_id="m") for number in range(20)]
    running = [
        asyncio.create_task(scoped.chat_history("s").aadd_user_message("hello"))
        for scoped in scopes
    ]
    await asyncio.sleep(0)

    await memory.aclose()

    await asyncio.gather(*running)
    with IsolatedMemory(database_url, root_key=root_key) as again:
        assert all(said(again.scope(scoped.scope)) == ["hello"] for scoped in scopes)


def test_an_error_inside_with_is_not_swallowed(database_url: str, root_key: LocalRootKey):
    with (
        pytest.raises(LangmemIsolatedError, match="inside"),
        IsolatedMemory(database_url, root_key=root_key),
    ):
        raise LangmemIsolatedError("inside")


def test_it_need_not_be_opened_before_use(sqlite_url: str, root_key: LocalRootKey):
    memory = IsolatedMemory(sqlite_url, root_key=root_key)

    memory.scope(user_id="alice", module_id="m").chat_history("s").add_user_message("hello")

    assert said(memory.scope(user_id="alice", module_id="m")) == ["hello"]
    memory.close()


def test_the_first_use_may_be_by_many_at_once(sqlite_url: str, root_key: LocalRootKey):
    memory = IsolatedMemory(sqlite_url, root_key=root_key)

    def use(number: int) -> None:
        history = memory.scope(user_id="alice", module_id="m").chat_history("s")
        history.add_user_message(str(number))

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(use, range(32)))

    assert len(said(memory.scope(user_id="alice", module_id="m"))) == 32
    memory.close()


# --- one object for all ---------------------------------------------------------------------------


def test_one_memory_serves_threads_tasks_and_event_loops_at_once(memory: IsolatedMemory):
    async def tasks(name: str) -> None:
        history = memory.scope(user_id="alice", module_id="m").chat_history("s")
        await asyncio.gather(*(history.aadd_user_message(f"{name} {n}") for n in range(10)))

    def thread(name: str) -> None:
        history = memory.scope(user_id="alice", module_id="m").chat_history("s")
        for number in range(10):
            history.add_user_message(f"{name} {number}")

    with ThreadPoolExecutor(6) as threads:
        loops = [threads.submit(asyncio.run, tasks(f"loop-{n}")) for n in range(3)]
        plain = [threads.submit(thread, f"thread-{n}") for n in range(3)]
        for done in (*loops, *plain):
            done.result()

    expected = [
        f"{kind}-{n} {m}" for kind in ("loop", "thread") for n in range(3) for m in range(10)
    ]
    assert sorted(said(memory.scope(user_id="alice", module_id="m"))) == sorted(expected)


def test_one_event_loop_after_another_can_use_one_memory(memory: IsolatedMemory):
    history = memory.scope(user_id="alice", module_id="m").chat_history("s")
    for number in range(3):
        asyncio.run(history.aadd_user_message(str(number)))

    assert said(memory.scope(user_id="alice", module_id="m")) == ["0", "1", "2"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_is_one_for_all_threads_and_gone_with_it(
    url: str, root_key: LocalRootKey
):
    with IsolatedMemory(url, root_key=root_key) as memory:
        history = memory.scope(user_id="alice", module_id="m").chat_history("s")
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda n: history.add_user_message(str(n)), range(20)))
        asyncio.run(history.aadd_user_message("20"))
        assert history.count() == 21
    with IsolatedMemory(url, root_key=root_key) as another:
        assert said(another.scope(user_id="alice", module_id="m")) == []


def test_two_memories_over_one_database_see_the_same(database_url: str, root_key: LocalRootKey):
    with (
        IsolatedMemory(database_url, root_key=root_key) as one,
        IsolatedMemory(database_url, root_key=root_key) as other,
    ):
        for number in range(6):
            writer, reader = (one, other) if number % 2 else (other, one)
            scoped = writer.scope(user_id="alice", module_id="m")
            scoped.chat_history("s").add_user_message(str(number))
            assert said(reader.scope(scoped.scope)) == [str(n) for n in range(number + 1)]


# --- from the environment -------------------------------------------------------------------------


def test_it_can_be_described_by_the_environment(tmp_path: Path):
    """In a process that knows nothing else."""
    program = """
        from langmem_isolated import IsolatedMemory

        with IsolatedMemory.from_environment() as memory:
            history = memory.scope(user_id="alice", module_id="tutor").chat_history("s")
            history.add_user_message("hello")
            print(history.count())
    """
    environment = {
        **os.environ,
        "LANGMEM_ISOLATED_DATABASE": f"sqlite:///{tmp_path}/data.db",
        "LANGMEM_ISOLATED_KEY_STORE": f"sqlite:///{tmp_path}/keys.db",
        "LANGMEM_ISOLATED_ROOT_KEY": LocalRootKey.generate_text(),
    }
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(program)]

    for expected in (b"1\n", b"2\n"):
        assert subprocess.check_output(command, env=environment) == expected

    assert {path.name for path in tmp_path.glob("*.db")} == {"data.db", "keys.db"}


def test_without_a_root_key_nothing_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LANGMEM_ISOLATED_ROOT_KEY", raising=False)
    monkeypatch.delenv("LANGMEM_ISOLATED_ROOT_KEY_FILE", raising=False)

    with pytest.raises(RootKeyMissing, match="keygen"):
        IsolatedMemory(f"sqlite:///{tmp_path}/memory.db")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["modules", "compare_modules", "receipts", "verify_module_isolation", "clear_user"]
)
async def test_what_is_asked_of_one_user_takes_the_id_alone_or_by_name(
    memory: IsolatedMemory, door: Door, name: str
):
    memory.scope(user_id="alice", module_id="tutor").chat_history("monday").add_user_message("Hi")

    told = await door(memory, name, user_id="nobody")

    assert await door(memory, name, "nobody") == told
    assert await door(memory, name, "nobody", project_id="default") == told
