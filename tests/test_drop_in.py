"""What applications written for LangGraph's own savers and stores do besides, side by side."""

import asyncio
import copy
import itertools
import logging
import pickle
import re
import sqlite3
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.language_models import FakeListLLM
from langchain_core.messages import AIMessage
from langchain_core.runnables import RunnableConfig, RunnableLambda
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel._messages import _messages_delta_reducer
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from langgraph.types import Command, interrupt

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import DatabaseUnreachable, ScopeError
from langmem_isolated.store import IsolatedStore
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.test_middleware import Scripted, echo
from tests.threads import at, checkpoint, listed, put

SCOPE = {"user_id": "alice", "module_id": "tutor"}
THREAD: RunnableConfig = {"configurable": {"thread_id": "t"}}


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(**SCOPE)


@pytest.fixture
def sqlite_saver() -> Iterator[SqliteSaver]:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        yield SqliteSaver(connection)


@pytest.fixture
def sqlite_store() -> Iterator[SqliteStore]:
    with SqliteStore.from_conn_string(":memory:") as store:
        store.setup()
        yield store


# Setting up ---------------------------------------------------------------------------------------

PARTS: dict[str, Callable[[IsolatedMemory], IsolatedCheckpointSaver | IsolatedStore]] = {
    "bound saver": lambda memory: memory.scope(**SCOPE).checkpointer(),
    "saver": lambda memory: memory.checkpointer(),
    "bound store": lambda memory: memory.scope(**SCOPE).store(),
    "store": lambda memory: memory.store(),
}


def tables(database_url: str) -> int:
    """How many installations a database has; it must have the tables."""
    with closing(Attacker(database_url)) as attacker:
        return int(attacker("SELECT count(*) FROM installation")[0][0])


@pytest.mark.parametrize("part", PARTS)
def test_setup_makes_the_tables_when_it_is_called(sqlite_url: str, part: str):
    with closing(IsolatedMemory(sqlite_url, root_key=LocalRootKey(ROOT_KEY))) as memory:
        made = PARTS[part](memory)
        with pytest.raises(sqlite3.OperationalError, match="no such table"):
            tables(sqlite_url)

        made.setup()

        assert tables(sqlite_url) == 1
        made.setup()


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("name", ["setup", "asetup"])
async def test_setup_may_be_awaited_as_often_as_one_likes(sqlite_url: str, part: str, name: str):
    with closing(IsolatedMemory(sqlite_url, root_key=LocalRootKey(ROOT_KEY))) as memory:
        made = PARTS[part](memory)

        assert await getattr(made, name)() is None

        assert tables(sqlite_url) == 1
        ready = made.setup()
        await ready
        await ready


@pytest.mark.parametrize("part", PARTS)
async def test_a_setup_that_nobody_awaits_is_done_when_the_first_use_is(sqlite_url: str, part: str):
    with closing(IsolatedMemory(sqlite_url, root_key=LocalRootKey(ROOT_KEY))) as memory:
        PARTS[part](memory).setup()

        assert memory.scope(**SCOPE).checkpointer().get_tuple(THREAD) is None
        assert tables(sqlite_url) == 1


class WatchedRootKey(LocalRootKey):
    """Notes in which threads keys are unwrapped."""

    def __init__(self) -> None:
        super().__init__(ROOT_KEY)
        self.threads: list[int] = []

    def unwrap(self, *args: Any) -> Any:
        self.threads.append(threading.get_ident())
        return super().unwrap(*args)


async def test_setup_keeps_keys_and_databases_off_the_event_loop(memory: IsolatedMemory):
    memory.scope(**SCOPE).store().put(("a",), "k", {})
    root_key = WatchedRootKey()
    url = memory._database.url
    with closing(IsolatedMemory(url, root_key=root_key)) as another:
        await another.checkpointer().setup()

    assert root_key.threads
    assert threading.get_ident() not in root_key.threads


async def test_what_a_setup_meets_is_told_where_it_is_awaited_or_with_the_first_use(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
):
    url = f"sqlite:///{tmp_path}/no/memory.db"
    with closing(IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY))) as memory:
        saver = memory.scope(**SCOPE).checkpointer()
        with pytest.raises(DatabaseUnreachable):
            await saver.setup()
        with pytest.raises(DatabaseUnreachable):
            await saver.asetup()
        with pytest.raises(DatabaseUnreachable):
            await asyncio.to_thread(saver.setup)

        saver.setup()
        with pytest.raises(DatabaseUnreachable):
            await saver.aget_tuple(THREAD)
    told = {record.name for record in caplog.records if record.levelno >= logging.WARNING}
    assert told == {"langmem_isolated.database"}


