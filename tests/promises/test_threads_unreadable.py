"""Promise 3 for LangGraph threads: nothing of them is readable on disk, in a log or in an error."""

import dataclasses
import operator
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base.id import uuid6
from langgraph.graph import START, StateGraph
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import DatabaseError, LangmemIsolatedError
from tests.conftest import Attacker, Door
from tests.postgres import PostgresServer
from tests.promises.test_nothing_readable_on_disk import (
    Disk,
    Log,
    Talkative,
    all_messages,
    canary,
    files_in,
    readable_in,
    told_by,
)
from tests.promises.test_nothing_readable_on_disk import log as talkative_log
from tests.threads import Model, NotAllowed, Point, at, checkpoint, id_of, listed, put

assert talkative_log  # a fixture


def value() -> dict[str, Any]:
    """Every kind of value that is stored, small and large, with a canary in each."""
    return {
        canary("field"): canary("text"),
        "messages": all_messages(),
        "nested": [{canary("field"): (canary("text"), canary("bytes").encode())}],
        "sets": {canary("set"), canary("set")},
        "long": f"{canary('long')} " * 500,
        "end": "x" * 5_000 + canary("end"),
        "bytes": canary("bytes").encode() * 100,
        "dataclass": Point(canary("x"), [HumanMessage(canary("content"))]),
        "model": Model(name=canary("name"), inner={canary("field"): canary("text")}),
        "document": Document(canary("page"), metadata={canary("field"): canary("text")}),
        "send": Send(canary("node"), {canary("field"): canary("text")}),
        "decimal": {canary("field"): Decimal(1)},
    }


def metadata() -> dict[str, Any]:
    return {
        "run_id": canary("run"),
        canary("field"): canary("text"),
        "parents": {canary("namespace"): canary("parent")},
        "writes": {canary("node"): {canary("channel"): [canary("text")]}},
    }


def scalars() -> dict[str, Any]:
    return {canary("scalar"): canary("text"), "langgraph_auth_user_id": canary("user")}


async def store_everything(saver: IsolatedCheckpointSaver, door: Door) -> None:
    """Every call of the contract, each with a canary wherever a caller may put one."""
    thread, config = canary("thread"), None
    for namespace in ("", f"{canary('node')}:{uuid.uuid4()}|{canary('node')}"):
        config = at(thread, None, namespace, **scalars())
        for _ in range(3):
            new = checkpoint({canary("channel"): value(), canary("channel"): canary("text")})
            new["updated_channels"] = [canary("channel")]
            new["versions_seen"] = {canary("node"): {canary("channel"): 1}}
            metadata_ = metadata()
            config = await door(saver, "put", config, new, metadata_, {})
            for task in (canary("task"), str(uuid.uuid4())):
                writes = [(canary("channel"), value()), ("__error__", canary("error"))]
                path = f"~{canary('path')}"
                await door(saver, "put_writes", config, writes, task, path)
        await door(saver, "get_tuple", config)
        filter_ = {canary("field"): canary("text")}
        await listed(door, saver, at(thread), filter=filter_, before=config)
        channels = [canary("channel")]
        await door(saver, "get_delta_channel_history", config=config, channels=channels)
    await listed(door, saver, None)
    copy, gone = canary("thread"), canary("thread")
    await door(saver, "copy_thread", thread, copy)
    await door(saver, "copy_thread", thread, gone)
    await door(saver, "prune", [copy])
    await door(saver, "delete_for_runs", [metadata_["run_id"], canary("run")])
    await door(saver, "delete_thread", gone)
    assert len(await door(saver, "threads")) == 2
    assert await door(saver, "verify_thread", thread) > 0
    assert await door(saver, "thread_size", copy) > 0


