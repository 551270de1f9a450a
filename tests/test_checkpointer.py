"""The checkpointer against LangGraph's contract: its conformance suite, and its saver in memory."""

import copy
import itertools
import random
import threading
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    RemoveMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.types import Interrupt, Send

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope, ScopedMemory
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import AddressTaken, ScopeError
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.test_checkpoint_codecs import NAMES
from tests.threads import (
    ALLOWED,
    Color,
    Model,
    Point,
    at,
    by_place,
    checkpoint,
    comparable,
    count,
    id_of,
    listed,
    put,
    same,
    size_in_database,
    values_at,
)

_numbers = itertools.count()


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def saver(scoped: ScopedMemory) -> IsolatedCheckpointSaver:
    return scoped.checkpointer(allow=ALLOWED)


# The contract -------------------------------------------------------------------------------------


async def test_every_capability_of_the_conformance_suite_is_detected_and_passed(
    memory: IsolatedMemory,
):
    @checkpointer_test(name="IsolatedCheckpointSaver")
    async def ours() -> AsyncIterator[IsolatedCheckpointSaver]:
        yield memory.scope(user_id=f"u{next(_numbers)}", module_id="m").checkpointer()

    report = await validate(ours)

    assert report.passed_all()
    assert all(result.detected for result in report.results.values())
    assert {name: result.tests_passed for name, result in report.results.items()} == {
        "put": 17,
        "put_writes": 10,
        "get_tuple": 10,
        "list": 16,
        "delete_thread": 5,
        "delete_for_runs": 7,
        "copy_thread": 8,
        "prune": 8,
    }


class Reference(InMemorySaver):
    """LangGraph's saver in memory, with the capabilities that it lacks."""

    def __init__(self) -> None:
        super().__init__(serde=JsonPlusSerializer(allowed_msgpack_modules=NAMES))

    def has(self, thread_id: str) -> bool:
        stored = any(self.storage[thread_id].values()) if thread_id in self.storage else False
        return stored or any(key[0] == thread_id and self.writes[key] for key in self.writes)

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        for namespace, stored in list(self.storage[source_thread_id].items()):
            self.storage[target_thread_id][namespace].update(stored)
        for table in (self.writes, self.blobs):
            for key, value in list(table.items()):
                if key[0] == source_thread_id:
                    copied = dict(value) if isinstance(value, dict) else value
                    table[(target_thread_id, *key[1:])] = copied  # type: ignore[index]

    def remove(self, thread_id: str, namespace: str, checkpoint_id: str) -> None:
        del self.storage[thread_id][namespace][checkpoint_id]
        self.writes.pop((thread_id, namespace, checkpoint_id), None)

    def keep_last(self, thread_id: str, number: int) -> None:
        for namespace, stored in self.storage[thread_id].items():
            for checkpoint_id in sorted(stored, reverse=True)[number:]:
                self.remove(thread_id, namespace, checkpoint_id)

    def delete_for_runs(self, run_ids: Any) -> None:
        for found in list(self.list(None)):
            if found.metadata.get("run_id") in run_ids:
                where = found.config["configurable"]
                self.remove(where["thread_id"], where["checkpoint_ns"], where["checkpoint_id"])


THREADS = ["one", "one", "one", "two"]
NAMESPACES = ["", "", "", "sub:1"]
RUNS = ["run-a", "run-b", None]
TASKS = [str(uuid.UUID(int=number)) for number in range(3)]
SPECIAL = ["__error__", "__interrupt__", "__resume__", "__scheduled__"]
# Any value at all is the matter of the tests of values.
VALUES: list[Any] = [
    None, b"", "", 0, -1.5, True, [], {}, "large " * 50, b"\x00" * 300, ["large " * 50, "small"],
    {"a": {"b": ["large " * 50]}}, [[["x" * 200]], "x" * 200], (1, ("two", b"3")), {1, 2},
    frozenset(), deque([1, 2]), uuid.UUID(int=7), datetime(2026, 1, 2, tzinfo=UTC), Color.RED,
    [0.5] * 300, {1: "int", "1": "text"}, Point(1, [HumanMessage("in a dataclass", id="d")]),
    Model(name="n", inner={"k": [1]}), [Send("node", {"messages": [HumanMessage("sent")]})],
    Document("text " * 60, metadata={"n": [1]}), [Interrupt(value={"ask": ["?"]}, id="i")],
    [RemoveMessage(id="a")], AIMessage("b", tool_calls=[{"name": "f", "args": {}, "id": "c"}]),
    [ToolMessage("c", tool_call_id="c", artifact={"rows": [[1]]})], float("inf"), 2**64 - 1,
]  # fmt: skip