@pytest.mark.parametrize("kind", [IsolatedCheckpointSaver, IsolatedStore])
def test_a_connection_string_names_no_scope_and_the_refusal_has_the_line_to_write(kind: Any):
    method = "checkpointer" if kind is IsolatedCheckpointSaver else "store"
    for arguments, options in ((("sqlite:///secret.db",), {}), ((), {"conn_string": "secret"})):
        with pytest.raises(ScopeError) as refused:
            kind.from_conn_string(*arguments, **options)
        told = str(refused.value)
        assert "secret" not in told
        assert "memory = IsolatedMemory(url)" in told
        assert f"memory.scope(user_id=…, module_id=…).{method}()" in told
        assert f"memory.{method}()" in told


# Copies -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("part", ["bound saver", "saver"])
def test_a_copy_of_a_saver_is_another_that_has_the_same_threads(
    memory: IsolatedMemory, part: str, copied: Callable[[Any], Any]
):
    saver = PARTS[part](memory)
    config = at("t", **SCOPE)
    put(saver, config, {"a": 1})

    another = copied(saver)
    stored = put(another, config, {"a": 2})

    assert type(another) is type(saver)
    assert another is not saver
    assert saver.get_tuple(stored).checkpoint["channel_values"] == {"a": 2}
    assert len([*another.list(config)]) == 2
    another.serde = saver.with_allowlist([("a", "B")]).serde
    assert another.serde is not saver.serde


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_store_is_another_that_has_the_same_items(
    scoped: ScopedMemory, copied: Callable[[Any], Any]
):
    store = scoped.store(index={"dims": 2, "embed": lambda texts: [[1.0, 0.0] for _ in texts]})
    store.put(("a",), "k", {"text": "x"})

    another = copied(store)
    another.put(("a",), "l", {"text": "y"})

    assert another is not store
    assert another.embeddings is store.embeddings
    assert sorted(item.key for item in store.search((), query="x")) == ["k", "l"]


@pytest.mark.parametrize("part", PARTS)
def test_pickling_is_refused_with_the_way_round(memory: IsolatedMemory, part: str):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        with pytest.raises(TypeError, match=r"cannot be pickled.* IsolatedMemory in each process"):
            pickle.dumps(PARTS[part](memory), protocol)


# Stores -------------------------------------------------------------------------------------------


def test_a_store_has_embeddings_where_it_has_an_index(
    scoped: ScopedMemory, sqlite_store: SqliteStore
):
    index: Any = {"dims": 2, "embed": NGramEmbeddings(2)}

    assert (
        scoped.store().embeddings is sqlite_store.embeddings is InMemoryStore().embeddings is None
    )
    assert scoped.store(index=index).embeddings is InMemoryStore(index=index).embeddings
    assert scoped.store(index=index).embeddings is index["embed"]


async def test_a_text_is_no_namespace_where_other_stores_take_its_letters(
    scoped: ScopedMemory, sqlite_store: SqliteStore, door: Door
):
    ours = scoped.store()
    for store in (ours, sqlite_store, InMemoryStore()):
        store.put(("users", "alice"), "k", {})
        store.put(("u", "s", "e", "r", "s"), "k", {})
        assert store.list_namespaces(prefix=("users",)) == [("users", "alice")]
        if store is not ours:
            assert store.list_namespaces(prefix="users") == [("u", "s", "e", "r", "s")]

    for options in ({"prefix": "users"}, {"suffix": "alice"}, {"prefix": "users.alice"}):
        with pytest.raises(ValueError, match=r'got str\. .* \("label",\)') as refused:
            await door(ours, "list_namespaces", **options)
        assert "users" not in str(refused.value)


# Ids of threads -----------------------------------------------------------------------------------

IDS = [7, 0, -7, 10**254, uuid.UUID(int=7), uuid.UUID(int=2**127)]


