"""Promise 1: users cannot see each other, nor can modules of one user, nor projects."""

import asyncio
import itertools
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope, ScopedMemory, Session
from langmem_isolated.errors import LangmemIsolatedError, ScopeError, SessionNotFound
from tests.conftest import Door

# Pairs that joining with a separator, LIKE, globbing, trimming, folding, or quoting would confuse.
HOSTILE_IDS = [
    "1", "12", "2", "01", "1.0",
    "a_b", "axb", "a%b", "%", "_", "*", "?", "a*",
    "a", "b", "a:b", "b:c", "a/b", "a|b", "a.b", "a,b", "a-b", "a b", " a", "a ",
    "A", "Ａ", "а", "ä", "ß", "ss", "a\u200b",  # noqa: RUF001
    "'", '"', "''", "a'b", "' OR '1'='1", "'; DROP TABLE sessions; --", "\\", "a\\", "$1", ":a",
    "%s", "{}", "{user_id}", "None", "null", "default", "true", "0", "-1", "../a", "a" * 254,
    "a" * 255, "é" * 127, "\U0001f600", "\ufdfa", "\u202ea",
]  # fmt: skip
REFUSED_IDS = ["a\x00", "\x00", "a\n", "e\u0301", "a" * 256, "x" * 300, "é" * 128]

ids = st.one_of(
    st.sampled_from(HOSTILE_IDS),
    st.text(st.sampled_from("ab1:_%*'\"\\|. /é"), min_size=1, max_size=4),
    st.text(min_size=1, max_size=12),
)


def scope_of(*parts: str) -> Scope:
    """The scope of user, module and project, where these can be ids at all."""
    try:
        return Scope(parts[0], parts[1], project_id=parts[2])
    except ScopeError:
        assume(False)
        raise


scopes = st.builds(scope_of, ids, ids, ids)


def texts(messages: list[HumanMessage]) -> list[str]:
    return [message.content for message in messages]


def sees(scoped: ScopedMemory, session_id: str) -> dict[str, object]:
    """Everything a scope can see of a session, by every way there is."""
    history = scoped.chat_history(session_id)
    return {
        "messages": texts(history.messages),
        "last": texts(history.last(100)),
        "page": texts(history.page(limit=100).messages),
        "window": texts(history.window(max_tokens=10_000)),
        "text": str(history),
        "count": history.count(),
        "sessions": [(session.id, session.messages) for session in scoped.sessions()],
    }


NOTHING = {
    "messages": [], "last": [], "page": [], "window": [], "text": "", "count": 0, "sessions": [],
}  # fmt: skip


def seen_alone(text: str, session_id: str) -> dict[str, object]:
    return {
        "messages": [text],
        "last": [text],
        "page": [text],
        "window": [text],
        "text": f"Human: {text}",
        "count": 1,
        "sessions": [(session_id, 1)],
    }


async def test_users_with_hostile_ids_share_a_session_id_and_nothing_else(
    memory: IsolatedMemory, door: Door
):
    users = {user: memory.scope(user_id=user, module_id="m") for user in HOSTILE_IDS}
    for user, scoped in users.items():
        await door(scoped.chat_history("1"), "add_messages", [HumanMessage(f"I am {user!r}")])

    for user, scoped in users.items():
        assert texts(await door(scoped.chat_history("1"), "messages")) == [f"I am {user!r}"]
        assert sees(scoped, "1") == seen_alone(f"I am {user!r}", "1")


async def test_modules_and_projects_with_hostile_ids_share_a_session_id_and_nothing_else(
    memory: IsolatedMemory, door: Door
):
    scopes = [Scope("u", name) for name in HOSTILE_IDS]
    scopes += [Scope("u", "m", project_id=name) for name in HOSTILE_IDS]
    for number, scope in enumerate(scopes):
        history = memory.scope(scope).chat_history("1")
        await door(history, "add_messages", [HumanMessage(f"I am {number}")])

    for number, scope in enumerate(scopes):
        history = memory.scope(scope).chat_history("1")
        assert texts(await door(history, "messages")) == [f"I am {number}"]


