"""Quotas: refused before a model is asked."""

import time
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableLambda

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import QuotaExceeded, ScopeError
from langmem_isolated.lifecycle import Quota
from tests.conftest import Attacker, Door
from tests.processes import Child

pytestmark = pytest.mark.usefixtures("noon")


class Counting(GenericFakeChatModel):
    """A model that says 30 tokens a time, and how often it was asked."""

    messages: Any = iter(())
    asked: int = 0

    def _generate(self, *args: Any, **kwargs: Any) -> Any:
        self.asked += 1
        usage = {"input_tokens": 10, "output_tokens": 20, "total_tokens": 30}
        self.messages = iter([AIMessage("yes", usage_metadata=usage)])
        return super()._generate(*args, **kwargs)


def ask(memory: IsolatedMemory, model: Counting, user: str, module: str = "tutor") -> None:
    """One turn of an agent."""
    agent = create_agent(model, [], middleware=[memory.middleware()])
    keys = {"user_id": user, "module_id": module, "session_id": "s"}
    agent.invoke({"messages": [HumanMessage("?")]}, {"configurable": keys})


def ask_chain(memory: IsolatedMemory, model: Counting, user: str, module: str = "tutor") -> None:
    """The same through the callback handler."""
    handler = memory.scope(user_id=user, module_id=module).callback_handler("s")
    chain = RunnableLambda(lambda said: [HumanMessage(said)]) | model
    chain.invoke("?", {"callbacks": [handler]})


@pytest.mark.parametrize("turn", [ask, ask_chain])
def test_who_has_used_up_the_tokens_is_refused_before_the_model_is_asked(
    memory: IsolatedMemory, turn: Any
):
    model = Counting()
    memory.quotas.set(tokens=60, per="day")

    for _ in range(2):
        turn(memory, model, "alice")
    with pytest.raises(QuotaExceeded, match="60 tokens a day"):
        turn(memory, model, "alice")
    turn(memory, model, "bob")

    assert model.asked == 3


@pytest.mark.parametrize("turn", [ask, ask_chain])
def test_who_has_said_as_much_as_allowed_is_refused(memory: IsolatedMemory, turn: Any):
    model = Counting()
    memory.quotas.set(messages=2, per="month", module_id="tutor")

    for _ in range(2):
        turn(memory, model, "alice")
    with pytest.raises(QuotaExceeded, match="2 messages a month"):
        turn(memory, model, "alice")
    turn(memory, model, "alice", "notes")

    assert model.asked == 3


async def test_an_async_agent_is_refused_as_well(memory: IsolatedMemory):
    model = Counting()
    await memory.quotas.aset(tokens=0, per="day")
    agent = create_agent(model, [], middleware=[memory.middleware()])
    keys = {"user_id": "alice", "module_id": "tutor", "session_id": "s"}

    with pytest.raises(QuotaExceeded):
        await agent.ainvoke({"messages": [HumanMessage("?")]}, {"configurable": keys})

    assert model.asked == 0


def test_without_a_module_all_modules_of_the_user_count_together(memory: IsolatedMemory):
    model = Counting()
    memory.quotas.set(tokens=60, per="day")

    ask(memory, model, "alice", "tutor")
    ask(memory, model, "alice", "notes")
    with pytest.raises(QuotaExceeded):
        ask(memory, model, "alice", "third")


def test_the_quota_of_a_user_takes_the_place_of_everyones(memory: IsolatedMemory):
    model = Counting()
    memory.quotas.set(tokens=0, per="day")
    memory.quotas.set(tokens=1_000, per="day", user_id="alice")

    ask(memory, model, "alice")
    with pytest.raises(QuotaExceeded):
        ask(memory, model, "bob")


def test_clearing_a_session_gives_nothing_back_and_the_next_day_does(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    model = Counting()
    memory.quotas.set(tokens=30, per="day")
    memory.quotas.set(messages=9, per="day")
    ask(memory, model, "alice")
    memory.scope(user_id="alice", module_id="tutor").sessions.delete("s")
    with pytest.raises(QuotaExceeded) as refused:
        ask(memory, model, "alice")

    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 86_400 * 10**9)
    ask(memory, model, "alice")

    assert refused.value.until.hour == 0
    assert model.asked == 2


