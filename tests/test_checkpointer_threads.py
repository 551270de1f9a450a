"""Whole threads: their list and size, copies, pruning, expiry, and the types they may hold."""

import asyncio
import os
import random
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base.id import uuid6

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import AddressTaken, ValueNotStorable
from tests.conftest import Attacker, Door
from tests.threads import (
    ALLOWED,
    Model,
    NotAllowed,
    Point,
    at,
    by_place,
    checkpoint,
    count,
    id_of,
    listed,
    put,
    same,
    size_in_database,
    values_at,
)


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def saver(scoped: ScopedMemory) -> IsolatedCheckpointSaver:
    return scoped.checkpointer(allow=ALLOWED)


# Threads ------------------------------------------------------------------------------------------


async def test_a_copied_thread_is_whole_and_stands_on_its_own(
    saver: IsolatedCheckpointSaver, door: Door, attacker: Attacker
):
    config = at("source")
    for number in range(3):
        values = {"messages": [HumanMessage(str(n), id=str(n)) for n in range(number + 1)]}
        config = put(saver, config, values, step=number)
        put(saver, at("source", None, f"sub:{number}"), values)
    saver.put_writes(config, [("messages", AIMessage("b", id="b"))], "task", "~path")

    await door(saver, "copy_thread", "source", "target")

    def without_thread(thread: str) -> list[Any]:
        found = by_place(saver.list({"configurable": {"thread_id": thread}}))
        return [[{**one[0], "thread_id": ""}, *one[1:3], one[4]] for one in found]

    assert without_thread("source") == without_thread("target")
    assert count(attacker) == 8
    assert await door(saver, "verify_thread", "target") == 7
    await door(saver, "delete_thread", "source")
    assert count(attacker) == 4
    assert len(values_at(saver, at("target"))["messages"]) == 3
    continued = put(saver, saver.get_tuple(at("target")).config, {"messages": [HumanMessage("n")]})  # type: ignore[union-attr]
    assert values_at(saver, continued) == {"messages": [HumanMessage("n")]}


async def test_a_thread_is_not_copied_onto_another(saver: IsolatedCheckpointSaver, door: Door):
    """Not even where no two rows of theirs meet."""
    for thread in ("one", "two"):
        put(saver, at(thread), {"n": thread})
    saver.put_writes(at("three", str(uuid6())), [("a", 1)], "task")
    before = by_place(saver.list(None))

    for target in ("one", "two", "three"):
        with pytest.raises(AddressTaken):
            await door(saver, "copy_thread", "one", target)

    assert by_place(saver.list(None)) == before
    await door(saver, "copy_thread", "unknown", "two")
    await door(saver, "copy_thread", "unknown", "four")
    assert {thread.id for thread in saver.threads()} == {"one", "two", "three"}


async def test_threads_are_listed_with_their_last_activity_steps_and_size(
    saver: IsolatedCheckpointSaver, door: Door
):
    start = datetime.now(UTC) - timedelta(microseconds=1)
    for thread in ("one", "two"):
        put(saver, at(thread), {"messages": [HumanMessage("a" * 1000)]})
        await asyncio.sleep(0.002)
    put(saver, at("one", None, "sub:1"), {})

    newest, oldest = await door(saver, "threads")

    assert (newest.id, newest.checkpoints, newest.damaged) == ("one", 2, False)
    assert (oldest.id, oldest.checkpoints) == ("two", 1)
    assert start <= oldest.created <= oldest.last_activity <= newest.last_activity
    assert newest.last_activity <= datetime.now(UTC)
    for thread in (newest, oldest):
        assert thread.size == await door(saver, "thread_size", thread.id)
        assert thread.size == size_in_database(saver, thread.id) > 1000
        assert "one" not in repr(thread)
        assert "two" not in repr(thread)
    assert await door(saver, "thread_size", "unknown") == 0
    assert await door(saver, "verify_thread", "unknown") == 0


