"""Lifetimes, closing, archiving, pinning and finding of sessions, and how many are kept."""

import asyncio
import multiprocessing
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory, SessionRules
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.sessions import beginning
from langmem_isolated.errors import (
    RecordDoesNotOpen,
    ScopeError,
    SessionClosed,
    SessionNotFound,
)
from tests.conftest import ROOT_KEY, Attacker, Door

HOUR = timedelta(hours=1)


class Clock:
    """A clock that is set by hand: times in µs, each later than the one before."""

    def __init__(self) -> None:
        self.microseconds = 1_800_000_000_000_000

    def __call__(self) -> int:
        self.microseconds += 1
        return self.microseconds

    def advance(self, by: timedelta) -> None:
        self.microseconds += by // timedelta(microseconds=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (
        *("sessions", "chat_history", "_adapters.session_lifecycle"),
        *("_adapters.appending", "_adapters.container_catalogue", "_adapters.channels"),
    ):
        monkeypatch.setattr(f"langmem_isolated.{module}.now", clock)
    return clock


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def ids(listed: list) -> list[str | None]:
    return [session.id for session in listed]


# --- lifetimes ------------------------------------------------------------------------------------


async def test_every_message_puts_off_the_end_of_an_idle_session(
    tutor: ScopedMemory, clock: Clock, door: Door
):
    await door(tutor.sessions, "create", "monday", idle=HOUR)
    history = tutor.chat_history("monday")
    for _ in range(3):
        clock.advance(HOUR * 0.9)
        await door(history, "add_messages", [HumanMessage("still here")])
    session = await door(tutor.sessions, "get", "monday")
    assert session.expires - session.last_activity == HOUR
    assert await door(history, "count") == 3

    clock.advance(HOUR)

    assert await door(history, "messages") == []
    assert (await door(history, "page")).messages == []
    assert await door(history, "count") == 0
    assert await door(tutor, "recent", {"general": 5}) == []
    assert await door(tutor.sessions, "__call__", archived=None) == []
    assert await door(tutor.sessions, "count") == 0
    with pytest.raises(SessionNotFound):
        await door(tutor.sessions, "get", "monday")


async def test_no_message_puts_off_the_absolute_end_of_a_session(
    tutor: ScopedMemory, clock: Clock, door: Door
):
    await door(tutor.sessions, "create", "monday", idle=HOUR, absolute=2 * HOUR)
    history = tutor.chat_history("monday")
    for _ in range(3):
        clock.advance(HOUR * 0.6)
        await door(history, "add_messages", [HumanMessage("still here")])
    session = await door(tutor.sessions, "get", "monday")
    assert session.expires - session.created == 2 * HOUR

    clock.advance(HOUR * 0.2)

    assert await door(history, "count") == 0


async def test_a_message_to_an_expired_session_begins_another_under_the_rules_of_all(
    tutor: ScopedMemory, clock: Clock, door: Door, attacker: Attacker
):
    await door(tutor.sessions, "create", "monday", title="Algebra", idle=HOUR)
    history = tutor.chat_history("monday")
    await door(history, "add_messages", [HumanMessage("old")])
    await door(tutor.sessions, "close", "monday")
    clock.advance(HOUR)

    await door(history, "add_messages", [HumanMessage("new")])

    assert [m.content for m in await door(history, "messages")] == ["new"]
    session = await door(tutor.sessions, "get", "monday")
    assert (session.title, session.expires, session.closed) == (None, None, False)
    assert attacker("SELECT count(*) FROM records") == [(1,)]


async def test_a_lifetime_can_be_given_later_and_taken_back(
    tutor: ScopedMemory, clock: Clock, door: Door
):
    history = tutor.chat_history("monday")
    await door(history, "add_messages", [HumanMessage("hello")])
    clock.advance(HOUR)
    await door(tutor.sessions, "set_lifetime", "monday", idle=2 * HOUR)
    clock.advance(HOUR * 0.5)
    await door(history, "add_messages", [HumanMessage("again")])
    clock.advance(HOUR * 1.5)
    assert await door(history, "count") == 2

    await door(tutor.sessions, "set_lifetime", "monday")
    clock.advance(1000 * HOUR)
    assert await door(history, "count") == 2
    assert (await door(tutor.sessions, "get", "monday")).expires is None

    await door(tutor.sessions, "set_lifetime", "monday", absolute=HOUR)
    assert await door(history, "count") == 0