@pytest.mark.parametrize("thread_id", IDS, ids=lambda one: f"{type(one).__name__} {str(one)[:8]}")
async def test_an_integer_or_a_uuid_is_the_thread_that_its_text_names(
    scoped: ScopedMemory, sqlite_saver: SqliteSaver, door: Door, thread_id: Any
):
    text = str(thread_id)
    ours = scoped.checkpointer()
    for saver in (ours, sqlite_saver):
        stored = put(saver, at(thread_id), {"a": 1})
        saver.put_writes(stored, [("b", 2)], "task")
        assert len([*saver.list(at(text))]) == 1
        assert saver.get_tuple(at(text)).pending_writes == [("task", "b", 2)]
        assert saver.get_tuple(at(thread_id)).config == at(
            text, stored["configurable"]["checkpoint_id"]
        )
        saver.delete_thread(thread_id)
        assert saver.get_tuple(at(text)) is None

    await door(ours, "put", at(thread_id), checkpoint({"a": 1}), {}, {})
    assert len(await listed(door, ours, at(thread_id))) == 1
    assert [thread.id for thread in await door(ours, "threads")] == [text]
    assert await door(ours, "thread_size", thread_id) == ours.thread_size(text) > 0
    assert await door(ours, "verify_thread", thread_id) == 1
    await door(ours, "copy_thread", thread_id, 99)
    await door(ours, "prune", [thread_id, 99], strategy="delete")
    assert ours.threads() == []


def test_graphs_find_the_thread_of_an_integer_or_a_uuid_as_with_a_stock_saver(
    memory: IsolatedMemory, sqlite_saver: SqliteSaver
):
    for thread_id in IDS:
        for saver in (memory.checkpointer(), sqlite_saver):
            graph = chat().compile(checkpointer=saver)
            for spelled in (thread_id, str(thread_id)):
                config: RunnableConfig = {"configurable": {**SCOPE, "thread_id": spelled}}
                graph.invoke({"messages": [("user", "x")]}, config)
            config = {"configurable": {**SCOPE, "thread_id": thread_id}}
            assert len(graph.get_state(config).values["messages"]) == 4


@pytest.mark.parametrize("thread_id", [7, uuid.UUID(int=7)])
def test_runs_are_recorded_in_the_session_that_the_text_of_an_id_names(
    memory: IsolatedMemory, thread_id: Any
):
    named = {"thread_id": thread_id}
    for name, ids in (("thread", named), ("session", {"session_id": thread_id, "thread_id": "x"})):
        user = memory.scope(user_id=name, module_id="m")
        config: RunnableConfig = {
            "configurable": {**ids, "user_id": name, "module_id": "m"},
            "callbacks": [memory.callback_handler()],
        }
        (RunnableLambda(lambda said: said) | FakeListLLM(responses=["a"])).invoke("x", config)
        assert len(user.chat_history(str(thread_id)).messages) == 2
        for middleware in (memory.middleware(), user.middleware()):
            agent = create_agent(Scripted(says=echo), middleware=[middleware])
            agent.invoke(
                {"messages": [("user", "x")]}, config={"configurable": config["configurable"]}
            )
        assert len(user.chat_history(str(thread_id)).messages) == 6
    history = memory.session_history(**SCOPE, session_id=thread_id)
    history.add_user_message("x")
    assert memory.scope(**SCOPE).sessions()[0].id == str(thread_id)


def test_users_and_modules_are_texts(memory: IsolatedMemory):
    for wrong in (7, uuid.UUID(int=7)):
        for part in ("user_id", "module_id"):
            with pytest.raises(ScopeError, match=f"{part} must be a non-empty str"):
                memory.checkpointer().get_tuple(at("t", **{**SCOPE, part: wrong}))


async def test_a_text_is_no_list_of_ids(scoped: ScopedMemory, door: Door):
    saver = scoped.checkpointer()
    put(saver, at("a"), {})

    for name in ("prune", "delete_for_runs"):
        with pytest.raises(TypeError, match="must be a list of ids, got a str"):
            await door(saver, name, "abc")
    with pytest.raises(TypeError):
        await door(saver, "prune", "abc", strategy="delete")
    assert len(saver.threads()) == 1


# Moving in and out --------------------------------------------------------------------------------


class DeltaState(TypedDict):
    messages: Annotated[list[Any], DeltaChannel(_messages_delta_reducer, snapshot_frequency=3)]


def chat(state: Any = MessagesState) -> Any:
    """A graph that numbers its answers, and asks before the one on `ask`."""

    def answer(state: Any) -> Any:
        said = state["messages"]
        if said[-1].text == "ask":
            return {"messages": [AIMessage(f"you said {interrupt('what?')}")]}
        return {"messages": [AIMessage(f"answer {len(said)}")]}

    builder = StateGraph(state)
    builder.add_node("answer", answer)
    builder.add_edge(START, "answer")
    return builder


