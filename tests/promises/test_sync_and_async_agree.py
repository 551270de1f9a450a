"""Promise 6: every operation has one body and two doors.

The tests of the other promises run through both; here both run the same random programs side by
side, and the code is looked at: an asynchronous method has no body of its own.
"""

import ast
import asyncio
import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, HumanMessage

import langmem_isolated
from langmem_isolated import (
    IsolatedChatMessageHistory,
    IsolatedMemory,
    LocalRootKey,
    Profile,
    ScopedMemory,
    Sessions,
)
from langmem_isolated.errors import SessionNotFound
from langmem_isolated.lifecycle import ProfileReader
from tests.conftest import ROOT_KEY, Attacker

# The asynchronous door of what has not simply an `a` before its name.
TWINS = {"messages": "aget_messages", "__call__": "alist", "__enter__": "__aenter__",
         "__exit__": "__aexit__"}  # fmt: skip
WITH_IO = [
    *((IsolatedMemory, n) for n in ("open", "close", "modules", "__enter__", "__exit__")),
    (IsolatedMemory, "compare_modules"),
    (ScopedMemory, "overview"),
] + [
    (cls, name)
    for cls in (IsolatedChatMessageHistory, Sessions, Profile, ProfileReader)
    for name, member in vars(cls).items()
    if (not name.startswith("_") or name in TWINS) and not inspect.iscoroutinefunction(member)
]


def parameters(member: Any) -> list[inspect.Parameter]:
    function = member.fget if isinstance(member, property) else member
    return list(inspect.signature(function).parameters.values())


@pytest.mark.parametrize(("cls", "name"), WITH_IO)
def test_every_method_has_an_asynchronous_twin_with_the_same_parameters(cls: type, name: str):
    twin = getattr(cls, TWINS.get(name, f"a{name}"))

    assert inspect.iscoroutinefunction(twin)
    assert parameters(twin) == parameters(getattr(cls, name))


def test_every_method_of_the_base_class_is_our_own():
    """The base class would run some in another executor, and rebuild others from `messages`."""
    base = {name for name in vars(BaseChatMessageHistory) if not name.startswith("_")}

    assert base
    assert base - vars(IsolatedChatMessageHistory).keys() == set()


def asynchronous_methods() -> list[tuple[str, ast.AsyncFunctionDef]]:
    """Every coroutine of the modules that this promise is about."""
    package = Path(langmem_isolated.__file__).parent
    found = [
        (f"{name}.{node.name}", node)
        for name in ("chat_history", "sessions", "memory")
        for node in ast.walk(ast.parse((package / f"{name}.py").read_text()))
        if isinstance(node, ast.AsyncFunctionDef)
    ]
    assert len(found) > 15
    return found


def test_no_asynchronous_method_has_a_body_of_its_own():
    """Each is one statement that awaits one call.

    But for entering a memory: where it is cancelled meanwhile, it must be closed, too.
    """
    for name, method in asynchronous_methods():
        if name == "memory.__aenter__":
            continue
        [statement] = method.body[ast.get_docstring(method) is not None :]
        assert isinstance(statement, ast.Return | ast.Expr), name
        assert isinstance(statement.value, ast.Await), name
        assert isinstance(statement.value.value, ast.Call), name
        awaits = [node for node in ast.walk(method) if isinstance(node, ast.Await)]
        assert len(awaits) == 1, name


def test_nothing_but_the_database_module_knows_of_executors():
    package = Path(langmem_isolated.__file__).parent
    naming = {
        path.name
        for path in package.rglob("*.py")
        # What drives an application in tests holds no memory.
        if path.parent.name != "testing"
        and any(word in path.read_text() for word in ("run_in_executor", "ThreadPoolExecutor"))
    }

    assert naming == {"database.py"}


# --- the same programs through both doors ---------------------------------------------------------