async def test_clearing_a_session_is_something_done_in_it(
    tutor: ScopedMemory, clock: Clock, door: Door
):
    await door(tutor.sessions, "create", "monday", idle=HOUR)
    clock.advance(HOUR * 0.9)
    await door(tutor.chat_history("monday"), "clear")
    clock.advance(HOUR * 0.9)

    assert ids(await door(tutor.sessions, "__call__")) == ["monday"]


@pytest.mark.parametrize("column", ["idle_lifetime", "absolute_lifetime", "expires_at", "state"])
def test_who_changes_how_long_a_session_lives_in_the_database_is_noticed(
    tutor: ScopedMemory, attacker: Attacker, column: str
):
    tutor.sessions.create("monday", idle=HOUR, absolute=HOUR)
    tutor.chat_history("monday").add_user_message("hello")

    attacker(f"UPDATE sessions SET {column} = ?", 3)

    with pytest.raises(RecordDoesNotOpen):
        _ = tutor.chat_history("monday").messages
    with pytest.raises(RecordDoesNotOpen):
        tutor.chat_history("monday").add_user_message("more")
    assert tutor.sessions.get("monday").damaged


def test_rules_for_all_hold_for_every_session_that_is_made(
    sqlite_url: str, root_key: LocalRootKey, clock: Clock
):
    rules = SessionRules(idle=HOUR)
    with IsolatedMemory(sqlite_url, root_key=root_key, session_rules=rules) as memory:
        tutor = memory.scope(user_id="alice", module_id="tutor")
        tutor.chat_history("monday").add_user_message("hello")
        tutor.sessions.create("tuesday", idle=3 * HOUR)
        clock.advance(2 * HOUR)

        assert ids(tutor.sessions()) == ["tuesday"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"idle": 60}, TypeError),
        ({"absolute": timedelta(0)}, ValueError),
        ({"max_sessions": 0}, ValueError),
        ({"max_sessions": True}, TypeError),
        ({"channel_limits": ["general"]}, TypeError),
        ({"channel_limits": {"general": 0}}, ValueError),
        ({"channel_limits": {"general": "10"}}, TypeError),
        ({"channel_limits": {"": 10}}, ScopeError),
    ],
)
def test_rules_that_mean_nothing_are_refused(arguments: dict, error: type[Exception]):
    with pytest.raises(error):
        SessionRules(**arguments)


# --- closed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("knows_it", [True, False])
async def test_a_closed_session_is_read_and_takes_no_more(
    tutor: ScopedMemory, door: Door, knows_it: bool
):
    history = tutor.chat_history("monday")
    await door(history, "add_messages", [HumanMessage("hello")])
    await door(tutor.sessions, "close", "monday")
    history = history if knows_it else tutor.chat_history("monday")

    with pytest.raises(SessionClosed, match="reopen"):
        await door(history, "add_messages", [HumanMessage("more")])

    assert [m.content for m in await door(history, "messages")] == ["hello"]
    with pytest.raises(SessionClosed):
        await door(history, "add_messages", [HumanMessage("and more")])
    assert (await door(tutor.sessions, "get", "monday")).closed
    await door(tutor.sessions, "rename", "monday", "Algebra")
    await door(tutor.sessions, "reopen", "monday")
    await door(history, "add_messages", [HumanMessage("more")])
    assert await door(history, "count") == 2
    assert not (await door(tutor.sessions, "get", "monday")).closed


@pytest.mark.parametrize(
    "name", ["close", "reopen", "archive", "unarchive", "pin", "unpin", "set_lifetime"]
)
async def test_of_a_session_that_is_not_there_nothing_is_changed(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door, name: str
):
    await door(memory.scope(user_id="bob", module_id="tutor").sessions, "create", "monday")
    await door(tutor.module("planner").sessions, "create", "monday")

    with pytest.raises(SessionNotFound):
        await door(tutor.sessions, name, "monday")
    with pytest.raises(SessionNotFound):
        await door(tutor.sessions, "set_channel_limits", "monday", {"ai": 1})

    assert await door(tutor.sessions, "count") == 0


# --- archived and pinned --------------------------------------------------------------------------


async def test_archived_sessions_are_listed_only_when_asked_for(tutor: ScopedMemory, door: Door):
    for name in ("monday", "tuesday", "wednesday"):
        await door(tutor.sessions, "create", name)
    await door(tutor.sessions, "close", "tuesday")
    await door(tutor.sessions, "archive", "tuesday")

    assert ids(await door(tutor.sessions, "__call__")) == ["wednesday", "monday"]
    assert ids(await door(tutor.sessions, "__call__", archived=True)) == ["tuesday"]
    assert len(await door(tutor.sessions, "__call__", archived=None)) == 3
    counts = [await door(tutor.sessions, "count", archived=a) for a in (False, True, None)]
    assert counts == [2, 1, 3]
    tuesday = await door(tutor.sessions, "get", "tuesday")
    assert (tuesday.archived, tuesday.closed) == (True, True)

    await door(tutor.sessions, "reopen", "tuesday")
    await door(tutor.chat_history("tuesday"), "add_messages", [HumanMessage("hello")])
    assert (await door(tutor.sessions, "get", "tuesday")).archived
    await door(tutor.sessions, "unarchive", "tuesday")
    assert ids(await door(tutor.sessions, "__call__"))[0] == "tuesday"


