"""Threads and items of LangGraph's own savers and stores are read whole, and run nothing."""

import shutil
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import PostgresStore
from langgraph.store.sqlite import SqliteStore

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers import (
    CheckpointerSource,
    Field,
    Import,
    Mapping,
    Rejected,
    SourceSpec,
    StoreSource,
)
from langmem_isolated.importers.langgraph import SPECS
from tests import langgraph_threads as threads
from tests.killed_imports import outlives_kills
from tests.test_stock_serializer import crafted


@pytest.fixture(scope="module")
def sqlite_threads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of `SqliteSaver` with two threads; tests that change it copy it."""
    path = tmp_path_factory.mktemp("savers") / "checkpoints.sqlite"
    with SqliteSaver.from_conn_string(str(path)) as saver:
        threads.fill(saver)
    return path


@dataclass
class Savers:
    """A saver of LangGraph with two threads, how it is moved in, and raw SQL for an attacker."""

    kind: str
    location: str
    saver: BaseCheckpointSaver[Any]
    run: Callable[..., Any]

    def source(self, **options: Any) -> Any:
        spec = next(spec for spec in SPECS if spec.kind == self.kind)
        return spec.make(self.location, **{"allow": threads.ALLOW, **options})

    def read(self, **options: Any) -> dict[str, list[Any]]:
        with self.source(**options) as source:
            return threads.read(source)

    @property
    def writes(self) -> tuple[str, str]:
        """The table of what tasks wrote, and its column of values."""
        is_sqlite = self.kind == "sqlite-saver"
        return ("writes", "value") if is_sqlite else ("checkpoint_writes", "blob")

    def put_state(self, stored: bytes) -> None:
        """In place of the newest state of bob's thread."""
        table, column, key, where = (
            ("checkpoints", "checkpoint", "checkpoint_id", "")
            if self.kind == "sqlite-saver"
            else ("checkpoint_blobs", "blob", "version", "AND channel = 'messages'")
        )
        where = f"thread_id = 'bob-1' AND checkpoint_ns = '' {where}"
        self.run(
            f"UPDATE {table} SET {column} = ? WHERE {where} "
            f"AND {key} = (SELECT max({key}) FROM {table} WHERE {where})",
            (stored,),
        )


@pytest.fixture(params=["sqlite", "postgres"])
def savers(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite_threads: Path
) -> Iterator[Savers]:
    if request.param == "sqlite":
        path = shutil.copy(sqlite_threads, tmp_path / "copied.sqlite")
        with (
            SqliteSaver.from_conn_string(str(path)) as saver,
            closing(sqlite3.connect(path, isolation_level=None)) as raw,
        ):
            yield Savers("sqlite-saver", str(path), saver, raw.execute)
        return
    url = request.getfixturevalue("postgres_url")
    with (
        PostgresSaver.from_conn_string(url) as saver,
        psycopg.connect(url, autocommit=True) as raw,
    ):
        saver.setup()
        threads.fill(saver)
        yield Savers(
            "postgres-saver",
            url,
            saver,
            lambda sql, values=(): raw.execute(sql.replace("?", "%s"), values),
        )


def rejects(found: dict[str, list[Any]]) -> list[Rejected]:
    return [one for of in found.values() for one in of if isinstance(one, Rejected)]