def marked_graph(first: str, inner: str) -> tuple[Any, str]:
    """A graph whose nodes and channels have canaries for names, with a subgraph that asks."""
    channel = canary("channel")
    state: Any = TypedDict("State", {channel: Annotated[list, operator.add]})  # type: ignore[misc]

    def ask(_: Any) -> dict[str, Any]:
        return {channel: [interrupt({canary("question"): canary("text")}), *all_messages()]}

    def fan(_: Any) -> Command[Any]:
        update = {channel: [canary("text"), value()]}
        return Command(update=update, goto=Send(inner, {channel: [canary("sent")]}))

    subgraph = StateGraph(state)
    subgraph.add_node(inner, ask)
    subgraph.add_edge(START, inner)
    outer = StateGraph(state)
    outer.add_node(first, fan)
    outer.add_node(inner, subgraph.compile())
    outer.add_edge(START, first)
    return outer.compile(), channel


async def run_a_graph(memory: IsolatedMemory, door: Door) -> None:
    """With the scope in the config, until it asks, with the answer, and one more that fails."""
    graph, channel = marked_graph(canary("node"), canary("node"))
    graph = graph.copy({"checkpointer": memory.checkpointer(allow=[Point, Model])})
    config: RunnableConfig = {
        "configurable": {
            "thread_id": canary("thread"),
            "user_id": canary("user"),
            "module_id": canary("module"),
            "project_id": canary("project"),
            **scalars(),
        },
        "metadata": {canary("field"): canary("text"), "session_id": canary("session")},
        "tags": [canary("tag")],
        "run_name": canary("name"),
        "run_id": uuid.uuid4(),
    }
    await door(graph, "invoke", {channel: [canary("input"), *all_messages()]}, config)
    waiting = await door(graph, "get_state", config)
    assert waiting.interrupts
    config = {**config, "run_id": uuid.uuid4()}
    await door(graph, "invoke", Command(resume={canary("field"): canary("answer")}), config)
    await door(graph, "update_state", config, {channel: [canary("told")]})
    assert len((await door(graph, "get_state", config)).values[channel]) > 20


async def use_everything(memory: IsolatedMemory, door: Door) -> None:
    scoped = memory.scope(
        user_id=canary("user"), module_id=canary("module"), project_id=canary("project")
    )
    await store_everything(scoped.checkpointer(allow=[Point, Model]), door)
    await run_a_graph(memory, door)


async def test_no_part_of_a_thread_is_readable_in_the_files_or_the_dump(
    memory: IsolatedMemory,
    door: Door,
    database_url: str,
    tmp_path: Path,
    postgres: PostgresServer,
):
    disk = Disk(database_url, tmp_path, postgres)

    await use_everything(memory, door)

    # Both while it is open, when the newest is in the WAL alone, and when it is closed.
    for close in (memory.close, memory.close):
        assert disk.readable() == {}
        assert len(b"".join(disk.contents().values())) > 100_000
        close()


async def test_no_part_of_a_thread_is_readable_in_the_files_of_the_server(
    postgres: PostgresServer, postgres_url: str, root_key: LocalRootKey, door: Door
):
    with IsolatedMemory(postgres_url, root_key=root_key) as memory:
        await use_everything(memory, door)
        memory._database.inspect(lambda connection: connection.exec_driver_sql("CHECKPOINT"))

    content = files_in(postgres.data)
    assert [name for name, file in content.items() if readable_in(file)] == []


def test_run_ids_of_langgraph_are_readable_nowhere(
    memory: IsolatedMemory, database_url: str, tmp_path: Path, postgres: PostgresServer
):
    """They are no canaries, being UUIDs, and are looked for as text and as bytes."""
    disk, run_id = Disk(database_url, tmp_path, postgres), uuid.uuid4()
    saver = memory.scope(user_id="u", module_id="m").checkpointer()

    config = put(saver, at("t"), {"n": 1}, run_id=str(run_id))

    checkpoint_id = uuid.UUID(id_of(config))
    memory.close()
    content = b"".join(disk.contents().values())
    for form in (str(run_id).encode(), run_id.hex.encode(), run_id.bytes):
        assert form not in content
        assert form.hex().encode() not in content
    # As README says, those of checkpoints are visible.
    assert checkpoint_id.bytes in content or checkpoint_id.hex.encode() in content


