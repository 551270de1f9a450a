"""Watching without reading: log records by digests, and modules verified against each other."""

import logging
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import START, MessagesState, StateGraph

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated.errors import (
    DatabaseError,
    IsolationViolation,
    RecordDoesNotOpen,
    ScopeError,
)
from langmem_isolated.lifecycle import ModuleIsolation
from tests.conftest import Attacker, Door

CANARY = "canary7"


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "langmem_isolated")


def told(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """What was logged under a name."""
    return [record.getMessage() for record in caplog.records if record.name == name]


def busy(memory: IsolatedMemory) -> None:
    """Runs, stores, repeats and fails, with a canary in every id, name and text."""
    ids = {"user_id": f"{CANARY}-user", "module_id": f"{CANARY}-module"}
    scoped = memory.scope(**ids, project_id=f"{CANARY}-project")
    scoped.chat_history(f"{CANARY}-session").add_messages([HumanMessage(CANARY, id=CANARY)] * 2)
    scoped.sessions.create(f"{CANARY}-made", title=CANARY)
    scoped.store().put((CANARY,), CANARY, {CANARY: CANARY})
    keys = {**ids, "session_id": CANARY}
    model = GenericFakeChatModel(messages=iter([AIMessage(CANARY)]))
    agent = create_agent(model, [], middleware=[memory.middleware()])
    agent.invoke({"messages": [HumanMessage(CANARY)]}, {"configurable": keys})
    memory.quotas.set(tokens=1, per="day", **ids)
    with pytest.raises(IsolationViolation), memory.using(Scope(CANARY, "other")):
        memory.checkpointer().get_tuple({"configurable": {**ids, "thread_id": CANARY}})
    with pytest.raises(ScopeError):
        memory.checkpointer().get_tuple({"configurable": {"thread_id": CANARY}})


def test_no_log_record_of_a_busy_run_has_content_or_an_id(
    memory: IsolatedMemory, caplog: pytest.LogCaptureFixture
):
    busy(memory)

    ours = [record for record in caplog.records if record.name.startswith("langmem_isolated")]
    assert {record.name for record in ours} >= {
        "langmem_isolated.sessions",
        "langmem_isolated.scopes",
        "langmem_isolated.isolation",
    }
    assert not [record for record in ours if CANARY in f"{record.__dict__}"]


def test_a_session_that_is_begun_is_told_once_by_the_digest_of_its_scope(
    memory: IsolatedMemory, caplog: pytest.LogCaptureFixture
):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    for _ in range(3):
        scoped.chat_history("monday").add_user_message("hi")
    scoped.sessions.create("tuesday")
    scoped.sessions.create("tuesday")

    begun = f"A session was begun: scope {scoped.digest()}."
    assert told(caplog, "langmem_isolated.sessions") == [begun, begun]


def test_memory_that_is_made_is_told_once(memory: IsolatedMemory, caplog: pytest.LogCaptureFixture):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    assert scoped.chat_history("monday").messages == []
    assert told(caplog, "langmem_isolated.scopes") == []

    scoped.chat_history("monday").add_user_message("hi")
    scoped.chat_history("tuesday").add_user_message("hi")

    assert told(caplog, "langmem_isolated.scopes") == [f"Memory was made: scope {scoped.digest()}."]


def test_a_call_that_is_refused_is_told_with_the_scopes_that_were_named(
    memory: IsolatedMemory, caplog: pytest.LogCaptureFixture
):
    alice = memory.scope(user_id="alice", module_id="tutor")
    bob = memory.scope(user_id="bob", module_id="tutor")
    alice.chat_history("monday").add_user_message("hi")
    bobs: RunnableConfig = {
        "configurable": {"user_id": "bob", "module_id": "tutor", "thread_id": "t"}
    }

    with pytest.raises(IsolationViolation), memory.using(alice):
        memory.checkpointer().get_tuple(bobs)
    with pytest.raises(IsolationViolation):
        alice.checkpointer().get_tuple(bobs)

    both = ", ".join(sorted(str(scoped.digest()) for scoped in (alice, bob)))
    assert told(caplog, "langmem_isolated.isolation") == [
        f"A call was refused (IsolationViolation); scopes named: {both}.",
        f"A call was refused (IsolationViolation); scopes named: {alice.digest()}.",
    ]


def test_a_call_in_a_graph_that_names_nobody_is_told(
    memory: IsolatedMemory, caplog: pytest.LogCaptureFixture
):
    builder = StateGraph(MessagesState)
    builder.add_node("say", lambda _: {"messages": [AIMessage("hi")]})
    builder.add_edge(START, "say")
    graph: Any = builder.compile(checkpointer=memory.checkpointer())

    with pytest.raises(ScopeError):
        graph.invoke({"messages": []}, {"configurable": {"thread_id": "t"}})

    assert set(told(caplog, "langmem_isolated.isolation")) == {
        "A call was refused (ScopeError); scopes named: of no known digest."
    }


def test_a_database_that_fails_is_told_with_the_scope(
    tmp_path: Path, root_key: LocalRootKey, caplog: pytest.LogCaptureFixture
):
    url = f"sqlite:///{tmp_path}/memory.db"
    with IsolatedMemory(url, root_key=root_key, timeout=0.1) as memory:
        scoped = memory.scope(user_id="alice", module_id="tutor")
        scoped.chat_history("monday").add_user_message("hi")
        holder = sqlite3.connect(f"{tmp_path}/memory.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(DatabaseError):
            scoped.chat_history("monday").add_user_message("hi")
        holder.close()

        digest = scoped.digest()

    assert told(caplog, "langmem_isolated.database") == [
        f"The database failed (DatabaseLocked): scope {digest}."
    ]


def module(memory: IsolatedMemory, name: str) -> None:
    scoped = memory.scope(user_id="alice", module_id=name)
    scoped.chat_history("monday").add_messages([HumanMessage("one"), AIMessage("two")])
    scoped.store().put(("facts",), "k", {"v": 1})


async def test_modules_that_are_apart_are_reported(memory: IsolatedMemory, door: Door):
    for name in ("tutor", "notes", "planner"):
        module(memory, name)

    found = await door(memory, "verify_module_isolation", user_id="alice")
    nobody = await door(memory, "verify_module_isolation", user_id="bob")

    assert found == ModuleIsolation(("notes", "planner", "tutor"), 3, 6, 9, 6)
    assert nobody == ModuleIsolation((), 0, 0, 0, 0)


@pytest.mark.parametrize("table", ["records", "sessions"])
def test_a_row_that_was_moved_into_another_module_is_found(
    memory: IsolatedMemory, attacker: Attacker, table: str
):
    module(memory, "tutor")
    memory.scope(user_id="alice", module_id="notes").store().put(("a",), "k", {"v": 1})
    notes = bytes.fromhex(str(memory.scope(user_id="alice", module_id="notes").digest()))

    attacker(f"UPDATE {table} SET scope_id = ?", notes)

    with pytest.raises(IsolationViolation, match=notes.hex()):
        memory.verify_module_isolation(user_id="alice")


def test_a_digest_of_one_module_that_appears_in_another_is_found(
    memory: IsolatedMemory, attacker: Attacker
):
    for name in ("tutor", "notes"):
        module(memory, name)
    digests = [bytes.fromhex(str(memory.scope(user_id="alice", module_id=name).digest()))
               for name in ("tutor", "notes")]  # fmt: skip
    ((digest,),) = attacker("SELECT digest FROM sessions WHERE scope_id = ?", digests[0])

    attacker("UPDATE sessions SET digest = ? WHERE scope_id = ?", digest, digests[1])

    with pytest.raises(IsolationViolation, match="a name or a birth"):
        memory.verify_module_isolation(user_id="alice")


def test_what_was_changed_within_a_module_is_refused_as_damage(
    memory: IsolatedMemory, attacker: Attacker
):
    for name in ("tutor", "notes"):
        module(memory, name)

    attacker("UPDATE records SET size = size + 1")

    with pytest.raises(RecordDoesNotOpen):
        memory.verify_module_isolation(user_id="alice")


def counting_sql() -> list[str]:
    """The statements that the documentation counts with."""
    page = Path(__file__).parent.parent / "docs" / "operations" / "operations.md"
    return re.findall(r"```sql\n(.*?)\n```", page.read_text(), re.DOTALL)


@pytest.mark.parametrize("number", range(len(counting_sql())))
def test_the_sql_of_the_documentation_counts_what_there_is(
    memory: IsolatedMemory, attacker: Attacker, number: int
):
    for name in ("tutor", "notes"):
        module(memory, name)
    usage = {"input_tokens": 7, "output_tokens": 9, "total_tokens": 16}
    answered = AIMessage("42", usage_metadata=usage, response_metadata={"model": "small"})
    memory.scope(user_id="bob", module_id="tutor").chat_history("s").add_messages([answered])

    rows = attacker(counting_sql()[number])

    numbers = [sorted(int(n) for n in row if not isinstance(n, bytes)) for row in rows]
    counted = [
        lambda: sorted(row[2:4] for row in rows) == [(1, 1), (2, 2)],
        lambda: sorted(row[2:4] for row in rows) == [(1, 1), (1, 2), (1, 2)],
        lambda: [row[1:3] for row in rows] == [(8, 1), (8, 1)],
        lambda: [row[1] for row in rows] == [2],
        lambda: [row[2:] for row in rows] == [(1, 7, 9)],
    ]
    assert counted[number](), numbers