# --- attacks --------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_crafted_rows_run_nothing_and_are_reported_with_their_place(savers: Savers, tmp_path: Path):
    """Each is what a task wrote: LangGraph's own saver runs it when its checkpoint is read."""
    ran = tmp_path / "ran"
    rows = crafted(f"touch {ran}")
    clean = savers.read()
    table, column = savers.writes
    for number, (kind, stored) in enumerate(rows.values()):
        savers.run(
            f"INSERT INTO {table} (thread_id, checkpoint_ns, checkpoint_id, task_id, idx, channel,"
            f" type, {column}) SELECT thread_id, checkpoint_ns, max(checkpoint_id), 'task', ?, "
            "'log', ?, ? FROM checkpoints WHERE thread_id = 'bob-1' AND checkpoint_ns = '' "
            "GROUP BY thread_id, checkpoint_ns",
            (number, kind, stored),
        )

    found = savers.read()

    assert not ran.exists()
    assert len(rejects(found)) == len(rows)
    assert {one.place.partition(", ")[0] for one in rejects(found)} == {table}
    kept = {thread: [o for o in of if not isinstance(o, Rejected)] for thread, of in found.items()}
    assert kept == clean
    with pytest.raises((NotImplementedError, ValueError)):
        [*savers.saver.list(None)]
    assert ran.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_crafted_state_runs_nothing_and_the_rest_of_its_thread_goes_on(
    savers: Savers, tmp_path: Path
):
    ran = tmp_path / "ran"
    whole = len(savers.read()["bob-1"])
    savers.put_state(b"\x81\xa1a" + crafted(f"touch {ran}")["in a set"][1])

    found = savers.read()

    assert not ran.exists()
    broken = rejects(found)
    assert {one.place.partition(", ")[0] for one in broken} == {"checkpoints"}
    assert {one.reason for one in broken} == {broken[0].reason}
    assert "the class os.system is not among those that allow= names" in broken[0].reason
    assert 0 < len(broken) < whole == len(found["bob-1"])
    with suppress(Exception):
        [*savers.saver.list({"configurable": {"thread_id": "bob-1"}})]
    assert ran.exists()


# --- threads --------------------------------------------------------------------------------------


def test_a_saver_is_read_as_langgraph_reads_it_and_the_same_way_each_time(savers: Savers):
    listed = [*savers.saver.list(None)]

    with savers.source() as source:
        found, again = threads.read(source), threads.read(source)
        assert source.total() == len(listed)
        assert source.size() > 10_000

    assert found == again
    assert [*found] == ["alice-1", "bob-1"]
    assert threads.by_id(threads.tuples(found)) == threads.by_id(listed)


def test_parents_come_before_their_children_even_where_ids_say_otherwise(savers: Savers):
    """Ids rise within one process alone."""
    of_bob = "thread_id = 'bob-1' AND checkpoint_ns = ''"
    newest = f"(SELECT max(checkpoint_id) FROM checkpoints WHERE {of_bob})"
    first = f"(SELECT min(checkpoint_id) FROM checkpoints WHERE {of_bob})"
    for child, parent in ((first, newest), (newest, "NULL")):
        savers.run(
            f"UPDATE checkpoints SET parent_checkpoint_id = {parent} "
            f"WHERE {of_bob} AND checkpoint_id = {child}"
        )

    found = [one for one in savers.read()["bob-1"] if not one.namespace]

    places = {one.id: number for number, one in enumerate(found)}
    assert found[0].id == max(places)
    assert all(one.parent_id is None or places[one.parent_id] < places[one.id] for one in found)


def test_mapping_rules_read_what_the_first_and_the_newest_checkpoint_say(savers: Savers):
    with savers.source() as source:
        fields = {unit.id: unit.fields for unit in source.units()}
    threads.say(threads.graph_on(savers.saver), "bob-1", "of somebody else", "mallory")
    with savers.source() as source:
        mixed = {unit.id: unit.fields for unit in source.units()}

    assert fields["alice-1"]["metadata"]["user_id"] == "alice"
    assert fields["bob-1"]["metadata"]["user_id"] == "bob"
    assert "step" not in fields["bob-1"]["metadata"]
    assert "user_id" not in mixed["bob-1"]["metadata"]


def refilled(found: dict[str, list[Any]]) -> InMemorySaver:
    """A saver that has nothing but what was read."""
    saver = InMemorySaver()
    for thread_id, checkpoints in found.items():
        for one in checkpoints:
            at = {"thread_id": thread_id, "checkpoint_ns": one.namespace}
            parent = {**at, "checkpoint_id": one.parent_id} if one.parent_id else at
            versions = one.checkpoint["channel_versions"]
            saver.put({"configurable": parent}, one.checkpoint, one.metadata, versions)
            for write in one.writes:
                stored = saver.serde.dumps_typed(write.value)
                row = (write.task_id, write.channel, stored, write.task_path)
                saver.writes[thread_id, one.namespace, one.id][write.task_id, write.index] = row
    return saver