@pytest.mark.parametrize("refused", REFUSED_IDS)
def test_ids_that_could_be_taken_for_others_are_refused_wherever_they_stand(
    memory: IsolatedMemory, refused: str
):
    for parts in [(refused, "m", "p"), ("u", refused, "p"), ("u", "m", refused)]:
        with pytest.raises(ScopeError):
            Scope(parts[0], parts[1], project_id=parts[2])
    with pytest.raises(ScopeError):
        memory.scope(user_id="u", module_id="m").chat_history(refused)


def test_any_two_scopes_are_strangers(memory: IsolatedMemory, door: Door):
    names = (f"session-{number}" for number in itertools.count())

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(scopes, scopes)
    @example(Scope("a", "b:c"), Scope("a:b", "c"))
    @example(Scope("a", "b", project_id="c"), Scope("a", "c", project_id="b"))
    @example(Scope("a", "b"), Scope("b", "a"))
    @example(Scope("ab", "c"), Scope("a", "bc"))
    @example(Scope("default", "m"), Scope("m", "default"))
    def strangers(one: Scope, other: Scope):
        assume(one != other)
        session_id = next(names)
        mine = memory.scope(one).chat_history(session_id)
        theirs = memory.scope(other).chat_history(session_id)

        asyncio.run(door(mine, "add_messages", [HumanMessage("mine")]))

        assert asyncio.run(door(theirs, "messages")) == []
        assert asyncio.run(door(theirs, "count")) == 0
        asyncio.run(door(theirs, "add_messages", [HumanMessage("theirs")]))
        asyncio.run(door(theirs, "clear"))
        assert texts(asyncio.run(door(mine, "messages"))) == ["mine"]

    strangers()


def test_any_two_session_ids_are_two_sessions(memory: IsolatedMemory):
    scoped = memory.scope(user_id="u", module_id="m")
    for session_id in HOSTILE_IDS:
        scoped.chat_history(session_id).add_user_message(session_id)

    for session_id in HOSTILE_IDS:
        assert texts(scoped.chat_history(session_id).messages) == [session_id]
    assert {session.id for session in scoped.sessions(limit=1000)} == set(HOSTILE_IDS)


async def test_nobody_can_change_what_is_not_theirs(memory: IsolatedMemory, door: Door):
    alice = memory.scope(user_id="alice", module_id="tutor")
    strangers = [
        memory.scope(user_id="bob", module_id="tutor"),
        alice.module("planner"),
        memory.scope(user_id="alice", module_id="tutor", project_id="other"),
    ]
    await door(alice.sessions, "create", "1", title="Algebra", channel="general")
    await door(alice.chat_history("1"), "add_messages", [HumanMessage("mine")])
    before = await door(alice.sessions, "__call__")

    for stranger in strangers:
        assert sees(stranger, "1") == NOTHING
        await door(stranger.chat_history("1"), "clear")
        for method, arguments in (("rename", ("1", "Mallory")), ("delete", ("1",))):
            with pytest.raises(SessionNotFound):
                await door(stranger.sessions, method, *arguments)
        await door(stranger.sessions, "create", "1", title="Geometry")
        await door(stranger.chat_history("1"), "add_messages", [HumanMessage("theirs")])
        await door(stranger.sessions, "rename", "1", "Topology")
        await door(stranger.chat_history("1"), "clear")
        await door(stranger.sessions, "delete", "1")

    assert await door(alice.sessions, "__call__") == before
    assert texts(await door(alice.chat_history("1"), "messages")) == ["mine"]