session_ids = st.sampled_from(["a", "b"])
message_ids = st.sampled_from([None, "1", "2"])
said = st.builds(HumanMessage, st.text(max_size=3), id=message_ids) | st.builds(
    AIMessage, st.text(max_size=3), id=message_ids
)
histories = st.tuples(st.just("history"), session_ids, st.booleans())
calls = st.one_of(
    st.tuples(histories, st.just("add_messages"), st.tuples(st.lists(said, max_size=3))),
    st.tuples(histories, st.sampled_from(["add_message"]), st.tuples(said)),
    st.tuples(
        histories,
        st.sampled_from(["add_user_message", "add_ai_message"]),
        st.tuples(st.text(max_size=3)),
    ),
    st.tuples(histories, st.sampled_from(["messages", "count", "clear", "page"]), st.just(())),
    st.tuples(histories, st.just("last"), st.tuples(st.integers(0, 4))),
    st.tuples(
        st.tuples(st.just("sessions")),
        st.sampled_from(["create", "delete"]),
        st.tuples(session_ids),
    ),
    st.tuples(
        st.tuples(st.just("sessions")),
        st.just("rename"),
        st.tuples(session_ids, st.none() | st.text(max_size=3)),
    ),
    st.tuples(st.tuples(st.just("sessions")), st.just("__call__"), st.just(())),
)


def outcome_of(scoped: ScopedMemory, call: Any, *, through_async: bool) -> Any:
    (kind, *which), name, arguments = call
    target: Any = scoped.sessions
    if kind == "history":
        target = scoped.chat_history(which[0], idempotent=which[1])
    try:
        if through_async:
            result = asyncio.run(getattr(target, TWINS.get(name, f"a{name}"))(*arguments))
        else:
            member = getattr(target, name)
            result = member(*arguments) if callable(member) else member
    except SessionNotFound as error:
        return str(error)
    if name == "__call__":
        return {session.id: (session.title, session.messages) for session in result}
    return result


def test_the_same_program_has_the_same_outcome_through_both_doors(memory: IsolatedMemory):
    numbers = itertools.count()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(calls, min_size=1, max_size=12))
    def agree(program: list[Any]):
        number = next(numbers)
        sync, through_async, mixed = (
            memory.scope(user_id=f"{door} {number}", module_id="m") for door in ("s", "a", "m")
        )
        for step, call in enumerate(program):
            expected = outcome_of(sync, call, through_async=False)
            assert outcome_of(through_async, call, through_async=True) == expected
            assert outcome_of(mixed, call, through_async=step % 2 == 0) == expected

    agree()


# --- the event loop goes on -----------------------------------------------------------------------


async def test_the_event_loop_goes_on_while_a_call_waits_for_the_database(
    memory: IsolatedMemory, attacker: Attacker
):
    history = memory.scope(user_id="alice", module_id="m").chat_history("s")
    await history.aadd_user_message("one")
    attacker("BEGIN IMMEDIATE" if not attacker.is_postgres else "BEGIN")
    if attacker.is_postgres:
        attacker("LOCK TABLE sessions")

    waiting = asyncio.create_task(history.aadd_user_message("two"))
    ticks = 0
    while ticks < 20:
        await asyncio.sleep(0.005)
        ticks += 1

    assert not waiting.done()
    attacker("ROLLBACK")
    await waiting
    assert await history.acount() == 2


class WatchfulRootKey(LocalRootKey):
    """A root key as a KMS would hold it: its calls take a network round trip."""

    def __init__(self) -> None:
        super().__init__(ROOT_KEY)
        self.called_on_a_loop: set[bool] = set()

    def wrap(self, key: bytes, context: bytes) -> bytes:
        self._watch()
        return super().wrap(key, context)

    def unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        self._watch()
        return super().unwrap(wrapped, context)

    def _watch(self) -> None:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self.called_on_a_loop.add(False)
        else:
            self.called_on_a_loop.add(True)


async def test_keys_are_never_unwrapped_on_the_event_loop(database_url: str):
    root_key = WatchfulRootKey()
    async with IsolatedMemory(database_url, root_key=root_key) as memory:
        scoped = memory.scope(user_id="alice", module_id="m")
        await scoped.sessions.acreate("s")
        await scoped.chat_history("s").aadd_user_message("one")
        assert await memory.amodules(user_id="alice") == ["m"]

    assert root_key.called_on_a_loop == {False}