@pytest.mark.parametrize("history", ["full", "latest"])
def test_a_thread_goes_on_from_what_was_read_and_a_pending_interrupt_is_answered(
    savers: Savers, history: str
):
    found = savers.read(history=history)
    graphs = threads.graph_on(savers.saver), threads.graph_on(refilled(found))

    for thread_id in found:
        theirs, ours = (g.get_state(threads.config(thread_id), subgraphs=True) for g in graphs)
        assert (theirs.values, theirs.next) == (ours.values, ours.next)
        assert theirs.interrupts == ours.interrupts
    theirs, ours = (threads.answer(graph, "alice-1", "yes") for graph in graphs)

    assert theirs["messages"] == ours["messages"]
    assert theirs["log"] == ours["log"]
    assert ours["mark"] == threads.Mark(3)


def test_the_latest_history_has_what_delta_channels_stand_on_and_no_more(savers: Savers):
    full, latest = savers.read(), savers.read(history="latest")

    def of_graph(found: dict[str, list[Any]]) -> list[str]:
        return [one.id for one in found["alice-1"] if not one.namespace]

    # One of the channels never had a snapshot; the calls of a subgraph that are done are left out.
    assert of_graph(latest) == of_graph(full)
    assert len({one.namespace for one in latest["alice-1"]}) == 2
    assert len({one.namespace for one in full["alice-1"]}) == 4
    assert {one.namespace for one in latest["bob-1"]} == {""}


def test_reading_changes_no_byte_of_a_file_and_leaves_nothing_beside_it(savers: Savers):
    folder = Path(savers.location).parent if savers.kind == "sqlite-saver" else None
    before = contents(folder)
    with savers.source() as source:
        threads.read(source)

    assert contents(folder) == before
    assert bool(before) is (folder is not None)


def contents(folder: Path | None) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.iterdir()} if folder else {}


# --- moved in -------------------------------------------------------------------------------------