async def test_the_size_of_a_thread_stays_right_whatever_is_stored_and_removed(
    saver: IsolatedCheckpointSaver, door: Door
):
    config, chance = at("t"), random.Random(1)
    for number in range(12):
        text = "x" * chance.choice([1, 300, 2000])
        config = await door(
            saver, "put", config, checkpoint({"a": [text]}), {"run_id": str(number)}, {}
        )
        for _ in range(2):
            await door(saver, "put_writes", config, [("__resume__", text * 2)], "task")
        if number == 5:
            await door(saver, "prune", ["t"], keep_last=3)
        if number == 9:
            await door(saver, "delete_for_runs", ["8"])
        assert await door(saver, "thread_size", "t") == size_in_database(saver, "t")


async def test_what_is_unknown_is_no_error_to_remove(saver: IsolatedCheckpointSaver, door: Door):
    for _ in range(2):
        await door(saver, "delete_thread", "unknown")
        await door(saver, "prune", ["unknown"])
        await door(saver, "prune", [])
        await door(saver, "delete_for_runs", ["unknown"])
        put(saver, at("t"), {})

    assert len(await listed(door, saver, None)) == 2


# Prune --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [1, 2, 5, 100])
async def test_prune_keeps_the_last_of_each_namespace_with_their_writes(
    saver: IsolatedCheckpointSaver, door: Door, number: int
):
    for namespace in ("", "memory"):
        config = at("t", None, namespace)
        for step in range(8):
            config = put(saver, config, {"messages": [HumanMessage(str(step))]}, step=step)
            saver.put_writes(config, [("a", step)], "task")

    await door(saver, "prune", ["t"], keep_last=number)

    for namespace in ("", "memory"):
        kept = await listed(door, saver, at("t", None, namespace))
        assert [one.metadata["step"] for one in kept] == [*range(7, -1, -1)][:number]
        assert [one.pending_writes[0][2] for one in kept] == [*range(7, -1, -1)][:number]  # type: ignore[index]
    saver.verify_thread("t")


async def test_prune_can_delete_whole_threads(saver: IsolatedCheckpointSaver, door: Door):
    for thread in ("one", "two", "three"):
        put(saver, at(thread), {"messages": [HumanMessage(thread)]})

    await door(saver, "prune", ["one", "three"], strategy="delete")

    assert [thread.id for thread in saver.threads()] == ["two"]


@pytest.mark.parametrize("options", [{"strategy": "keep_all"}, {"keep_last": 0}, {"keep_last": -1}])
async def test_prune_refuses_what_it_does_not_know(
    saver: IsolatedCheckpointSaver, door: Door, options: dict[str, Any]
):
    put(saver, at("t"), {})
    with pytest.raises(ValueError, match="strategy must be"):
        await door(saver, "prune", ["t"], **options)

    assert len(list(saver.list(None))) == 1


async def test_prune_takes_the_calls_of_subgraphs_with_the_checkpoint_they_started_from(
    saver: IsolatedCheckpointSaver, door: Door
):
    """Each call has a namespace of its own: its latest would stay for ever."""
    root = at("t")
    for number in range(5):
        root = put(saver, root, {"n": number})
        parents = {"": id_of(root)}
        put(saver, at("t", None, f"agent:{number}"), {"n": number}, parents=parents)
        put(saver, at("t", None, f"agent:{number}|deep:{number}"), {}, parents=parents)
        put(saver, at("t", None, "memory"), {"n": number}, parents=parents)
    put(saver, at("t", None, "agent:early"), {}, parents={"": str(uuid6())})

    await door(saver, "prune", ["t"], keep_last=2)

    everywhere: RunnableConfig = {"configurable": {"thread_id": "t"}}
    namespaces = [one.config["configurable"]["checkpoint_ns"] for one in saver.list(everywhere)]
    assert sorted(set(namespaces)) == [
        "", "agent:3", "agent:3|deep:3", "agent:4", "agent:4|deep:4", "agent:early", "memory"
    ]  # fmt: skip
    assert namespaces.count("memory") == 2


# Expiry -------------------------------------------------------------------------------------------