@pytest.mark.parametrize("limit", [1, 2, 5])
async def test_pinned_sessions_come_first_and_pages_still_cover_all(
    tutor: ScopedMemory, door: Door, limit: int
):
    for number in range(6):
        await door(tutor.sessions, "create", str(number))
    for number in (1, 4):
        await door(tutor.sessions, "pin", str(number))
    seen: list = []
    while page := await door(
        tutor.sessions, "__call__", limit=limit, before=seen[-1] if seen else None
    ):
        seen += page

    assert ids(seen) == ["4", "1", "5", "3", "2", "0"]
    assert [session.pinned for session in seen] == [True] * 2 + [False] * 4
    await door(tutor.sessions, "unpin", "1")
    assert ids(await door(tutor.sessions, "__call__")) == ["4", "5", "3", "2", "1", "0"]


async def test_marks_change_neither_order_nor_times(tutor: ScopedMemory, door: Door):
    await door(tutor.sessions, "create", "monday")
    await door(tutor.sessions, "create", "tuesday")
    before = await door(tutor.sessions, "__call__")
    for name in ("pin", "archive", "close", "unpin", "unarchive", "reopen"):
        await door(tutor.sessions, name, "monday")

    assert await door(tutor.sessions, "__call__") == before


# --- search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("equation", {"Équations du second degré"}),
        ("SECOND deg", {"Équations du second degré"}),
        ("ÉQUATIONS", {"Équations du second degré"}),
        ("über", {"Uebungen über Brüche"}),
        ("uber bruche", {"Uebungen über Brüche"}),
        ("方程", {"二次方程式"}),
        ("second ratios", set()),
        ("%", {"Équations du second degré", "Uebungen über Brüche", "二次方程式", None}),
    ],
)
async def test_sessions_are_found_by_the_words_of_their_titles(
    tutor: ScopedMemory, door: Door, query: str, found: set
):
    for title in ("Équations du second degré", "Uebungen über Brüche", "二次方程式", None):
        await door(tutor.sessions, "create", title=title)

    listed = await door(tutor.sessions, "__call__", search=query)

    assert {session.title for session in listed} == found