@pytest.fixture
def moved_to(savers: Savers, tmp_path: Path, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    """A memory in another file, or in the database where the saver's own tables are."""
    is_sqlite = savers.kind == "sqlite-saver"
    url = f"sqlite:///{tmp_path}/ours.db" if is_sqlite else savers.location
    with IsolatedMemory(url, root_key=root_key) as memory:
        yield memory


OWNERS = Mapping(module="tutor", user=Field("metadata.user_id"))


def graph_of(memory: IsolatedMemory, user_id: str) -> Any:
    saver = memory.scope(user_id=user_id, module_id="tutor").checkpointer(strict=False)
    return threads.graph_on(saver)


def test_a_thread_that_was_moved_in_is_step_by_step_what_it_was_and_goes_on(
    savers: Savers, moved_to: IsolatedMemory, tmp_path: Path
):
    with savers.source() as source:
        moving = Import(moved_to, source, OWNERS, folder=tmp_path)
        first, second = moving.run(), moving.run()
    theirs, ours = threads.graph_on(savers.saver), graph_of(moved_to, "alice")

    before, after = ([*g.get_state_history(threads.config("alice-1"))] for g in (theirs, ours))
    assert len(after) == len(before) == 16
    for old, new in zip(before, after, strict=True):
        assert old._replace(config={}, parent_config=None, tasks=()) == new._replace(
            config={}, parent_config=None, tasks=()
        )
        assert [task[:5] for task in old.tasks] == [task[:5] for task in new.tasks]
    answered = [threads.answer(graph, "alice-1", "yes") for graph in (theirs, ours)]
    assert answered[0] == answered[1]
    assert [threads.say(graph, "alice-1", "again") for graph in (theirs, ours)]
    assert not graph_of(moved_to, "bob").get_state(threads.config("alice-1", "bob")).values
    assert (first.units, second.units) == ({"copied": 2}, {"present": 2})
    assert first.rejects == {}
    assert moved_to.verify().is_clean
    if savers.kind == "sqlite-saver":
        written = b"".join(path.read_bytes() for path in tmp_path.glob("ours.db*"))
        assert all(said not in written for said in (b"secret of bob", b"messages", b"alice-1"))


def test_the_latest_history_goes_on_where_it_is_moved_in(
    savers: Savers, moved_to: IsolatedMemory, tmp_path: Path
):
    with savers.source(history="latest") as source:
        moving = Import(moved_to, source, OWNERS, folder=tmp_path)
        moving.run()
    theirs, ours = threads.graph_on(savers.saver), graph_of(moved_to, "alice")

    assert threads.answer(theirs, "alice-1", "ok") == threads.answer(ours, "alice-1", "ok")
    assert moved_to.roll_back(moving.token).counts == {"thread": 1}
    assert not graph_of(moved_to, "bob").get_state(threads.config("bob-1", "bob")).values


# --- what is damaged, old or encrypted ------------------------------------------------------------


def test_broken_rows_are_reported_with_their_place_and_the_rest_goes_on(savers: Savers):
    clean = savers.read()
    table, column = savers.writes
    of_bob = "thread_id = 'bob-1' AND checkpoint_ns = ''"
    savers.run(f"UPDATE {table} SET {column} = ? WHERE {of_bob} AND channel = 'log'", (b"\xc1",))
    broken = "'[1'" if savers.kind == "sqlite-saver" else """'["a"]'"""
    savers.run(
        f"UPDATE checkpoints SET metadata = {broken} WHERE {of_bob} AND checkpoint_id = "
        f"(SELECT min(checkpoint_id) FROM checkpoints WHERE {of_bob})"
    )

    found = savers.read()

    reported = [one for one in found["bob-1"] if isinstance(one, Rejected)]
    assert found["alice-1"] == clean["alice-1"]
    assert [one.place.partition(", ")[0] for one in reported].count("checkpoints") == 1
    assert [one.place.partition(", ")[0] for one in reported].count(table) == sum(
        write.channel == "log"
        for one in clean["bob-1"]
        for write in one.writes
        if not one.namespace
    )
    whole = [one for one in found["bob-1"] if not isinstance(one, Rejected)]
    assert [one.id for one in whole] == [one.id for one in clean["bob-1"]][1:]
    assert all(write.channel != "log" for one in whole if not one.namespace for write in one.writes)


@pytest.mark.parametrize("savers", ["postgres"], indirect=True)
def test_a_checkpoint_whose_value_is_missing_beside_it_is_reported(savers: Savers):
    clean = savers.read()["bob-1"]
    at = [one for one in clean if not one.namespace][2]
    version = at.checkpoint["channel_versions"]["messages"]
    savers.run(
        "DELETE FROM checkpoint_blobs WHERE channel = 'messages' AND version = ?", (version,)
    )

    found = savers.read()["bob-1"]

    lost = [
        one.checkpoint["channel_versions"].get("messages") == version and not one.namespace
        for one in clean
    ]
    assert [isinstance(one, Rejected) for one in found] == lost
    assert sum(lost) >= 1


@pytest.mark.parametrize("savers", ["sqlite"], indirect=True)
def test_rows_of_other_types_than_text_are_reported(savers: Savers):
    savers.run("UPDATE checkpoints SET thread_id = x'ff' WHERE thread_id = 'bob-1'")
    savers.run(
        "UPDATE checkpoints SET checkpoint_ns = cast(x'ff' AS TEXT) WHERE checkpoint_id = "
        "(SELECT max(checkpoint_id) FROM checkpoints WHERE thread_id = 'alice-1')"
    )

    found = savers.read()

    assert [one.reason for one in found[""]] == ["its thread_id is bytes in place of text"]
    assert [one.reason for one in found["alice-1"] if isinstance(one, Rejected)] == [
        "its checkpoint_ns is bytes in place of text"
    ]


def test_an_older_file_without_paths_of_tasks_is_read(sqlite_threads: Path, tmp_path: Path):
    path = Path(shutil.copy(sqlite_threads, tmp_path / "old.sqlite"))
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        raw.execute("ALTER TABLE writes DROP COLUMN task_path")

    with SPECS[0].make(str(path), allow=threads.ALLOW) as source:
        found = threads.read(source)

    assert not rejects(found)
    with SPECS[0].make(str(sqlite_threads), allow=threads.ALLOW) as source:
        of_both = zip(threads.tuples(found), threads.tuples(threads.read(source)), strict=True)
    for old, new in of_both:
        assert old[:4] == new[:4]
        assert sorted(map(repr, old.pending_writes)) == sorted(map(repr, new.pending_writes))


def before_its_tool(savers: Savers) -> Any:
    """A checkpoint of Bob's, behind which tasks were sent to a tool."""
    graph = threads.graph_on(savers.saver)
    states = graph.get_state_history(threads.config("bob-1"))
    return savers.saver.get_tuple(next(one for one in states if "tool" in one.next).config)


def test_what_was_sent_to_tasks_before_version_4_stands_where_langgraph_looks_for_it(
    savers: Savers,
):
    """PostgresSaver of today puts it there as it reads; the file's rows are made older here."""
    listed = before_its_tool(savers)
    sends = listed.checkpoint["channel_values"].pop("__pregel_tasks")
    parent = listed.parent_config
    older = {**listed.checkpoint, "v": 3, "id": "1" * 36}
    older["channel_versions"].pop("__pregel_tasks")
    savers.saver.put(parent, older, {**listed.metadata}, older["channel_versions"])

    found = [one for one in savers.read()["bob-1"] if one.id == "1" * 36]

    assert found[0].checkpoint["channel_values"]["__pregel_tasks"] == sends


def test_a_checkpoint_of_before_version_4_whose_versions_have_no_order_is_reported(
    savers: Savers,
):
    listed = before_its_tool(savers)
    older = {**listed.checkpoint, "v": 3, "id": "1" * 36, "pending_sends": []}
    older["channel_values"].pop("__pregel_tasks")
    older["channel_versions"] = {"one": 1, "two": "2"}
    savers.saver.put(listed.parent_config, older, {**listed.metadata}, {})

    (rejected,) = rejects(savers.read())

    assert "versions" in rejected.reason


def test_what_a_task_wrote_is_moved_in_whatever_its_types_and_paths_are(
    savers: Savers, root_key: LocalRootKey, tmp_path: Path
):
    """A record of memory has bytes for a bytearray, and one path for a task."""
    latest = savers.saver.get_tuple(threads.config("bob-1"))
    savers.saver.put_writes(latest.config, [("a", bytearray(b"raw")), ("b", 1)], "task", "z")
    savers.saver.put_writes(latest.config, [("__error__", "none")], "task", "")
    savers.saver.put_writes(latest.config, [("c", 2)], "other", "y")

    with (
        IsolatedMemory(f"sqlite:///{tmp_path}/ours.db", root_key=root_key) as memory,
        savers.source() as source,
    ):
        moving = Import(memory, source, Mapping(user="bob", module="m"), folder=tmp_path)
        receipts = moving.run(), moving.run()
        ours = memory.scope(user_id="bob", module_id="m").checkpointer()
        found = ours.get_tuple(threads.config("bob-1", "bob")).pending_writes

    assert [receipt.units for receipt in receipts] == [{"copied": 2}, {"present": 2}]
    assert receipts[0].rejects == {}
    assert [write[1:] for write in found if write[0] == "task"] == [
        ("__error__", "none"),
        ("a", b"raw"),
        ("b", 1),
    ]
    assert ("other", "c", 2) in found


def test_encrypted_rows_open_with_the_key_and_are_reported_without(
    savers: Savers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    key = "sixteen bytes ok"
    savers.saver.serde = EncryptedSerializer.from_pycryptodome_aes(key=key.encode())
    threads.say(threads.graph_on(savers.saver), "carol-1", "sealed", "carol")
    (tmp_path / "key").write_text(f"{key}\n")
    monkeypatch.setenv("LANGGRAPH_AES_KEY", key)

    opened, closed = savers.read(key_file=tmp_path / "key"), savers.read()

    listed = savers.saver.list({"configurable": {"thread_id": "carol-1"}})
    of_carol = threads.by_id(threads.tuples({"carol-1": opened["carol-1"]}))
    assert of_carol == threads.by_id(listed)
    assert not rejects(opened)
    assert opened == savers.read(key_env="LANGGRAPH_AES_KEY")
    assert rejects(closed)
    assert all("encrypted, and no key was given" in one.reason for one in rejects(closed))
    assert key not in repr(rejects(closed))


def test_a_source_that_is_encrypted_is_refused_where_no_key_is_given(savers: Savers):
    savers.saver.serde = EncryptedSerializer.from_pycryptodome_aes(key=b"sixteen bytes ok")
    for table in ("checkpoints", savers.writes[0]):
        savers.run(f"DELETE FROM {table}")
    if savers.kind == "postgres-saver":
        savers.run("DELETE FROM checkpoint_blobs")
    threads.say(threads.graph_on(savers.saver), "carol-1", "sealed", "carol")

    with pytest.raises(SourceRefused, match="no key is given"):
        savers.source()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history": "some"}, "neither full nor latest"),
        ({"unknown": "keep"}, "neither reject nor data"),
        ({"allow": ["os.system"]}, "Number 1 of allow"),
        ({"key_env": "NO_SUCH_VARIABLE"}, "is not set"),
        ({"key_file": "/no/such/file"}, "cannot be read"),
        ({"key_env": "HOME", "key_file": "/key"}, "are given"),
    ],
)
def test_a_malformed_option_is_refused_before_anything_is_read(
    sqlite_threads: Path, options: dict[str, Any], message: str
):
    with pytest.raises(SourceRefused, match=message):
        SPECS[0].make(str(sqlite_threads), **options)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_what_has_no_tables_of_langgraph_is_refused(
    spec: SourceSpec, tmp_path: Path, postgres_url: str
):
    with closing(sqlite3.connect(tmp_path / "other.sqlite")) as raw:
        raw.execute("CREATE TABLE store (a)")
    location = postgres_url if "postgres" in spec.kind else str(tmp_path / "other.sqlite")

    with pytest.raises(SourceRefused, match="as LangGraph makes it"):
        spec.make(location)