def test_what_was_used_before_the_quota_was_set_counts(memory: IsolatedMemory):
    model = Counting()
    ask(memory, model, "alice")
    memory.quotas.set(tokens=30, per="month")

    with pytest.raises(QuotaExceeded):
        ask(memory, model, "alice")


def test_who_has_used_up_a_quota_is_refused_off_the_record_as_well(memory: IsolatedMemory):
    model = Counting()
    memory.quotas.set(tokens=60, per="day")
    ask(memory, model, "alice")
    alice = memory.scope(user_id="alice", module_id="tutor")
    off = alice.ephemeral()
    agent = create_agent(model, [], middleware=[off.middleware()])

    agent.invoke({"messages": [HumanMessage("?")]}, {"configurable": {"session_id": "off"}})
    with pytest.raises(QuotaExceeded):
        agent.invoke({"messages": [HumanMessage("?")]}, {"configurable": {"session_id": "off"}})
    ask(memory, model, "alice")
    assert model.asked == 3

    off.keep()
    (used,) = alice.stats().tokens
    assert used.input_tokens + used.output_tokens == 90


async def test_quotas_are_listed_replaced_and_removed(memory: IsolatedMemory, door: Door):
    quotas = memory.quotas
    await door(quotas, "set", tokens=10, per="day")
    await door(quotas, "set", tokens=20, per="day")
    last = await door(quotas, "set", messages=5, per="month", user_id="alice", module_id="tutor")

    listed = await door(quotas, "list", user_id="alice")

    assert listed == [
        Quota("tokens", 20, "day", "default"),
        Quota("messages", 5, "month", "default", "tutor", "alice"),
    ]
    assert last == listed[-1]
    assert await door(quotas, "list") == listed[:1]
    assert await door(quotas, "list", project_id="other") == []
    for quota in listed:
        await door(quotas, "remove", quota)
    await door(quotas, "remove", listed[0])
    assert await door(quotas, "list", user_id="alice") == []


def test_a_quota_that_was_removed_refuses_nobody(memory: IsolatedMemory):
    model = Counting()
    memory.quotas.set(tokens=0, per="day")
    with pytest.raises(QuotaExceeded):
        ask(memory, model, "alice")

    memory.quotas.remove(memory.quotas.list()[0])

    ask(memory, model, "alice")


def test_another_process_keeps_to_a_quota(database_url: str, root_key: LocalRootKey):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        ask(memory, Counting(), "alice")
        memory.quotas.set(tokens=30, per="day")

    def elsewhere() -> str:
        with IsolatedMemory(database_url, root_key=root_key) as memory:
            try:
                ask(memory, Counting(), "alice")
            except QuotaExceeded as refused:
                return refused.measure
        return ""

    assert Child(elsewhere).result() == "tokens"


def test_the_tables_tell_no_quota_and_no_user(memory: IsolatedMemory, attacker: Attacker):
    memory.quotas.set(tokens=123_456, per="day", user_id="alice-canary")

    rows = str(attacker("SELECT * FROM records"))

    assert "123456" not in rows
    assert "canary" not in rows


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"per": "day"}, ValueError),
        ({"per": "day", "tokens": 1, "messages": 1}, ValueError),
        ({"per": "week", "tokens": 1}, ValueError),
        ({"per": "day", "tokens": -1}, ValueError),
        ({"per": "day", "tokens": 1.5}, TypeError),
        ({"per": "day", "tokens": 1, "user_id": ""}, ScopeError),
    ],
)
def test_what_is_no_quota_is_refused(
    memory: IsolatedMemory, arguments: dict[str, Any], error: type[Exception]
):
    with pytest.raises(error):
        memory.quotas.set(**arguments)
    with pytest.raises(TypeError, match=r"memory\.quotas\.list"):
        memory.quotas.remove("it")  # type: ignore[arg-type]
    assert memory.quotas.list() == []