def move(source: BaseCheckpointSaver[Any], target: BaseCheckpointSaver[Any]) -> None:
    """Copy a thread with all its checkpoints and writes, oldest first: any saver into any."""
    for found in reversed([*source.list(THREAD)]):
        of_thread = {
            key: found.config["configurable"][key] for key in ("thread_id", "checkpoint_ns")
        }
        parent = found.parent_config or {"configurable": of_thread}
        versions = found.checkpoint["channel_versions"]
        stored = target.put(parent, found.checkpoint, found.metadata, versions)
        by_task: dict[str, list[tuple[str, Any]]] = {}
        for task, channel, value in found.pending_writes or ():
            by_task.setdefault(task, []).append((channel, value))
        for task, writes in by_task.items():
            target.put_writes(stored, writes, task)


def say(graph: Any, *said: str) -> None:
    for text in said:
        graph.invoke({"messages": [("user", text)]}, THREAD)


def history(graph: Any) -> list[Any]:
    return [
        ([m.text for m in state.values["messages"]], state.next, state.metadata["step"])
        for state in graph.get_state_history(THREAD)
        if state.values
    ]


@pytest.fixture(params=["sqlite", "memory"])
def theirs(request: pytest.FixtureRequest) -> BaseCheckpointSaver[Any]:
    if request.param == "memory":
        return InMemorySaver()
    saver: SqliteSaver = request.getfixturevalue("sqlite_saver")
    return saver


@pytest.mark.parametrize("state", [MessagesState, DeltaState])
@pytest.mark.parametrize("way", ["out", "in", "out and in"])
def test_a_thread_goes_on_under_the_saver_that_it_was_moved_to(
    scoped: ScopedMemory, theirs: BaseCheckpointSaver[Any], state: Any, way: str
):
    ours = scoped.checkpointer()
    another = scoped.module("other").checkpointer()
    savers = {"out": [ours, theirs], "in": [theirs, ours], "out and in": [ours, theirs, another]}
    graphs = [chat(state).compile(checkpointer=saver) for saver in savers[way]]
    expected = ["1", "answer 1", "2", "answer 3", "3", "answer 5"]
    say(graphs[0], "1", "2", "3")

    for before, after in itertools.pairwise(graphs):
        # An answer that is waited for, and another branch from an earlier checkpoint.
        say(before, "ask")
        move(before.checkpointer, after.checkpointer)
        assert history(after) == history(before)
        assert after.get_state(THREAD).interrupts[0].value == "what?"

        after.invoke(Command(resume="so"), THREAD)
        say(after, "4")

        expected += ["ask", "you said so", "4", f"answer {len(expected) + 3}"]
        assert [m.text for m in after.get_state(THREAD).values["messages"]] == expected
        earlier = [*after.get_state_history(THREAD)][-3]
        branch = after.invoke({"messages": [("user", "other")]}, earlier.config)
        said = [m.text for m in earlier.values["messages"]]
        assert [m.text for m in branch["messages"]] == [*said, "other", f"answer {len(said) + 1}"]
        # The branch is the thread's latest now; go on from before it.
        expected = [m.text for m in branch["messages"]]


def test_versions_are_of_the_form_that_stock_savers_make_and_compare_with_theirs(
    scoped: ScopedMemory, sqlite_saver: SqliteSaver
):
    ours = scoped.checkpointer()
    versions: list[Any] = [None]
    for saver in (ours, sqlite_saver, ours, InMemorySaver(), ours):
        versions.append(saver.get_next_version(versions[-1], None))

    assert versions[1:] == sorted(versions[1:])
    assert [int(version.split(".")[0]) for version in versions[1:]] == [1, 2, 3, 4, 5]
    assert all(re.fullmatch(r"\d{32}\.[\d.e-]{16,}", version) for version in versions[1:])


VERSIONS = [
    "00000000000000000000000000000002.0.8444218515250481",
    f"{2:032}.{1e-05:016}",
    f"{2**63:032}.{0.5:016}",
    f"{10**40}.0.5",
    "00000000000000000000000000000002.0.84",
    "2.0.8444218515250481",
    "٢.0.5",
    "-1.5",
    "nan",
    ".",
    "",
    7,
    0.5,
    f"{3:032}.{float('nan'):016}",
]


async def test_versions_come_back_to_the_letter_whatever_form_they_have(
    scoped: ScopedMemory, door: Door
):
    saver = scoped.checkpointer()
    versions = {f"channel {number}": version for number, version in enumerate(VERSIONS)}
    new = checkpoint({}, channel_versions=versions, versions_seen={"node": versions, "empty": {}})

    stored = await door(saver, "put", at("t"), new, {}, {})

    found = (await door(saver, "get_tuple", stored)).checkpoint
    assert found == new
    assert [type(version) for version in found["channel_versions"].values()] == [
        type(version) for version in VERSIONS
    ]