# --- savers and stores that are open here ---------------------------------------------------------


class AnotherSaver(InMemorySaver):
    """A saver that is known by the methods of all savers alone."""


@pytest.mark.parametrize("kind", [InMemorySaver, AnotherSaver])
def test_a_checkpointer_in_memory_is_read_as_it_is(kind: type[InMemorySaver]):
    saver = kind()
    graph = threads.fill(saver)
    listed = threads.by_id(saver.list(None))

    with CheckpointerSource(saver) as source:
        found = threads.read(source)
        latest = threads.read(CheckpointerSource(saver, threads=["alice-1"], history="latest"))
        fields = {unit.id: unit.fields["metadata"]["user_id"] for unit in source.units()}

    assert threads.by_id(threads.tuples(found)) == listed
    assert fields == {"alice-1": "alice", "bob-1": "bob"}
    again = threads.graph_on(refilled(latest))
    assert (
        threads.answer(again, "alice-1", "ok")["log"]
        == threads.answer(graph, "alice-1", "ok")["log"]
    )


ITEMS = [
    (("users", "alice"), "name", {"first": "Alice", "n": [1, None, 2.5]}),
    (("users", "alice", "notes"), "1", {"text": "a.b"}),
    (("users", "bob"), "name", {"first": "Bob"}),
]