@pytest.fixture
def log(request: pytest.FixtureRequest) -> Log:
    found: Log = request.getfixturevalue("talkative_log")
    return found


async def test_no_part_of_a_thread_is_readable_in_a_log_or_in_what_is_printed(
    log: Log,
    database_url: str,
    root_key: LocalRootKey,
    door: Door,
    capfd: pytest.CaptureFixture[str],
):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        await use_everything(memory, door)

    assert [text for text in log.texts if readable_in(text.encode())] == []
    assert log.texts
    assert readable_in("".join(capfd.readouterr()).encode()) == []


# --- errors ---------------------------------------------------------------------------------------

Provoke = Callable[[], object]


def refused_values() -> list[Any]:
    deep: Any = canary("deep")
    for _ in range(2000):
        deep = [deep]
    marked = dataclasses.replace(NotAllowed(), secret=canary("secret"))
    return [
        Talkative(),
        {Talkative(): canary("value")},
        {canary("key"): [Talkative()]},
        marked,
        [HumanMessage(canary("content")), {canary("key"): marked}],
        HumanMessage(canary("content"), additional_kwargs={canary("key"): Talkative()}),
        {canary("key"): [2**70, Talkative()]},
        {(canary("key"), frozenset({canary("key"), Talkative()})): canary("value")},
        Send(canary("node"), Talkative()),
        deep,
    ]


def refused_by_names(saver: IsolatedCheckpointSaver, config: RunnableConfig) -> list[Provoke]:
    new, surrogate = checkpoint({}), "\ud800"
    bad: list[RunnableConfig] = [
        at(canary("thread") + "\n"),
        at(canary("thread") + surrogate),
        at(canary("thread") * 100),
        at([canary("thread")]),  # type: ignore[arg-type]
        at("t", canary("checkpoint")),
        at("t", [canary("checkpoint")]),  # type: ignore[arg-type]
        at("t", None, [canary("namespace")]),  # type: ignore[arg-type]
        at("t", None, canary("namespace") + surrogate),
        {"configurable": {canary("field"): canary("text")}},
    ]
    calls: list[Provoke] = []
    for one in bad:
        calls += [
            lambda one=one: saver.get_tuple(one),
            lambda one=one: list(saver.list(one, filter={canary("field"): canary("text")})),
            lambda one=one: saver.put(one, new, {}, {}),
            lambda one=one: saver.put_writes(one, [(canary("channel"), value())], canary("task")),
            lambda one=one: saver.get_delta_channel_history(config=one, channels=["c"]),
        ]
    bad_id = {**new, "id": canary("checkpoint")}
    return [
        *calls[:-4],  # a list of all threads needs no name of one
        *calls[-3:],
        lambda: saver.put(config, bad_id, {}, {}),  # type: ignore[typeddict-item]
        lambda: list(saver.list(None, before=at("t", canary("checkpoint")))),
        lambda: saver.delete_thread(canary("thread") + "\x00"),
        lambda: saver.copy_thread(canary("thread") + surrogate, canary("thread")),
        lambda: saver.prune([canary("thread") * 100]),
        lambda: saver.thread_size(canary("thread") + "\n"),
        lambda: saver.verify_thread([canary("thread")]),  # type: ignore[arg-type]
    ]