class Life:
    """Anything that can be done to threads, done to ours and to the reference alike.

    Ours is done through two memories over one database, as two processes would: each finds the
    other's changes behind what it knows. One of them keeps what it opened.
    """

    def __init__(self, memories: list[IsolatedMemory], chance: random.Random) -> None:
        user = f"u{next(_numbers)}"
        self.savers = [
            memory.scope(user_id=user, module_id="m").checkpointer(allow=ALLOWED)
            for memory in memories
        ]
        self.reference = Reference()
        self.chance = chance
        self.made: list[RunnableConfig] = []
        self.living: list[AnyMessage] = []
        self.versions = itertools.count(1)

    @property
    def ours(self) -> IsolatedCheckpointSaver:
        return self.chance.choice(self.savers)

    def both(self, call: Callable[[Any], Any]) -> None:
        call(self.ours)
        call(self.reference)

    def value(self) -> Any:
        return copy.deepcopy(self.chance.choice(VALUES))

    def somewhere(self) -> RunnableConfig:
        """A checkpoint to go on from: the newest of its namespace more often than others."""
        thread, namespace = self.chance.choice(THREADS), self.chance.choice(NAMESPACES)
        stored = sorted(self.reference.storage[thread][namespace])[-self.chance.choice([1, 1, 4]) :]
        return at(thread, stored[0] if stored else None, namespace)

    def thread(self) -> str:
        return self.chance.choice(THREADS)

    def put(self, channels: dict[str, Any]) -> None:
        new = checkpoint(channels)
        versions = {channel: next(self.versions) for channel in channels}
        new["channel_versions"] = versions  # type: ignore[typeddict-item]
        metadata: Any = {"source": "loop", "step": len(self.made)}
        if run := self.chance.choice(RUNS):
            metadata["run_id"] = run
        config = self.somewhere()
        self.both(lambda saver: saver.put(config, new, metadata, versions))
        where = config["configurable"]
        self.made.append(at(where["thread_id"], new["id"], where["checkpoint_ns"]))

    def put_any_values(self) -> None:
        names = self.chance.sample(["a", "b", "__start__"], self.chance.randint(0, 3))
        self.put({name: self.value() for name in names})

    def put_a_longer_conversation(self) -> None:
        for _ in range(self.chance.randint(0, 3)):
            text = self.chance.choice(["a", "b", "large " * 50])
            self.living.append(HumanMessage(text, id=self.chance.choice([None, "a", "b"])))
        self.put({"messages": [*self.living]})

    def put_a_message_changed_in_place(self) -> None:
        if self.living:
            message = self.chance.choice(self.living)
            message.content = str(self.chance.randint(0, 3))
            message.additional_kwargs.setdefault("changes", []).append({"to": [message.content]})
        self.put({"messages": [*self.living], "last": self.living[-1:]})

    def put_a_summary(self) -> None:
        kept = self.living[-self.chance.randint(1, 3) :]
        self.living = [AIMessage("summary"), *kept]
        self.put({"messages": [*self.living]})

    def put_writes(self) -> None:
        channels = [*SPECIAL, "a", "b", "c", "branch:to:x"]
        names = self.chance.sample(channels, self.chance.randint(0, 3))
        writes = [(name, self.value()) for name in names]
        config = self.somewhere()
        where = config["configurable"]
        ahead = self.chance.random() < 0.3 or "checkpoint_id" not in where
        if ahead:
            config = at(where["thread_id"], str(uuid6()), where["checkpoint_ns"])
        task = self.chance.choice(TASKS)
        self.both(lambda saver: saver.put_writes(config, writes, task, f"~path of {task}"))
        if ahead and self.chance.random() < 0.8:
            late = checkpoint({}, id=id_of(config))
            self.both(lambda saver: saver.put(at(**{**where, "checkpoint_id": None}), late, {}, {}))

    def copy(self) -> None:
        source, target = self.thread(), self.thread()
        if self.reference.has(target) and self.reference.has(source):
            with pytest.raises(AddressTaken):
                self.ours.copy_thread(source, target)
        else:
            self.both(lambda saver: saver.copy_thread(source, target))

    def delete(self) -> None:
        thread = self.thread()
        self.both(lambda saver: saver.delete_thread(thread))

    def prune(self) -> None:
        thread, number = self.thread(), self.chance.choice([1, 1, 2, 4])
        self.ours.prune([thread], keep_last=number)
        self.reference.keep_last(thread, number)

    def delete_for_runs(self) -> None:
        runs = [self.chance.choice(RUNS[:2])]
        self.both(lambda saver: saver.delete_for_runs(runs))

    def read(self) -> None:
        config = self.somewhere()
        if self.chance.random() < 0.5:
            config["configurable"].pop("checkpoint_id", None)
        mine, theirs = self.ours.get_tuple(config), self.reference.get_tuple(config)
        assert same(comparable(mine), comparable(theirs))
        if mine and "messages" in mine.checkpoint["channel_values"]:
            # What was read goes on living, as it does in a graph.
            self.living = mine.checkpoint["channel_values"]["messages"]

    def list_some(self) -> None:
        run = self.chance.choice(RUNS)
        options: dict[str, Any] = {
            "limit": self.chance.choice([None, 0, 1, 3]), "filter": {"run_id": run} if run else None
        }  # fmt: skip
        if self.made and self.chance.random() < 0.5:
            options["before"] = at("any", id_of(self.chance.choice(self.made)))
        config = self.somewhere()
        config["configurable"].pop("checkpoint_id", None)
        mine, theirs = (list(s.list(config, **options)) for s in (self.ours, self.reference))
        assert same([*map(comparable, mine)], [*map(comparable, theirs)])

    STEPS: ClassVar = {
        put_any_values: 3, put_a_longer_conversation: 5, put_a_message_changed_in_place: 3,
        put_a_summary: 1, put_writes: 5, copy: 1, delete: 1, prune: 2, delete_for_runs: 1,
        read: 5, list_some: 2,
    }  # fmt: skip

    def step(self) -> None:
        [step] = self.chance.choices([*self.STEPS], [*self.STEPS.values()])
        note(step.__name__)
        step(self)

    def check(self) -> None:
        for saver in self.savers:
            for thread in set(THREADS):
                everywhere: RunnableConfig = {"configurable": {"thread_id": thread}}
                mine, theirs = (by_place(s.list(everywhere)) for s in (saver, self.reference))
                assert same(mine, theirs)
                saver.verify_thread(thread)
            assert same(by_place(saver.list(None)), by_place(self.reference.list(None)))
            rows = {str(thread.id): thread for thread in saver.threads()}
            assert set(rows) == {thread for thread in THREADS if self.reference.has(thread)}
            for thread, row in rows.items():
                assert row.size == size_in_database(saver, thread)
                assert row.checkpoints == sum(map(len, self.reference.storage[thread].values()))