def filled(store: BaseStore, *, has_ttl: bool = True) -> BaseStore:
    for namespace, key, value in ITEMS:
        store.put(namespace, key, value)
    if has_ttl:
        store.put(("short",), "lived", {"a": 1}, ttl=90)
    return store


@contextmanager
def open_store(kind: str, location: str) -> Iterator[BaseStore]:
    stores = {"sqlite-store": SqliteStore, "postgres-store": PostgresStore}
    with stores[kind].from_conn_string(location) as store:
        store.setup()
        yield filled(store)


@pytest.mark.parametrize("spec", SPECS[2:], ids=lambda spec: spec.kind)
def test_items_of_a_store_are_read_with_their_times(
    spec: SourceSpec, tmp_path: Path, request: pytest.FixtureRequest
):
    is_postgres = spec.kind == "postgres-store"
    location = (
        request.getfixturevalue("postgres_url") if is_postgres else str(tmp_path / "s.sqlite")
    )
    with open_store(spec.kind, location) as store:
        with spec.make(location) as source:
            found, again = [*source.units()], [*source.units()]
            assert source.total() == len(found) == 4
        stored = store.get(("users", "bob"), "name")
        live = [*StoreSource(store).units()]

    assert found == again
    short, *items = found
    assert [(one.namespace, one.key, one.value) for one in items] == ITEMS
    assert items[2].id == "users.bob"
    assert items[2].fields["namespace"] == ["users", "bob"]
    created = stored.created_at
    assert items[2].created_at == (created if created.tzinfo else created.replace(tzinfo=UTC))
    assert abs(items[2].updated_at - datetime.now(UTC)) < timedelta(minutes=5)
    assert short.ttl_seconds == 90 * 60
    assert abs(short.expires_at - datetime.now(UTC) - timedelta(minutes=90)) < timedelta(minutes=5)
    assert items[0].expires_at is items[0].ttl_seconds is None
    assert [(one.namespace, one.key, one.value) for one in live[1:]] == ITEMS