def provoked(saver: IsolatedCheckpointSaver, attacker: Attacker) -> list[Provoke]:
    """Calls given canaries, each of which raises; the last ones break rows and tables."""
    thread = canary("thread")
    config = put(saver, at(thread), {canary("channel"): value()}, **metadata())
    saver.put_writes(config, [(canary("channel"), value())], canary("task"), canary("path"))

    def after(sql: str, call: Provoke) -> Provoke:
        def tampered() -> object:
            attacker(sql)
            return call()

        return tampered

    def store() -> object:
        return put(saver, config, {canary("channel"): value()}, **metadata())

    reads: list[Provoke] = [
        lambda: saver.get_tuple(config),
        lambda: saver.get_tuple(at(thread)),
        lambda: list(saver.list(None)),
        lambda: saver.verify_thread(thread),
        lambda: saver.prune([thread]),
        lambda: saver.copy_thread(thread, canary("thread")),
    ]
    values = refused_values()
    return [
        *(lambda v=v: put(saver, config, {canary("channel"): v}) for v in values),
        *(lambda v=v: put(saver, config, {}, **{canary("field"): v}) for v in values),
        *(lambda v=v: saver.put_writes(config, [(canary("c"), v)], canary("t")) for v in values),
        *refused_by_names(saver, config),
        lambda: saver.copy_thread(thread, thread),
        lambda: saver.put_writes(at(thread), [(canary("channel"), 1)], canary("task")),
        after("UPDATE records SET sealed = substr(sealed, 2)", reads[0]),
        *reads[1:],
        after("DELETE FROM sessions", reads[0]),
        after("ALTER TABLE records RENAME COLUMN sealed TO elsewhere", reads[0]),
        store,
        after("ALTER TABLE sessions RENAME TO elsewhere", store),
    ]


def test_errors_quote_nothing_of_a_thread(memory: IsolatedMemory, attacker: Attacker):
    scoped = memory.scope(user_id=canary("user"), module_id=canary("module"))

    for provoke in provoked(scoped.checkpointer(allow=[Point, Model]), attacker):
        with pytest.raises(LangmemIsolatedError) as raised:
            provoke()
        # The lines of this file are in the traceback, but canaries are made when they run.
        assert [text for text in told_by(raised.value) if readable_in(text.encode())] == []


def test_ids_of_tasks_and_runs_may_be_any_text(memory: IsolatedMemory):
    saver = memory.scope(user_id="u", module_id="m").checkpointer()
    odd = f"{canary('id')}\ud800\x00"

    config = put(saver, at("t"), {"n": 1}, run_id=odd)
    saver.put_writes(config, [("n", 2)], odd, odd)

    found = saver.get_tuple(config)
    assert found is not None
    assert len(found.pending_writes or []) == 1
    saver.delete_for_runs([f"{odd}\udfff"])


def test_a_scope_that_is_missing_does_not_tell_what_was_there_instead(memory: IsolatedMemory):
    saver = memory.checkpointer(scope_resolver=lambda _: None)  # type: ignore[arg-type,return-value]
    for one in (saver, memory.checkpointer()):
        for config in (at(canary("thread")), at("t", user_id=canary("user"), module_id=None)):
            with pytest.raises(LangmemIsolatedError) as raised:
                one.get_tuple(config)
            assert [text for text in told_by(raised.value) if readable_in(text.encode())] == []


def test_no_repr_shows_a_name_or_a_value(memory: IsolatedMemory):
    scoped = memory.scope(user_id=canary("user"), module_id=canary("module"))
    saver = scoped.checkpointer()
    config = put(saver, at(canary("thread")), {canary("channel"): canary("text")})
    assert id_of(config) < str(uuid6())
    shown = [saver, memory.checkpointer(), *saver.threads(), saver._threads(None)[1]]

    assert [thing for thing in shown if readable_in(repr(thing).encode())] == []


def test_a_broken_database_does_not_tell_what_was_to_be_written(
    memory: IsolatedMemory, attacker: Attacker
):
    saver = memory.scope(user_id=canary("user"), module_id="m").checkpointer()
    config = put(saver, at(canary("thread")), {canary("channel"): canary("text")})
    attacker("ALTER TABLE records RENAME TO elsewhere")

    for call in (
        lambda: put(saver, config, {canary("channel"): all_messages()}),
        lambda: saver.put_writes(config, [(canary("channel"), canary("text"))], canary("task")),
        lambda: list(saver.list(config, filter={canary("field"): canary("text")})),
    ):
        with pytest.raises(DatabaseError) as raised:
            call()
        assert [text for text in told_by(raised.value) if readable_in(text.encode())] == []
