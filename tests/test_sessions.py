import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated._storage.container_state import ContainerState
from langmem_isolated._storage.sessions import writing
from langmem_isolated.errors import LangmemIsolatedError, SessionNotFound, ValueNotStorable
from tests.conftest import Attacker, Door, Wait
from tests.containers import expire


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def a_moment_later() -> None:
    """Times are kept in microseconds."""
    time.sleep(0.002)


async def say(scoped: ScopedMemory, door: Door, session_id: str, *said: str) -> None:
    await door(scoped.chat_history(session_id), "add_messages", [HumanMessage(t) for t in said])


# --- listing --------------------------------------------------------------------------------------


async def test_sessions_are_listed_newest_first_with_what_people_call_them(
    tutor: ScopedMemory, door: Door
):
    before = datetime.now(UTC) - timedelta(microseconds=1)
    await door(tutor.sessions, "create", "monday", title="Algebra", channel="general")
    a_moment_later()
    await say(tutor, door, "tuesday", "one", "two")
    a_moment_later()
    await say(tutor, door, "monday", "three")

    monday, tuesday = await door(tutor.sessions, "__call__")

    assert (monday.id, monday.title, monday.channel) == ("monday", "Algebra", "general")
    assert (tuesday.id, tuesday.title, tuesday.channel) == ("tuesday", None, None)
    assert (monday.messages, tuesday.messages) == (1, 2)
    assert 0 < monday.size < tuesday.size
    assert before < monday.created < tuesday.created == tuesday.last_activity
    assert tuesday.last_activity < monday.last_activity <= datetime.now(UTC)
    assert monday.created.tzinfo is UTC
    assert not monday.damaged


async def test_a_scope_without_memory_has_no_sessions(tutor: ScopedMemory, door: Door):
    assert await door(tutor.sessions, "__call__") == []


async def test_each_scope_lists_its_own_sessions(memory: IsolatedMemory, door: Door):
    alice = memory.scope(user_id="alice", module_id="tutor")
    scopes = [
        alice,
        alice.module("planner"),
        memory.scope(user_id="bob", module_id="tutor"),
        memory.scope(user_id="alice", module_id="tutor", project_id="other"),
    ]
    for number, scoped in enumerate(scopes):
        await door(scoped.sessions, "create", "same", title=f"title {number}")
        await say(scoped, door, "same", *(["hello"] * number))
        await say(scoped, door, f"own {number}", "hello")

    for number, scoped in enumerate(scopes):
        listed = {session.id: session for session in await door(scoped.sessions, "__call__")}
        assert listed.keys() == {"same", f"own {number}"}
        assert listed["same"].title == f"title {number}"
        assert listed["same"].messages == number


@pytest.mark.parametrize("limit", [1, 2, 4, 100])
async def test_pages_cover_all_sessions_once_each(tutor: ScopedMemory, door: Door, limit: int):
    """Those of the same millisecond too, and though new ones come meanwhile."""
    for number in range(10):
        await door(tutor.sessions, "create", f"session {number}")
        if number % 4 == 0:
            a_moment_later()
    seen: list[Any] = []
    page = await door(tutor.sessions, "__call__", limit=limit)
    while page:
        assert len(page) <= limit
        seen += page
        a_moment_later()
        await door(tutor.sessions, "create", f"meanwhile {len(seen)}")
        page = await door(tutor.sessions, "__call__", limit=limit, before=seen[-1])

    assert sorted(session.id for session in seen) == sorted(f"session {n}" for n in range(10))
    times = [session.last_activity for session in seen]
    assert times == sorted(times, reverse=True)


async def test_the_number_of_sessions_listed_is_at_most_the_limit(tutor: ScopedMemory, door: Door):
    for number in range(3):
        await door(tutor.sessions, "create", str(number))

    assert [len(await door(tutor.sessions, "__call__", limit=n)) for n in (0, 2, 2**100)] == [
        0, 2, 3,
    ]  # fmt: skip
    with pytest.raises(ValueError, match="0 or more"):
        await door(tutor.sessions, "__call__", limit=-1)


async def test_counts_and_sizes_follow_the_messages(
    tutor: ScopedMemory, attacker: Attacker, door: Door
):
    await say(tutor, door, "monday", "one", "two " * 500)
    await say(tutor, door, "monday", "three")

    [session] = await door(tutor.sessions, "__call__")

    assert session.messages == 3
    assert [(session.size,)] == attacker("SELECT sum(length(sealed)) FROM records")


# --- create ---------------------------------------------------------------------------------------