async def test_a_message_id_that_another_user_has_stored_is_new_to_me(
    memory: IsolatedMemory, door: Door
):
    for user in ("alice", "bob"):
        scoped = memory.scope(user_id=user, module_id="tutor")
        history = scoped.chat_history("1", idempotent=True)
        for _ in range(2):
            await door(history, "add_messages", [HumanMessage(user, id="run-1")])

    for user in ("alice", "bob"):
        history = memory.scope(user_id=user, module_id="tutor").chat_history("1")
        assert texts(await door(history, "messages")) == [user]


async def test_modules_lists_the_modules_of_that_user_in_that_project_only(
    memory: IsolatedMemory, door: Door
):
    for scope in (
        Scope("1", "tutor"),
        Scope("1", "planner"),
        Scope("12", "secret"),
        Scope("1", "hidden", project_id="other"),
    ):
        memory.scope(scope).chat_history("1").add_user_message("hello")

    assert await door(memory, "modules", user_id="1") == ["planner", "tutor"]
    assert await door(memory, "modules", user_id="12") == ["secret"]
    assert await door(memory, "modules", user_id="1", project_id="other") == ["hidden"]
    assert await door(memory, "modules", user_id="2") == []


def test_no_object_of_a_scope_can_be_pointed_at_another(memory: IsolatedMemory):
    scoped = memory.scope(user_id="alice", module_id="tutor")

    with pytest.raises(AttributeError):
        scoped.scope = Scope("bob", "tutor")  # type: ignore[misc]
    with pytest.raises(AttributeError):
        scoped.scope.user_id = "bob"  # type: ignore[misc]


# --- many at once ---------------------------------------------------------------------------------


def test_threads_of_many_users_on_one_small_pool_read_only_their_own(
    database_url: str, root_key: LocalRootKey
):
    users = [f"user-{number}" for number in range(8)]
    with IsolatedMemory(database_url, root_key=root_key, pool_size=2) as memory:

        def turns(user: str) -> list[str]:
            scoped = memory.scope(user_id=user, module_id="m")
            history = scoped.chat_history("same", idempotent=False)
            read = []
            for number in range(20):
                history.add_messages([HumanMessage(f"{user} {number}")])
                read += texts(history.messages) + texts(history.last(3))
                read += [f"{user} {session.id}" for session in scoped.sessions()]
            return read

        with ThreadPoolExecutor(len(users)) as threads:
            read = dict(zip(users, threads.map(turns, users), strict=True))
        stored = {
            user: texts(memory.scope(user_id=user, module_id="m").chat_history("same").messages)
            for user in users
        }

    for user in users:
        assert {text.split()[0] for text in read[user]} == {user}
        assert stored[user] == [f"{user} {number}" for number in range(20)]


def test_event_loops_of_many_users_share_one_memory(memory: IsolatedMemory):
    """One object serves several event loops at once, each in a thread of its own."""
    users = [f"user-{number}" for number in range(4)]

    async def turns(user: str) -> list[str]:
        history = memory.scope(user_id=user, module_id="m").chat_history("same")
        await asyncio.gather(
            *(history.aadd_messages([HumanMessage(f"{user} {number}")]) for number in range(20))
        )
        return texts(await history.aget_messages())

    with ThreadPoolExecutor(len(users)) as threads:
        read = dict(
            zip(users, threads.map(lambda user: asyncio.run(turns(user)), users), strict=True)
        )

    for user in users:
        assert sorted(read[user]) == sorted(f"{user} {number}" for number in range(20))


