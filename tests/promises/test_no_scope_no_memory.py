"""Promise 2: without a scope there is no memory, and the refusal comes before any I/O."""

import copy
import dataclasses
import socket
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmem_isolated import (
    IsolatedChatMessageHistory,
    IsolatedMemory,
    LocalRootKey,
    Scope,
    Sessions,
)
from langmem_isolated.errors import LangmemIsolatedError, ScopeError
from tests.conftest import Door


class Text(str):
    """A `str` that may say anything of itself."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


NOT_IDS: list[Any] = [
    None, "", 0, 1, True, 1.5, float("nan"), b"alice", bytearray(b"alice"), [], ["alice"], {}, (),
    ("alice",), {"alice"}, object(), str, Text("alice"), Path("alice"),
    "\x00", "al\x00ice", "alice\n", "\talice", "\x7f", "\x85", "\ud800", "alice\udfff",
    "e\u0301", "\u212b", "x" * 256, "x" * 300, "x" * 10_000_000, "é" * 128, "\U0001f600" * 64,
]  # fmt: skip


@pytest.fixture(params=["sqlite", "postgres"])
def untouched(
    request: pytest.FixtureRequest, tmp_path: Path, root_key: LocalRootKey
) -> Iterator[IsolatedMemory]:
    """A memory whose first I/O would show: its file would appear, or its server not answer."""
    file = tmp_path / "never" / "memory.db"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        urls = {
            "sqlite": f"sqlite:///{file}",
            "postgres": f"postgresql://postgres@127.0.0.1:{closed.getsockname()[1]}/none",
        }
        file.parent.mkdir()
        memory = IsolatedMemory(urls[request.param], root_key=root_key, timeout=2)
        yield memory
        assert list(file.parent.iterdir()) == []
        assert memory._database._engine.pool.checkedin() == 0
        memory.close()


SCOPED: dict[str, Callable[[IsolatedMemory, Any], object]] = {
    "scope(user_id)": lambda memory, value: memory.scope(user_id=value, module_id="m"),
    "scope(module_id)": lambda memory, value: memory.scope(user_id="u", module_id=value),
    "scope(project_id)": lambda memory, value: memory.scope(
        user_id="u", module_id="m", project_id=value
    ),
    "scope(scope)": lambda memory, value: memory.scope(value),
    "module": lambda memory, value: memory.scope(user_id="u", module_id="m").module(value),
    "chat_history": lambda memory, value: memory.scope(user_id="u", module_id="m").chat_history(
        value
    ),
    "session_history(user_id)": lambda memory, value: memory.session_history(
        user_id=value, module_id="m", session_id="s"
    ),
    "session_history(module_id)": lambda memory, value: memory.session_history(
        user_id="u", module_id=value, session_id="s"
    ),
    "session_history(session_id)": lambda memory, value: memory.session_history(
        user_id="u", module_id="m", session_id=value
    ),
    "IsolatedChatMessageHistory": lambda memory, value: IsolatedChatMessageHistory(
        memory.scope(user_id="u", module_id="m")._records, value
    ),
}


OPERATIONS: dict[str, Callable[[Door, IsolatedMemory, Sessions, Any], Awaitable[object]]] = {
    "modules(user_id)": lambda door, memory, _, value: door(memory, "modules", user_id=value),
    "modules(project_id)": lambda door, memory, _, value: door(
        memory, "modules", user_id="u", project_id=value
    ),
    "create": lambda door, _, sessions, value: door(sessions, "create", value),
    "rename": lambda door, _, sessions, value: door(sessions, "rename", value, "title"),
    "delete": lambda door, _, sessions, value: door(sessions, "delete", value),
}


@pytest.mark.parametrize("entry", SCOPED)
def test_no_entry_takes_what_is_not_an_id(untouched: IsolatedMemory, entry: str):
    for value in NOT_IDS:
        if entry == "session_history(session_id)" and type(value) is int:
            continue  # a thread's id, which LangGraph's own savers take as its text, too
        with pytest.raises(ScopeError) as refusal:
            SCOPED[entry](untouched, value)

        assert isinstance(refusal.value, LangmemIsolatedError)
        assert "alice" not in str(refusal.value)
        assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_no_operation_takes_what_is_not_an_id(
    untouched: IsolatedMemory, door: Door, operation: str
):
    sessions = untouched.scope(user_id="u", module_id="m").sessions
    for value in NOT_IDS:
        if operation == "create" and value is None:
            continue  # asks for an id that is generated
        with pytest.raises(ScopeError):
            await OPERATIONS[operation](door, untouched, sessions, value)


def test_nothing_at_all_is_no_scope(untouched: IsolatedMemory):
    for missing in ({}, {"user_id": "u"}, {"module_id": "m"}, {"project_id": "p"}):
        with pytest.raises(ScopeError):
            untouched.scope(**missing)  # type: ignore[call-overload]


def test_what_python_requires_python_asks_for(untouched: IsolatedMemory):
    """Arguments without a default, left out: there is nothing a default could have been."""
    scoped = untouched.scope(user_id="u", module_id="m")
    ids = {"user_id": "u", "module_id": "m", "session_id": "s"}
    calls: list[Callable[[], object]] = [
        Scope,
        partial(Scope, "u"),
        scoped.chat_history,
        scoped.module,
        scoped.sessions.rename,
        scoped.sessions.delete,
        untouched.modules,
        *(
            partial(untouched.session_history, **{k: v for k, v in ids.items() if k != left_out})
            for left_out in ids
        ),
    ]
    for call in calls:
        with pytest.raises(TypeError, match="required"):
            call()


def test_a_scope_is_given_once_and_whole(untouched: IsolatedMemory):
    scope = Scope("u", "m")
    for more in ({"user_id": "v"}, {"module_id": "n"}, {"project_id": "p"}):
        with pytest.raises(ScopeError):
            untouched.scope(scope, **more)  # type: ignore[call-overload]


def test_only_a_scope_itself_is_a_scope(untouched: IsolatedMemory):
    class Impostor(Scope):
        __slots__ = ()

        def __post_init__(self) -> None:
            """Checks nothing."""

    @dataclasses.dataclass
    class LookAlike:
        user_id: str = "u"
        module_id: str = "m"
        project_id: str = "default"

    for impostor in (Impostor("", ""), LookAlike(), ("u", "m"), {"user_id": "u"}, "u"):
        with pytest.raises(ScopeError):
            untouched.scope(impostor)  # type: ignore[call-overload]


def test_a_copied_scope_is_checked_again():
    scope = Scope("u", "m")

    assert copy.deepcopy(scope) == scope
    for changes in ({"user_id": ""}, {"module_id": None}, {"project_id": "\n"}):
        with pytest.raises(ScopeError):
            dataclasses.replace(scope, **changes)


def test_looking_at_a_scope_does_no_io(untouched: IsolatedMemory):
    """Everything that names memory without reading it leaves the database alone."""
    scoped = untouched.scope(user_id="u", module_id="m").module("n")
    history = scoped.chat_history("s")

    assert repr(scoped) and repr(history) and repr(scoped.sessions)  # noqa: PT018
    assert untouched.session_history(user_id="u", module_id="m", session_id="s")
    assert [spec.id for spec in untouched.history_config] == ["user_id", "module_id", "session_id"]


def test_the_first_io_of_a_memory_would_show(tmp_path: Path, root_key: LocalRootKey):
    """The proof of the tests above: a file that is absent was not opened."""
    file = tmp_path / "memory.db"
    memory = IsolatedMemory(f"sqlite:///{file}", root_key=root_key)
    history = memory.scope(user_id="u", module_id="m").chat_history("s")
    assert not file.exists()

    assert history.messages == []

    assert file.exists()
    memory.close()


@given(st.text(), st.text(), st.text())
def test_a_scope_is_what_was_given_or_nothing(user_id: str, module_id: str, project_id: str):
    try:
        scope = Scope(user_id, module_id, project_id=project_id)
    except ScopeError:
        return
    assert (scope.user_id, scope.module_id, scope.project_id) == (user_id, module_id, project_id)
    assert all((user_id, module_id, project_id))