async def test_a_session_can_be_created_before_anything_is_said(tutor: ScopedMemory, door: Door):
    session_id = await door(tutor.sessions, "create", "monday", title="Algebra", channel="general")

    assert session_id == "monday"
    [session] = await door(tutor.sessions, "__call__")
    assert (session.id, session.title, session.channel) == ("monday", "Algebra", "general")
    assert (session.messages, session.size) == (0, 0)
    assert await door(tutor.chat_history("monday"), "messages") == []
    await say(tutor, door, "monday", "hello")
    [session] = await door(tutor.sessions, "__call__")
    assert (session.title, session.messages) == ("Algebra", 1)


async def test_generated_ids_cannot_be_guessed(tutor: ScopedMemory, door: Door):
    ids = [await door(tutor.sessions, "create") for _ in range(20)]

    assert len(set(ids)) == 20
    assert {len(session_id) for session_id in ids} == {22}
    assert {session.id for session in await door(tutor.sessions, "__call__")} == set(ids)


async def test_creating_a_session_that_is_there_leaves_it_as_it_is(tutor: ScopedMemory, door: Door):
    await door(tutor.sessions, "create", "monday", title="Algebra", channel="general")
    await say(tutor, door, "monday", "hello")
    before = await door(tutor.sessions, "__call__")
    a_moment_later()

    assert await door(tutor.sessions, "create", "monday", title="Geometry") == "monday"

    assert await door(tutor.sessions, "__call__") == before


# --- rename and delete ----------------------------------------------------------------------------


async def test_renaming_changes_the_title_and_nothing_else(tutor: ScopedMemory, door: Door):
    await door(tutor.sessions, "create", "monday", title="Algebra", channel="general")
    await say(tutor, door, "monday", "hello")
    [before] = await door(tutor.sessions, "__call__")

    for title in ("Geometry", "", "long " * 10_000, None):
        await door(tutor.sessions, "rename", "monday", title)

        [after] = await door(tutor.sessions, "__call__")
        assert after.title == title
        assert (after.id, after.channel, after.messages, after.size) == (
            before.id, before.channel, before.messages, before.size,
        )  # fmt: skip
        assert (after.created, after.last_activity) == (before.created, before.last_activity)
    assert await door(tutor.chat_history("monday"), "count") == 1


async def test_a_title_that_cannot_be_stored_leaves_the_old_one(tutor: ScopedMemory, door: Door):
    await door(tutor.sessions, "create", "monday", title="Algebra")

    with pytest.raises(ValueNotStorable):
        await door(tutor.sessions, "rename", "monday", object())

    [session] = await door(tutor.sessions, "__call__")
    assert session.title == "Algebra"


async def test_deleting_removes_the_session_and_its_messages(
    tutor: ScopedMemory, attacker: Attacker, door: Door
):
    for session_id in ("monday", "tuesday"):
        await say(tutor, door, session_id, "one", "two")

    await door(tutor.sessions, "delete", "monday")

    assert [session.id for session in await door(tutor.sessions, "__call__")] == ["tuesday"]
    assert await door(tutor.chat_history("monday"), "messages") == []
    assert await door(tutor.chat_history("tuesday"), "count") == 2
    assert attacker("SELECT count(*) FROM records") == [(2,)]


@pytest.mark.parametrize("there", ["no memory at all", "another session", "deleted"])
async def test_a_session_that_is_not_there_is_said_so(tutor: ScopedMemory, door: Door, there: str):
    if there != "no memory at all":
        await say(tutor, door, "tuesday", "hello")
    if there == "deleted":
        await say(tutor, door, "monday", "hello")
        await door(tutor.sessions, "delete", "monday")

    for name, arguments in (("rename", ("monday", "title")), ("delete", ("monday",))):
        with pytest.raises(SessionNotFound) as caught:
            await door(tutor.sessions, name, *arguments)
        assert isinstance(caught.value, LangmemIsolatedError)
        assert isinstance(caught.value, KeyError)
        assert str(caught.value).startswith("This scope has no session")
        assert "monday" not in str(caught.value)


# --- expiry ---------------------------------------------------------------------------------------


def microseconds(seconds: float = 0) -> int:
    return int((time.time() + seconds) * 1_000_000)


async def test_an_expired_session_is_absent_in_every_read(
    tutor: ScopedMemory, attacker: Attacker, door: Door
):
    await say(tutor, door, "monday", "secret")
    await say(tutor, door, "tuesday", "hello")
    history = tutor.chat_history("monday")
    assert await door(history, "count") == 1

    expire(tutor, attacker, "monday", microseconds(-1))

    for reader in (history, tutor.chat_history("monday")):
        assert await door(reader, "messages") == []
        assert await door(reader, "last", 5) == []
        assert (await door(reader, "page")).messages == []
        assert await door(reader, "window", max_tokens=100) == []
        assert await door(reader, "count") == 0
        assert str(reader) == ""
    assert [session.id for session in await door(tutor.sessions, "__call__")] == ["tuesday"]
    with pytest.raises(SessionNotFound):
        await door(tutor.sessions, "rename", "monday", "title")