async def test_thousands_of_cancelled_calls_leave_no_reply_for_the_next_user(
    database_url: str, root_key: LocalRootKey
):
    """Two users and one connection more than one: a reply left on it would reach the other."""
    chance = random.Random(20230320)
    storm, waves = 40, 120
    async with IsolatedMemory(database_url, root_key=root_key, pool_size=2) as memory:
        users = ["alice", "bob"]
        histories = {
            user: memory.scope(user_id=user, module_id="m").chat_history("same") for user in users
        }
        for user in users:
            await histories[user].aadd_messages([HumanMessage(f"{user} 0") for _ in range(20)])
        foreign, cancelled, finished = [], 0, 0

        async def turn(user: str, number: int) -> None:
            history = histories[user]
            match number % 4:
                case 0:
                    await history.aadd_messages([HumanMessage(f"{user} {number}")] * 2)
                    return
                case 1:
                    read = texts(await history.aget_messages())
                case 2:
                    read = texts(await history.alast(5))
                case _:
                    read = texts((await history.apage(before=15, limit=10)).messages)
            foreign.extend(text for text in read if not text.startswith(f"{user} "))

        for wave in range(waves):
            tasks = [
                asyncio.create_task(turn(users[number % 2], wave * storm + number // 2))
                for number in range(storm)
            ]
            for task in chance.sample(tasks, storm * 3 // 4):
                await asyncio.sleep(chance.choice([0, 0, 0, 0.0002]))
                task.cancel()
            for outcome in await asyncio.gather(*tasks, return_exceptions=True):
                assert outcome is None or isinstance(outcome, asyncio.CancelledError)
                cancelled += outcome is not None
                finished += outcome is None

        assert foreign == []
        assert cancelled > storm * waves / 3
        assert finished > storm * waves / 10
        for user in users:
            stored = texts(await histories[user].aget_messages())
            assert {text.split()[0] for text in stored} == {user}
            assert await histories[user].acount() == len(stored)
        assert connections_in_use(memory) == 0
        assert pooled_connections_are_idle(memory)


def connections_in_use(memory: IsolatedMemory) -> int:
    return memory._database._engine.pool.checkedout()


def pooled_connections_are_idle(memory: IsolatedMemory) -> bool:
    """Whether no pooled connection is inside a transaction or has an answer to come."""
    engine = memory._database._engine
    held = [engine.raw_connection() for _ in range(engine.pool.checkedin())]
    raw = [connection.dbapi_connection for connection in held]
    try:
        if memory._database.is_postgres:
            return all(connection.info.transaction_status.name == "IDLE" for connection in raw)
        return not any(connection.in_transaction for connection in raw)
    finally:
        for connection in held:
            connection.close()


def test_cancelled_threads_of_work_do_not_block_those_that_come_after(memory: IsolatedMemory):
    """A waiting call that is cancelled before it began does not begin."""
    history = memory.scope(user_id="alice", module_id="m").chat_history("1")
    release = threading.Event()

    async def scene() -> None:
        workers = memory._database._workers
        blocking = [
            asyncio.create_task(history._records.arun(release.wait)) for _ in range(workers)
        ]
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(history.aadd_messages([HumanMessage("never")]))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        release.set()
        await asyncio.gather(*blocking)
        await history.aadd_messages([HumanMessage("after")])

    asyncio.run(scene())

    assert texts(history.messages) == ["after"]


def test_errors_of_one_user_do_not_reach_another(memory: IsolatedMemory):
    """Calls that fail inside a transaction give their connection back clean."""
    alice = memory.scope(user_id="alice", module_id="m").chat_history("1")
    bob = memory.scope(user_id="bob", module_id="m").chat_history("1")
    alice.add_user_message("alice")

    def fails_midway(transaction: object, keys: object) -> None:
        raise LangmemIsolatedError("midway")

    for _ in range(20):
        with pytest.raises(LangmemIsolatedError, match="midway"):
            alice._records.write(fails_midway)
        bob.add_user_message("bob")

    assert texts(alice.messages) == ["alice"]
    assert texts(bob.messages) == ["bob"] * 20
    assert pooled_connections_are_idle(memory)


def test_a_session_in_a_list_does_not_show_its_names_in_a_repr(memory: IsolatedMemory):
    scoped = memory.scope(user_id="alice", module_id="m")
    scoped.sessions.create("secret-id", title="secret-title", channel="secret-channel")

    [session] = scoped.sessions()

    assert isinstance(session, Session)
    assert "secret" not in repr(session)
    assert "alice" not in repr(scoped) + repr(scoped.chat_history("secret-id"))