@pytest.mark.parametrize("kind", ["sqlite-store", "postgres-store"])
def test_json_in_a_store_stays_data(kind: str, tmp_path: Path, request: pytest.FixtureRequest):
    is_postgres = kind == "postgres-store"
    location = (
        request.getfixturevalue("postgres_url") if is_postgres else str(tmp_path / "s.sqlite")
    )
    call = {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": [f"touch {tmp_path}/r"]}
    with open_store(kind, location) as store:
        store.put(("zzz",), "k", call)

    with next(spec for spec in SPECS if spec.kind == kind).make(location) as source:
        *_, item = source.units()

    assert item.value == call
    assert not (tmp_path / "r").exists()


def test_a_table_without_its_key_that_has_a_checkpoint_twice_brings_it_once(
    sqlite_threads: Path, tmp_path: Path
):
    copy = shutil.copy(sqlite_threads, tmp_path / "doubled.db")
    with closing(sqlite3.connect(copy)) as database, database:
        database.execute("CREATE TABLE doubled AS SELECT * FROM checkpoints")
        database.execute("DROP TABLE checkpoints")
        database.execute("ALTER TABLE doubled RENAME TO checkpoints")
        database.execute("INSERT INTO checkpoints SELECT * FROM checkpoints")

    def found(path: Path) -> list[tuple[str, list[Any]]]:
        with SPECS[0].make(str(path), allow=threads.ALLOW) as source:
            return [(unit.id, [one.id for one in unit.checkpoints]) for unit in source.units()]

    assert found(copy) == found(sqlite_threads)


def test_broken_items_are_reported_with_their_place(tmp_path: Path):
    location = str(tmp_path / "s.sqlite")
    with open_store("sqlite-store", location):
        pass
    with closing(sqlite3.connect(location, isolation_level=None)) as raw:
        for key, column, value in (
            ("1", "value", "{"),
            ("name", "value", "[1]"),
            ("lived", "expires_at", "soon"),
        ):
            raw.execute(f"UPDATE store SET {column} = ? WHERE key = ?", (value, key))

    with SPECS[2].make(location) as source:
        found = [*source.units()]

    assert [one.reason for one in found] == [
        "its expires_at is no time of ISO 8601",
        "the value has list in place of an object of JSON",
        "the value has no whole JSON",
        "the value has list in place of an object of JSON",
    ]
    assert all(one.place.startswith("store, rowid ") for one in found)


def test_a_store_in_memory_is_read_across_its_pages():
    store = filled(InMemoryStore(), has_ttl=False)
    for number in range(1100):
        store.put(("many", "in", "here"), f"{number}", {"n": number})

    found = [*StoreSource(store).units()]

    assert len(found) == 1103
    assert {one.value["n"] for one in found if one.namespace[0] == "many"} == {*range(1100)}
    assert all(one.created_at.tzinfo for one in found)


def test_items_that_were_moved_in_stand_where_their_owners_find_them(
    tmp_path: Path, root_key: LocalRootKey
):
    location = str(tmp_path / "s.sqlite")
    with open_store("sqlite-store", location):
        pass
    by_label = Mapping(module="tutor", user=Field("namespace.1"))

    with (
        IsolatedMemory(f"sqlite:///{tmp_path}/ours.db", root_key=root_key) as memory,
        SPECS[2].make(location) as source,
    ):
        receipt = Import(memory, source, by_label, unmapped="report", folder=tmp_path).run()
        store = memory.scope(user_id="alice", module_id="tutor").store()
        found = store.search((), limit=10)
        name = store.get(("users", "alice"), "name")

    assert receipt.units == {"copied": 3, "unmapped": 1}
    assert sum(receipt.rejects.values()) == 1
    assert {(one.namespace, one.key) for one in found} == {one[:2] for one in ITEMS[:2]}
    assert name.value == ITEMS[0][2]
    assert abs(name.created_at - datetime.now(UTC)) < timedelta(minutes=5)


# --- large, and killed ----------------------------------------------------------------------------


@pytest.mark.slow
def test_a_long_thread_of_a_postgres_saver_is_read_in_little_memory(postgres_url: str):
    """250 turns, 75 MB of values: LangGraph's own list() holds them all before the first."""
    with PostgresSaver.from_conn_string(postgres_url) as saver:
        saver.setup()
        builder = StateGraph(MessagesState)
        builder.add_node("model", lambda _: {"messages": [AIMessage("a" * 300)]})
        builder.add_edge(START, "model")
        graph = builder.compile(checkpointer=saver)
        for turn in range(250):
            said = {"messages": [HumanMessage(f"{turn} " + "q" * 300)]}
            graph.invoke(said, threads.config("long"), durability="async")

    with SPECS[1].make(postgres_url) as source:
        (thread,) = source.units()
        tracemalloc.start()
        count, largest = 0, 0
        for one in thread.checkpoints:
            count += 1
            largest = max(largest, len(one.checkpoint["channel_values"].get("messages", ())))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()

    assert (count, largest) == (750, 500)
    # 4.4 MB were measured.
    assert peak < 20_000_000


def kill_imports(spec: SourceSpec, location: str, owners: Mapping, folder: Path) -> None:
    options = {"allow": threads.ALLOW} if spec.options and "saver" in spec.kind else {}
    with ExitStack() as opened:

        def made(memory: IsolatedMemory, beside: Path) -> Import:
            source = opened.enter_context(spec.make(location, **options))
            return Import(memory, source, owners, unmapped="report", folder=beside)

        outlives_kills(made, folder)


@pytest.mark.slow
def test_an_import_of_threads_that_is_killed_goes_on(savers: Savers, tmp_path: Path):
    (tmp_path / "targets").mkdir()
    spec = next(spec for spec in SPECS if spec.kind == savers.kind)
    kill_imports(spec, savers.location, OWNERS, tmp_path / "targets")


@pytest.mark.slow
def test_an_import_of_items_that_is_killed_goes_on(tmp_path: Path):
    (tmp_path / "targets").mkdir()
    location = str(tmp_path / "s.sqlite")
    with open_store("sqlite-store", location):
        owners = Mapping(module="tutor", user=Field("namespace.1"))
        kill_imports(SPECS[2], location, owners, tmp_path / "targets")