async def test_a_session_that_expires_later_is_there(
    tutor: ScopedMemory, attacker: Attacker, door: Door
):
    await say(tutor, door, "monday", "one")
    expire(tutor, attacker, "monday", microseconds(60))
    await say(tutor, door, "monday", "two")
    await door(tutor.sessions, "rename", "monday", "title")

    assert await door(tutor.chat_history("monday"), "count") == 2
    [session] = await door(tutor.sessions, "__call__")
    assert (session.title, session.messages) == ("title", 2)
    assert attacker("SELECT count(*) FROM sessions WHERE expires_at IS NULL") == [(0,)]


@pytest.mark.parametrize("knows_it", [True, False])
async def test_appending_to_an_expired_session_starts_anew(
    tutor: ScopedMemory,
    attacker: Attacker,
    door: Door,
    wait_for: Wait,
    knows_it: bool,
):
    await door(tutor.sessions, "create", "monday", title="Algebra")
    history = tutor.chat_history("monday", idempotent=False)
    await door(history, "add_messages", [HumanMessage("old", id="1"), HumanMessage("older")])
    expire(tutor, attacker, "monday", microseconds(60))
    if knows_it:
        assert await door(history, "count") == 2
        assert len(await door(history, "messages")) == 2
    wait_for(61)

    await door(history, "add_messages", [HumanMessage("new", id="1")])

    assert [m.content for m in await door(history, "messages")] == ["new"]
    [session] = await door(tutor.sessions, "__call__")
    assert (session.id, session.title, session.messages) == ("monday", None, 1)
    assert attacker("SELECT count(*) FROM records") == [(1,)]
    assert attacker("SELECT count(*) FROM sessions WHERE expires_at IS NOT NULL") == [(0,)]


async def test_creating_an_expired_session_starts_anew(
    tutor: ScopedMemory, attacker: Attacker, door: Door
):
    await say(tutor, door, "monday", "old")
    expire(tutor, attacker, "monday", microseconds(-1))

    await door(tutor.sessions, "create", "monday", title="Geometry")

    [session] = await door(tutor.sessions, "__call__")
    assert (session.title, session.messages) == ("Geometry", 0)
    assert attacker("SELECT count(*) FROM records") == [(0,)]


async def test_clearing_an_expired_session_leaves_nothing_of_it(
    tutor: ScopedMemory, attacker: Attacker, door: Door
):
    await say(tutor, door, "monday", "old")
    expire(tutor, attacker, "monday", microseconds(-1))

    await door(tutor.chat_history("monday"), "clear")

    assert await door(tutor.sessions, "__call__") == []
    assert attacker("SELECT count(*) FROM records") == [(0,)]


async def test_expired_sessions_do_not_shorten_a_page(
    tutor: ScopedMemory, attacker: Attacker, door: Door
):
    for number in range(6):
        await door(tutor.sessions, "create", str(number))
        a_moment_later()
    for number in range(3, 6):
        expire(tutor, attacker, str(number), microseconds(-1))

    listed = await door(tutor.sessions, "__call__", limit=2)

    assert [session.id for session in listed] == ["2", "1"]


def test_what_is_being_said_while_a_session_is_deleted_goes_with_it(tutor: ScopedMemory):
    tutor.chat_history("monday").add_user_message("old")
    is_written, may_commit = threading.Event(), threading.Event()

    def appended_and_held(*args: Any, **kwargs: Any) -> ContainerState:
        state = append(*args, **kwargs)
        is_written.set()
        assert may_commit.wait(60)
        return state

    append = writing.append
    with ThreadPoolExecutor(2) as threads, pytest.MonkeyPatch.context() as patch:
        patch.setattr(writing, "append", appended_and_held)
        said = threads.submit(tutor.chat_history("monday").add_user_message, "new")
        assert is_written.wait(60)
        deleted = threads.submit(tutor.sessions.delete, "monday")
        # Not to be seen from outside: it waits for the one that writes.
        time.sleep(0.3)
        may_commit.set()
        said.result()
        deleted.result()

    assert tutor.chat_history("monday").messages == []


@pytest.mark.parametrize("value", [b"bytes", 7, ["list"]])
def test_a_title_or_channel_that_is_no_text_is_refused_by_its_type(
    memory: IsolatedMemory, value: object
):
    sessions = memory.scope(user_id="alice", module_id="tutor").sessions
    session_id = sessions.create(title="Fractions")

    for refused in (
        lambda: sessions.create(title=value),
        lambda: sessions.create(channel=value),
        lambda: sessions.rename(session_id, value),
    ):
        with pytest.raises(ValueNotStorable) as caught:
            refused()
        assert caught.value.type_name == type(value).__name__
    assert [session.title for session in sessions()] == ["Fractions"]
