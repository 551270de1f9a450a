"""Threads and items of LangGraph's own savers and stores are read whole, and run nothing."""

import hashlib
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.store.sqlite import SqliteStore

from langmem_isolated.importers import ForeignItem, Rejected
from langmem_isolated.importers.langgraph import SPECS
from tests import langgraph_threads as threads
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


def test_json_in_a_store_stays_data(tmp_path: Path):
    call = {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": [f"touch {tmp_path}/r"]}
    with SqliteStore.from_conn_string(str(tmp_path / "store.sqlite")) as store:
        store.setup()
        store.put(("a",), "k", call)

    with SPECS[2].make(str(tmp_path / "store.sqlite")) as source:
        (item,) = source.units()

    assert isinstance(item, ForeignItem)
    assert item.value == call
    assert not (tmp_path / "r").exists()


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


def test_reading_changes_no_byte_of_a_file_and_its_log(savers: Savers):
    with savers.source() as source:
        before = [hashlib.sha256(path.read_bytes()).digest() for path in source.files()]
        threads.read(source)
        after = [hashlib.sha256(path.read_bytes()).digest() for path in source.files()]

    assert before == after
    assert len(before) == (2 if savers.kind == "sqlite-saver" else 0)