async def test_pages_of_a_search_cover_all_that_is_found(
    tutor: ScopedMemory, door: Door, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("langmem_isolated._adapters.container_catalogue._PAGE", 4)
    for number in range(15):
        title = "Algebra" if number % 3 == 0 else "Geometry"
        await door(tutor.sessions, "create", str(number), title=title)
    await door(tutor.sessions, "pin", "3")
    seen: list = []
    while page := await door(
        tutor.sessions,
        "__call__",
        limit=2,
        search="alg",
        before=seen[-1] if seen else None,
    ):
        seen += page

    assert ids(seen) == ["3", "12", "9", "6", "0"]


async def test_a_search_opens_no_other_scopes_titles(memory: IsolatedMemory, door: Door):
    for user in ("alice", "bob"):
        scoped = memory.scope(user_id=user, module_id="tutor")
        await door(scoped.sessions, "create", title=f"Algebra of {user}")

    found = await door(
        memory.scope(user_id="alice", module_id="tutor").sessions, "__call__", search="algebra"
    )

    assert [session.title for session in found] == ["Algebra of alice"]


async def test_arguments_of_a_list_that_mean_nothing_are_refused(tutor: ScopedMemory, door: Door):
    for arguments in ({"search": 7}, {"archived": "yes"}, {"archived": 1}, {"limit": "5"}):
        with pytest.raises(TypeError):
            await door(tutor.sessions, "__call__", **arguments)


# --- as many as a scope keeps ---------------------------------------------------------------------


@pytest.fixture
def kept_three(database_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    rules = SessionRules(max_sessions=3)
    with IsolatedMemory(database_url, root_key=root_key, session_rules=rules) as memory:
        yield memory


async def test_the_least_recently_active_session_drops_out_when_one_is_too_many(
    kept_three: IsolatedMemory, door: Door
):
    tutor = kept_three.scope(user_id="alice", module_id="tutor")
    other = kept_three.scope(user_id="bob", module_id="tutor")
    await door(other.sessions, "create", "bob's")
    for name in ("1", "2", "3"):
        await door(tutor.chat_history(name), "add_messages", [HumanMessage(name)])
    await door(tutor.chat_history("1"), "add_messages", [HumanMessage("again")])

    await door(tutor.chat_history("4"), "add_messages", [HumanMessage("4")])

    assert ids(await door(tutor.sessions, "__call__")) == ["4", "1", "3"]
    assert await door(tutor.chat_history("2"), "messages") == []
    await door(tutor.sessions, "pin", "3")
    await door(tutor.sessions, "create", "5")
    assert ids(await door(tutor.sessions, "__call__")) == ["3", "5", "4"]
    assert ids(await door(other.sessions, "__call__")) == ["bob's"]
    assert tutor.verify().messages == 2


async def test_where_all_are_pinned_none_drops_out(kept_three: IsolatedMemory, door: Door):
    tutor = kept_three.scope(user_id="alice", module_id="tutor")
    for number in range(5):
        await door(tutor.sessions, "create", str(number))
        await door(tutor.sessions, "pin", str(number))

    assert await door(tutor.sessions, "count") == 5


def test_however_many_make_sessions_at_once_no_more_are_kept(kept_three: IsolatedMemory):
    tutor = kept_three.scope(user_id="alice", module_id="tutor")

    with ThreadPoolExecutor(6) as threads:
        said = [
            threads.submit(tutor.chat_history(str(number)).add_user_message, "hello")
            for number in range(30)
        ]
        for one in said:
            one.result()

    assert tutor.sessions.count() == 3
    assert len(tutor.sessions()) == 3
    assert tutor.verify().messages == 3


def test_two_who_make_a_session_at_the_same_moment_count_each_others(
    kept_three: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    """Each is made before the other is counted, where the database lets both write at once."""
    tutor = kept_three.scope(user_id="alice", module_id="tutor")
    for name in ("1", "2"):
        tutor.sessions.create(name)
    both, drop_excess = threading.Barrier(2), beginning._drop_excess

    def dropped_together(*arguments: Any) -> None:
        with suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        drop_excess(*arguments)

    monkeypatch.setattr(beginning, "_drop_excess", dropped_together)
    with ThreadPoolExecutor(2) as threads:
        for made in [threads.submit(tutor.sessions.create, name) for name in "34"]:
            made.result()

    assert tutor.sessions.count() == 3


def _make_sessions(url: str, start: int) -> None:
    rules = SessionRules(max_sessions=3)
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), session_rules=rules) as memory:
        tutor = memory.scope(user_id="alice", module_id="tutor")
        for number in range(start, start + 10):
            tutor.chat_history(str(number)).add_user_message("hello")


def test_several_processes_keep_no_more_together(kept_three: IsolatedMemory, database_url: str):
    tutor = kept_three.scope(user_id="alice", module_id="tutor")
    tutor.sessions.create("first")
    spawning = multiprocessing.get_context("spawn")
    running = [spawning.Process(target=_make_sessions, args=(database_url, n)) for n in (0, 10)]
    for process in running:
        process.start()
    for process in running:
        process.join(60)

    assert [process.exitcode for process in running] == [0, 0]
    assert tutor.sessions.count() == 3
    assert tutor.verify().messages == 3


def test_a_session_that_somebody_tampered_with_is_left_for_all_to_see(
    sqlite_url: str, root_key: LocalRootKey
):
    rules = SessionRules(max_sessions=2)
    with IsolatedMemory(sqlite_url, root_key=root_key, session_rules=rules) as memory:
        attacker = Attacker(sqlite_url)
        tutor = memory.scope(user_id="alice", module_id="tutor")
        for name in ("1", "2"):
            tutor.chat_history(name).add_user_message(name)
        keys = tutor._records.keys()
        digest = keys.pseudonym(Kind.SESSION, b"2")
        attacker("UPDATE sessions SET updated_at = 5 WHERE digest = ?", digest)

        tutor.sessions.create("3")

        assert sum(session.damaged for session in tutor.sessions()) == 1
        attacker.close()


async def test_a_cancelled_call_leaves_no_session_half_made(kept_three: IsolatedMemory):
    tutor = kept_three.scope(user_id="alice", module_id="tutor")
    for number in range(20):
        task = asyncio.ensure_future(
            tutor.chat_history(str(number)).aadd_messages([HumanMessage("hello")])
        )
        await asyncio.sleep(0.0005 * (number % 5))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await asyncio.sleep(0.05)

    assert tutor.sessions.count() <= 3
    tutor.verify()