class Clock:
    """What the checkpointer takes for the time."""

    def __init__(self) -> None:
        self.microseconds = 1_800_000_000_000_000

    def __call__(self) -> int:
        return self.microseconds

    def advance(self, seconds: float) -> None:
        self.microseconds += round(seconds * 1_000_000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (
        "checkpointer.repository",
        "checkpointer.body_writer",
        "checkpointer.thread_methods",
    ):
        monkeypatch.setattr(f"langmem_isolated.{module}.now", clock)
    monkeypatch.setattr("langmem_isolated._adapters.container_catalogue.now", clock)
    return clock


async def test_an_expired_thread_is_absent_in_every_read_and_begins_anew(
    scoped: ScopedMemory, door: Door, attacker: Attacker, clock: Clock
):
    saver = scoped.checkpointer(ttl=timedelta(seconds=60))
    old = put(saver, put(saver, at("t"), {"messages": [HumanMessage("old")]}), {})
    saver.put_writes(old, [("a", 1)], "task")
    clock.advance(59.999)
    assert saver.get_tuple(at("t"))
    assert [thread.id for thread in saver.threads()] == ["t"]

    clock.advance(0.001)

    assert await door(saver, "get_tuple", at("t")) is None
    assert await door(saver, "get_tuple", old) is None
    assert await listed(door, saver, at("t")) == []
    assert await listed(door, saver, None) == []
    assert await door(saver, "threads") == []
    assert await door(saver, "thread_size", "t") == 0
    history = await door(saver, "get_delta_channel_history", config=old, channels=["messages"])
    assert history == {"messages": {"writes": []}}
    await door(saver, "copy_thread", "t", "copy")
    assert await door(saver, "threads") == []

    new = await door(saver, "put", at("t"), checkpoint({"n": 1}), {}, {})

    assert [one.config for one in await listed(door, saver, None)] == [new]
    assert count(attacker) == 0
    assert (await door(saver, "get_tuple", at("t"))).checkpoint["channel_values"] == {"n": 1}


async def test_writes_to_an_expired_thread_begin_it_anew(
    scoped: ScopedMemory, door: Door, clock: Clock
):
    """What this process knows of the elements of its former life is of no use."""
    saver = scoped.checkpointer(ttl=timedelta(seconds=60))
    said = [HumanMessage("a", id="1")]
    config = put(saver, at("t"), {"messages": said})
    clock.advance(61)

    await door(saver, "put_writes", config, [("messages", said)], "task")

    assert await door(saver, "get_tuple", config) is None
    again = put(saver, at("t"), {"messages": said})
    assert values_at(saver, again) == {"messages": said}
    saver.verify_thread("t")


async def test_each_write_keeps_a_thread_for_longer(scoped: ScopedMemory, door: Door, clock: Clock):
    saver = scoped.checkpointer(ttl=timedelta(seconds=60))
    config = put(saver, at("t"), {"n": 0})
    for _ in range(3):
        clock.advance(40)
        await door(saver, "put_writes", config, [("__resume__", 1)], "task")
    assert saver.get_tuple(config)

    put(scoped.checkpointer(), config, {"n": 1})

    clock.advance(1_000_000)
    assert saver.get_tuple(at("t"))


async def test_an_expired_target_gives_way_to_a_copy(
    scoped: ScopedMemory, door: Door, clock: Clock
):
    put(scoped.checkpointer(ttl=timedelta(seconds=1)), at("target"), {"n": "old"})
    saver = scoped.checkpointer()
    put(saver, at("source"), {"n": "new"})
    clock.advance(2)

    await door(saver, "copy_thread", "source", "target")

    [found] = await listed(door, saver, at("target"))
    assert found.checkpoint["channel_values"] == {"n": "new"}


@pytest.mark.parametrize("number", [1, 120])
async def test_an_expired_thread_does_not_end_a_list_of_others(
    scoped: ScopedMemory, door: Door, clock: Clock, number: int
):
    """A page may be full of it, and it may be the newest."""
    saver = scoped.checkpointer()
    put(saver, at("stays"), {"n": 1})
    brief = scoped.checkpointer(ttl=timedelta(seconds=1))
    for _ in range(number):
        put(brief, at("goes"), {"n": 2})
    clock.advance(2)

    for options in ({}, {"limit": 1}, {"limit": 3}, {"filter": {}}):
        [found] = await listed(door, saver, None, **options)
        assert found.config["configurable"]["thread_id"] == "stays"


# Types --------------------------------------------------------------------------------------------


async def test_a_type_that_is_not_allowed_is_refused_and_nothing_is_stored(
    saver: IsolatedCheckpointSaver, door: Door
):
    config = put(saver, at("t"), {"n": 1})
    refused: list[Any] = [NotAllowed(), [HumanMessage("a"), {"k": NotAllowed()}]]
    for value in refused:
        with pytest.raises(ValueNotStorable, match=r"tests\.threads\.NotAllowed .*allow=\["):
            await door(saver, "put", config, checkpoint({"a": value}), {}, {})
        with pytest.raises(ValueNotStorable, match=r"tests\.threads\.NotAllowed .*allow=\["):
            await door(saver, "put_writes", config, [("a", value)], "task")
        with pytest.raises(ValueNotStorable, match=r"tests\.threads\.NotAllowed .*allow=\["):
            await door(saver, "put", config, checkpoint({}), {"step": value}, {})

    [found] = await listed(door, saver, None)
    assert found.config == config
    assert found.pending_writes == []


async def test_allowed_types_come_back_as_they_are(scoped: ScopedMemory, door: Door):
    values = {
        "a": Point(1, [HumanMessage("a")]),
        "b": [Model(name="n")],
        "c": {"k": Model(name="m")},
    }
    by_type = scoped.checkpointer(allow=[Point, Model])
    by_name = scoped.checkpointer(allow=[("tests.threads", "Point"), ("tests.threads", "Model")])
    grown = scoped.checkpointer().with_allowlist({("tests.threads", "Point")})
    for saver in (by_type, by_name, grown.with_allowlist([("tests.threads", "Model")])):
        config = await door(saver, "put", at("t"), checkpoint(values), {}, {})
        assert same((await door(saver, "get_tuple", config)).checkpoint["channel_values"], values)
    with pytest.raises(ValueNotStorable):
        put(grown, at("t"), values)
    with pytest.raises(ValueNotStorable):
        put(scoped.checkpointer(strict=True), at("t"), values)


STRICT = """
    import dataclasses, sys, warnings
    from typing import Any
    warnings.simplefilter("error")
    import pydantic
    from langgraph.graph import START, StateGraph
    from langmem_isolated import IsolatedMemory, LocalRootKey
    from langmem_isolated.errors import ValueNotStorable

    @dataclasses.dataclass
    class Place:
        city: str

    class Weather(pydantic.BaseModel):
        degrees: int

    @dataclasses.dataclass
    class Unknown:
        x: int = 0

    class State(pydantic.BaseModel):
        place: Place | None = None
        weather: list[Weather] = []
        anything: Any = None

    def node(state):
        weather = [*state.weather, Weather(degrees=1)]
        return {"place": Place(state.place.city + "!"), "weather": weather}

    builder = StateGraph(State)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    with IsolatedMemory(sys.argv[1], root_key=LocalRootKey(bytes(32))) as memory:
        scoped = memory.scope(user_id="u", module_id="m")
        compiled = builder.compile(checkpointer=scoped.checkpointer())
        for thread, graph in (("a", compiled), ("b", scoped.bind(builder.compile()))):
            config = {"configurable": {"thread_id": thread}}
            graph.invoke({"place": Place("Oslo")}, config)
            graph.invoke({}, config)
            values = graph.get_state(config).values
            assert values["place"] == Place("Oslo!!"), values
            assert values["weather"] == [Weather(degrees=1)] * 2, values
            try:
                graph.invoke({"anything": Unknown()}, config)
            except ValueNotStorable as refusal:
                print(refusal.type_name)
"""


def test_langgraphs_strict_mode_allows_the_types_of_the_graphs_state(sqlite_url: str):
    program = textwrap.dedent(STRICT)
    ran = subprocess.run(
        [sys.executable, "-c", program, sqlite_url],
        env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.stdout.strip(), ran.returncode) == ("__main__.Unknown\n__main__.Unknown", 0), (
        ran.stderr
    )
    assert "Deserializing unregistered" not in ran.stderr
    assert "Blocked" not in ran.stderr