@given(chance=st.randoms(use_true_random=True))
@settings(
    max_examples=6,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
def test_any_sequence_of_calls_leads_where_the_saver_in_memory_leads(
    memory: IsolatedMemory, database_url: str, chance: random.Random
):
    key = LocalRootKey(ROOT_KEY)
    with IsolatedMemory(database_url, root_key=key, plaintext_cache_seconds=600) as warm:
        life = Life([memory, warm], chance)
        for _ in range(6):
            for _ in range(20):
                life.step()
            life.check()


# Putting and getting ------------------------------------------------------------------------------


async def test_a_checkpoint_comes_back_whole(saver: IsolatedCheckpointSaver, door: Door):
    first = await door(saver, "put", at("t"), checkpoint({}), {}, {})
    new = checkpoint(
        {"messages": [HumanMessage("a")], "n": 1, "none": None, "empty": b""},
        versions_seen={"n": {"x": 1}},
        pending_sends=[],
    )
    stored = await door(saver, "put", first, new, {"source": "loop", "step": 3}, {})

    found = await door(saver, "get_tuple", at("t"))

    assert found.config == stored == at("t", new["id"])
    assert found.parent_config == first
    assert found.checkpoint == new
    assert same(found.checkpoint["channel_values"], new["channel_values"])
    assert found.metadata == {"source": "loop", "step": 3}
    assert found.pending_writes == []
    assert await door(saver, "get_tuple", stored) == found
    assert await door(saver, "get_tuple", at("t", first["configurable"]["checkpoint_id"]))
    assert await door(saver, "get_tuple", at("t", str(uuid6()))) is None
    assert await door(saver, "get_tuple", at("t", None, "other")) is None
    assert await door(saver, "get_tuple", at("other")) is None
    assert await door(saver, "get", at("t")) == found.checkpoint


async def test_the_scalars_of_the_config_are_part_of_the_metadata_as_langgraph_has_it(
    saver: IsolatedCheckpointSaver, door: Door
):
    config = at("t", None, "", tenant="x", number=3, secret={"no": "scalar"}, __hidden="no")
    config["metadata"] = {"run_id": "r", "tags": ["no scalar"]}
    await door(saver, "put", config, checkpoint({}), {"source": "input"}, {})

    found = await door(saver, "get_tuple", at("t"))

    assert found.metadata == {"source": "input", "run_id": "r", "tenant": "x", "number": 3}


ID = "0189f7ea-ae2c-7809-8aeb-b819cf5e9e7f"
NO_UUIDS: list[Any] = [
    "1", "latest", "my secret", ID.upper(), ID.replace("-", ""), 7, uuid.UUID(ID), f"{{{ID}}}",
    f"urn:uuid:{ID}", f"{ID} ", [ID],
]  # fmt: skip


async def test_a_checkpoint_id_that_is_no_uuid_is_refused_everywhere(
    saver: IsolatedCheckpointSaver, door: Door
):
    """Ids are visible in the database: they must not carry anything else."""
    stored = put(saver, at("t"), {})
    for checkpoint_id in NO_UUIDS:
        bad = at("t", checkpoint_id)
        for refused in (
            door(saver, "put", at("t"), checkpoint({}, id=checkpoint_id), {}, {}),
            door(saver, "put", bad, checkpoint({}), {}, {}),
            door(saver, "put_writes", bad, [("a", 1)], "task"),
            door(saver, "get_tuple", bad),
            door(saver, "get_delta_channel_history", config=bad, channels=["a"]),
            listed(door, saver, bad),
            listed(door, saver, at("t"), before=bad),
        ):
            with pytest.raises(ScopeError) as refusal:
                await refused
            assert str(checkpoint_id) not in str(refusal.value)

    assert [found.config for found in saver.list(None)] == [stored]


NO_IDS: list[Any] = [None, "", True, 1.5, 10**255, -(10**9999), "x" * 256, "a\x00", b"t", ["t"]]


async def test_a_thread_id_that_is_no_id_is_refused_everywhere(
    saver: IsolatedCheckpointSaver, door: Door
):
    for thread_id in NO_IDS:
        for refused in (
            door(saver, "put", at(thread_id), checkpoint({}), {}, {}),
            door(saver, "put_writes", at(thread_id, ID), [("a", 1)], "task"),
            door(saver, "get_tuple", at(thread_id)),
            door(saver, "delete_thread", thread_id),
            door(saver, "copy_thread", thread_id, "other"),
            door(saver, "copy_thread", "other", thread_id),
            door(saver, "prune", [thread_id]),
            door(saver, "thread_size", thread_id),
            door(saver, "verify_thread", thread_id),
        ):
            with pytest.raises(ScopeError):
                await refused
        if thread_id is not None:
            with pytest.raises(ScopeError):
                await listed(door, saver, at(thread_id))
    with pytest.raises(ScopeError, match="checkpoint_ns must be a str"):
        await door(saver, "get_tuple", at("t", None, 7))  # type: ignore[arg-type]


async def test_a_checkpoint_put_again_replaces_what_stood_there(
    saver: IsolatedCheckpointSaver, door: Door
):
    parent = put(saver, at("t"), {})
    new = checkpoint({"a": ["first " * 100]})
    config = await door(saver, "put", parent, new, {"step": 1}, {})
    await door(saver, "put_writes", config, [("a", 1)], "task")

    new["channel_values"] = {"a": ["second " * 100]}
    await door(saver, "put", parent, new, {"step": 2}, {})

    found = await door(saver, "get_tuple", config)
    assert found.checkpoint["channel_values"] == {"a": ["second " * 100]}
    assert found.metadata["step"] == 2
    assert found.pending_writes == [("task", "a", 1)]
    [thread] = saver.threads()
    assert thread.checkpoints == 2
    assert thread.size == size_in_database(saver, "t")


def test_versions_go_on_in_the_form_they_began_with(saver: IsolatedCheckpointSaver):
    first = saver.get_next_version(None, None)
    assert isinstance(first, str)
    assert int(first.split(".")[0]) == 1
    assert saver.get_next_version(41, None) == 42
    text = saver.get_next_version(f"{7:032}.0.5", None)
    assert isinstance(text, str)
    assert text > f"{7:032}.0.5"
    assert int(text.split(".")[0]) == 8


def test_what_is_stored_does_not_change_with_the_object_that_was_put(
    saver: IsolatedCheckpointSaver,
):
    values: dict[str, Any] = {"messages": [HumanMessage("a")], "list": [1]}
    config = put(saver, at("t"), values)

    values["messages"][0].content = "changed"
    values["list"].append(2)

    assert values_at(saver, config) == {"messages": [HumanMessage("a")], "list": [1]}
    read = values_at(saver, config)
    read["messages"][0].content = "changed"
    assert values_at(saver, config)["messages"] == [HumanMessage("a")]


# Writes -------------------------------------------------------------------------------------------


async def test_writes_come_in_the_order_of_task_path_task_and_index(
    saver: IsolatedCheckpointSaver, door: Door
):
    config = put(saver, at("t"), {})
    for task, path in (("b", "~2"), ("a", "~2"), ("c", "~1"), ("d", "")):
        writes = [(channel, f"{task}{channel}") for channel in ("x", "__error__", "y")]
        await door(saver, "put_writes", config, writes, task, path)

    found = await door(saver, "get_tuple", config)

    assert [write[0] for write in found.pending_writes] == [*"dddcccaaabbb"]
    assert found.pending_writes[:3] == [
        ("d", "__error__", "d__error__"), ("d", "x", "dx"), ("d", "y", "dy")
    ]  # fmt: skip
    [one] = await listed(door, saver, at("t"))
    assert one.pending_writes == found.pending_writes


async def test_the_first_write_of_a_task_stays_and_later_ones_join_it(
    saver: IsolatedCheckpointSaver, door: Door
):
    config = put(saver, at("t"), {})
    await door(saver, "put_writes", config, [("a", "first")], "task")
    await door(saver, "put_writes", config, [("a", "second"), ("b", "new")], "task")
    await door(saver, "put_writes", config, [("a", "third")], "task")

    found = await door(saver, "get_tuple", config)

    assert found.pending_writes == [("task", "a", "first"), ("task", "b", "new")]


@pytest.mark.parametrize("channel", SPECIAL)
async def test_writes_to_special_channels_give_way_to_later_ones(
    saver: IsolatedCheckpointSaver, door: Door, channel: str
):
    config = put(saver, at("t"), {})
    await door(saver, "put_writes", config, [("a", "kept"), (channel, "first")], "task")
    await door(saver, "put_writes", config, [(channel, "second")], "task")
    await door(saver, "put_writes", config, [("a", "too late"), (channel, "third")], "task")

    found = await door(saver, "get_tuple", config)

    assert found.pending_writes == [("task", channel, "third"), ("task", "a", "kept")]


async def test_writes_may_come_before_their_checkpoint(saver: IsolatedCheckpointSaver, door: Door):
    new = checkpoint({"messages": [HumanMessage("a", id="1")]})
    config = at("t", new["id"])
    await door(saver, "put_writes", config, [("messages", HumanMessage("a", id="1"))], "task")
    assert await door(saver, "get_tuple", config) is None
    assert await listed(door, saver, at("t")) == []

    await door(saver, "put", at("t"), new, {}, {})

    found = await door(saver, "get_tuple", at("t"))
    assert found.pending_writes == [("task", "messages", HumanMessage("a", id="1"))]


async def test_no_writes_begin_no_thread(saver: IsolatedCheckpointSaver, door: Door):
    await door(saver, "put_writes", at("t", str(uuid6())), [], "task")

    assert saver.threads() == []
    with pytest.raises(ScopeError, match="needs a checkpoint_id"):
        await door(saver, "put_writes", at("t"), [("a", 1)], "task")


def test_rows_that_stand_there_already_are_no_matter_for_a_log(
    saver: IsolatedCheckpointSaver, caplog: pytest.LogCaptureFixture
):
    """psycopg warned of each, with the server's name: a resume stores writes again and again."""
    config = put(saver, at("t"), {})
    for number in range(40):
        saver.put_writes(config, [("a", "x" * 200 * number)], "task")
        saver.put(at("t"), checkpoint({"n": number}, id=id_of(config)), {}, {})

    assert caplog.messages == []


# Lists --------------------------------------------------------------------------------------------


async def test_a_list_goes_on_over_any_number_of_pages(saver: IsolatedCheckpointSaver, door: Door):
    config, ids = at("t"), []
    for number in range(230):
        config = put(saver, config, {"n": number, "text": ["long " * 40]}, step=number)
        ids.append(id_of(config))
    saver.put_writes(config, [("a", 1)], "task")

    found = await listed(door, saver, at("t"))

    assert [id_of(one.config) for one in found] == ids[::-1]
    assert [one.metadata["step"] for one in found] == [*range(229, -1, -1)]
    assert [one.parent_config and id_of(one.parent_config) for one in found] == [
        *ids[-2::-1], None
    ]  # fmt: skip
    assert [len(one.pending_writes or []) for one in found] == [1] + [0] * 229
    for limit in (0, 1, 99, 100, 101, 200, 500):
        assert len(await listed(door, saver, at("t"), limit=limit)) == min(limit, 230)
    before = {"configurable": {"checkpoint_id": ids[120]}}
    assert len(await listed(door, saver, at("t"), before=before)) == 120
    newest = await listed(door, saver, at("t"), before=before, limit=1)
    assert [one.metadata["step"] for one in newest] == [119]
    [odd] = await listed(door, saver, at("t"), filter={"step": 3})
    assert id_of(odd.config) == ids[3]
    [one] = await listed(door, saver, at("t", ids[17]))
    assert id_of(one.config) == ids[17]
    assert await listed(door, saver, at("t", ids[17]), before=at("t", ids[17])) == []


async def test_a_list_takes_a_namespace_a_thread_or_all_that_the_scope_has(
    saver: IsolatedCheckpointSaver, door: Door
):
    places = [(thread, ns) for thread in ("one", "two") for ns in ("", "sub:1", "sub:1|deep:2")]
    for thread, namespace in places:
        for number in range(2):
            put(saver, at(thread, None, namespace), {"n": number}, kind=thread)

    async def found(config: RunnableConfig | None, **options: Any) -> set[tuple[str, str]]:
        rows = await listed(door, saver, config, **options)
        wheres = [one.config["configurable"] for one in rows]
        return {(where["thread_id"], where["checkpoint_ns"]) for where in wheres}

    assert await found(None) == set(places)
    assert len(await listed(door, saver, None)) == 12
    assert await found({"configurable": {"thread_id": "one"}}) == set(places[:3])
    assert await found(at("one")) == {("one", "")}
    assert await found(at("two", None, "sub:1")) == {("two", "sub:1")}
    assert await found(at("two", None, "sub")) == set()
    assert await found(None, filter={"kind": "two"}) == set(places[3:])
    assert len(await listed(door, saver, None, limit=5)) == 5
    ids = [id_of(one.config) for one in await listed(door, saver, None)]
    assert ids == sorted(ids, reverse=True)


def test_a_list_holds_nothing_open_while_it_is_consumed(saver: IsolatedCheckpointSaver):
    """Other savers hold their lock until the generator is closed."""
    for number in range(150):
        put(saver, at("t"), {"n": number})
    going = saver.list(at("t"))
    next(going)

    done = threading.Thread(target=lambda: put(saver, at("t"), {"n": 1}))
    done.start()
    done.join(10)

    assert not done.is_alive()
    assert len(list(going)) == 149


async def test_tuples_of_a_list_share_the_messages_they_have_in_common(
    saver: IsolatedCheckpointSaver, door: Door
):
    said: list[AnyMessage] = []
    for number in range(5):
        said = [*said, HumanMessage(str(number))]
        put(saver, at("t"), {"messages": said})

    newest, older, *_ = await listed(door, saver, at("t"))

    new, old = (one.checkpoint["channel_values"]["messages"] for one in (newest, older))
    assert new[:4] == old
    assert new[0] is old[0]


# What changes in place ----------------------------------------------------------------------------


def conversation() -> list[AnyMessage]:
    return [
        HumanMessage("a", id="1", additional_kwargs={"deep": {"list": [{"leaf": 1}]}}),
        AIMessage(
            [{"type": "text", "text": "b", "more": {"of": [1]}}],
            id="2",
            tool_calls=[{"name": "f", "args": {"x": [1]}, "id": "c"}],
        ),
        ToolMessage("c", id="3", tool_call_id="c", artifact={"rows": [[1]]}),
    ]


IN_PLACE: dict[str, Callable[[Any], object]] = {
    "content": lambda m: setattr(m[0], "content", "new"),
    "additional_kwargs": lambda m: m[0].additional_kwargs["deep"]["list"][0].update(leaf=2),
    "content block": lambda m: m[1].content[0]["more"]["of"].append(2),
    "tool call": lambda m: m[1].tool_calls[0]["args"]["x"].append(2),
    "artifact": lambda m: m[2].artifact["rows"][0].append(2),
}


@pytest.mark.parametrize("origin", ["put", "read", "read by another"])
def test_a_message_changed_in_place_is_stored_anew_and_the_others_are_not(
    memory: IsolatedMemory, database_url: str, attacker: Attacker, origin: str
):
    scope = Scope("alice", "tutor")
    first = memory.scope(scope).checkpointer()
    with IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY)) as other:
        second = other.scope(scope).checkpointer() if origin == "read by another" else first
        for number, (change, apply) in enumerate(IN_PLACE.items(), 1):
            messages = conversation()
            config = put(first, at(change), {"messages": messages})
            if origin != "put":
                messages = values_at(second, config)["messages"]

            apply(messages)
            changed = put(second, config, {"messages": messages})

            assert same(values_at(first, changed)["messages"], messages)
            assert same(values_at(first, config)["messages"], conversation())
            assert count(attacker) == 4 * number


def test_what_has_not_changed_is_not_stored_again(
    saver: IsolatedCheckpointSaver, attacker: Attacker
):
    values = {
        "messages": conversation(),
        "documents": [Document("text " * 50, metadata={"n": 1}), Document("more " * 50)],
        "files": {"a.txt": "a" * 500, "b.txt": "b" * 500},
        "vector": [0.5] * 500,
    }
    config = put(saver, at("t"), values)
    before = count(attacker)

    for _ in range(3):
        config = put(saver, config, values)
        config = put(saver, config, values_at(saver, config))
        put(saver, at("t", None, "sub:1"), {"__start__": values, "copy": values["messages"]})
        saver.put_writes(config, list(values.items()), "task")

    assert count(attacker) == before == 3 + 2 + 2 + 1
    values["documents"][0].metadata["n"] = 2  # type: ignore[attr-defined]
    values["files"]["a.txt"] += "!"  # type: ignore[index, call-overload]
    config = put(saver, config, values)
    assert same(values_at(saver, config), values)
    assert count(attacker) == before + 2
