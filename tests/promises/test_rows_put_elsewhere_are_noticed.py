"""Rows of any kind, exchanged, restored, copied or removed: noticed, or on the list of what is not.

A life is lived in one database: sessions, threads, collections, items and caches of three users are
written, cleared, pruned, removed and begun again; the keys of one are rotated, and she shares a
module with another; one claims what a guest said, and one locks his memory and is written to
meanwhile. Every row that ever stood is kept. Then one row at a time is put where it does not
belong, or taken away.
"""

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Owner
from langmem_isolated.errors import AnonymousNotFound, NotShared, RecordError
from tests.embeddings import NGramEmbeddings

# 2^16 in all. Each is looked for in the scopes that its row names, every so often in all.
EXCHANGES, SEEDS, EVERYWHERE = 4_096, range(16), 64
# Alice's keys are rotated, Bob has claimed a guest's memory, Carol's was locked.
USERS = ("alice", "bob", "carol")
SECRET = b"s" * 32
READER = {"user_id": "alice", "from_module": "tutor", "to_module": "planner"}
TABLES = {
    "records": ("scope_id", "kind", "parent", "key"),
    "sessions": ("scope_id", "kind", "digest"),
}
# What no row counts: that one was removed, or an older one put back where it stood.
UNCOUNTED = {Kind.ITEM, Kind.VECTOR, Kind.ENTRY, Kind.EMBEDDING, Kind.GRANT, Kind.CLAIM}
TIMES = {"created_at", "updated_at"}
Row = tuple[Any, ...]


@dataclass
class Lived:
    """A database, what reads of it give, and every row that ever stood in it."""

    memory: IsolatedMemory
    rows: sqlite3.Connection
    columns: dict[str, list[str]]
    past: dict[str, set[Row]] = field(default_factory=lambda: {table: set() for table in TABLES})
    guest_id: str = ""

    @cached_property
    def ever(self) -> dict[str, list[Row]]:
        """Every row that was kept, in an order that is the same in each run of one database."""
        return {table: sorted(rows, key=repr) for table, rows in self.past.items()}

    @cached_property
    def now(self) -> dict[str, list[Row]]:
        """The rows that stand there while nothing is changed."""
        return {table: list(self.rows.execute(f"SELECT * FROM {table}")) for table in TABLES}

    def keep(self) -> None:
        """Remember the rows that stand now."""
        for table, rows in self.past.items():
            rows.update(self.rows.execute(f"SELECT * FROM {table}"))

    def collections(self) -> set[bytes]:
        """The parents of documents and of their embeddings, which are counted."""
        return {row[0] for row in self.rows.execute("SELECT digest FROM sessions WHERE kind = 11")}

    @cached_property
    def users(self) -> dict[bytes, str]:
        """Whose a scope is, by its id; those of nobody are a guest's who was claimed."""
        directory = self.memory._keyring.directory()
        assert directory is not None
        scopes = [Scope(user, "tutor") for user in USERS] + [Scope("alice", "planner")]
        return {directory.scope_id_of(Owner.private(scope)): scope.user_id for scope in scopes}

    def scoped(self, user_id: str) -> ScopedMemory:
        return self.memory.scope(user_id=user_id, module_id="tutor")


def put(scoped: ScopedMemory, thread_id: str, *said: str) -> None:
    saver = scoped.checkpointer()
    config: Any = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
    messages = [HumanMessage(text, id=text) for text in said]
    checkpoint = {**empty_checkpoint(), "channel_values": {"messages": messages, "x": "y" * 200}}
    at = saver.put(config, checkpoint, {"run_id": thread_id}, {})
    saver.put_writes(at, [("messages", AIMessage(f"on {said[-1]}", id="w"))], "task")


def live(scoped: ScopedMemory, keep: Callable[[], None]) -> None:
    """Everything that adds, changes and removes rows, so that names are used in several lives."""
    store = scoped.store(equality=["text"])
    documents = scoped.vector_store(NGramEmbeddings(), equality=["of"])
    for life in ("first", "second"):
        for session_id in ("s", "t"):
            history = scoped.chat_history(session_id)
            history.add_messages([HumanMessage(f"{life} zebra", id="1"), AIMessage("striped")])
            history.add_messages([HumanMessage(f"{life} more", id="2")], channel="general")
            put(scoped, session_id, f"{life} one")
            put(scoped, session_id, f"{life} one", f"{life} two")
            keep()
        scoped.sessions.rename("s", f"{life} title")
        store.put(("facts",), "k", {"text": life}, ttl=None if life == "second" else 600)
        store.put(("facts", life), "l", {"text": life}, ttl=600)
        documents.add_documents([Document(f"{life} {n}", id=n) for n in "abc"])
        documents.delete(["b"])
        scoped.byte_store().mset([("key", life.encode()), (life, b"value")])
        scoped.recall("zebra", embeddings=NGramEmbeddings())
        keep()
        if life == "first":
            scoped.chat_history("s").clear()
            scoped.sessions.delete("t")
            scoped.checkpointer().prune(["s"])
            scoped.checkpointer().delete_thread("t")
            documents.clear()
            keep()
    scoped.checkpointer().delete_for_runs(["nobody"])


def happen(memory: IsolatedMemory, keep: Callable[[], None]) -> str:
    """Rotations, grants, a claim and a lock, with what is written between them; the guest's id."""
    tutor, planner = (memory.scope(user_id="alice", module_id=m) for m in ("tutor", "planner"))
    planner.chat_history("p").add_user_message("planned")
    for kinds in (["message", "item"], ["message"]):
        memory.grants.allow(**READER, kinds=kinds)
        keep()
        memory.rotate_keys("alice")
        tutor.chat_history("s").add_user_message("under another key")
        tutor.store().put(("facts",), "k", {"text": "under another key"})
        keep()
    guest = memory.anonymous(module_id="tutor")
    guest.chat_history("g").add_messages([HumanMessage("a guest's zebra"), AIMessage("claimed")])
    keep()
    memory.claim(guest.id, Scope("bob", "tutor"), confirmed=True)
    memory.lock_with("carol", secret=SECRET)
    keep()
    carol = memory.scope(user_id="carol", module_id="tutor")
    for text in ("while locked", "still locked"):
        carol.chat_history("s").add_user_message(text)
    keep()
    return guest.id


def seen(scoped: ScopedMemory) -> dict[str, Any]:
    """What reads give of all that rows count."""
    saver = scoped.checkpointer()
    reader = scoped.module("planner")
    return {
        "shared": scoped.scope.user_id == "alice"
        and [one.content for one in reader.shared_from("tutor").messages("s")],
        "planned": reader.chat_history("p").messages,
        "messages": {s: scoped.chat_history(s).messages for s in ("s", "t")},
        "titles": {one.id: (one.title, one.messages) for one in scoped.sessions()},
        "recent": scoped.recent({"general": 9}),
        "threads": {
            t: [
                (found.config, found.checkpoint, found.metadata, found.pending_writes)
                for found in saver.list({"configurable": {"thread_id": t}})
            ]
            for t in ("s", "t")
        },
        "recall": [
            (one.text, one.source, one.source_id) for one in scoped.recall("zebra", limit=99)
        ],
        "documents": sorted(
            (one.id or "", one.page_content)
            for one in scoped.vector_store(NGramEmbeddings()).documents()
        ),
    }


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lived]:
    path: Path = tmp_path_factory.mktemp("lived") / "memory.db"
    root_key, url = LocalRootKey(b"k" * 32), f"sqlite:///{path}"
    with (
        IsolatedMemory(url, root_key=root_key),
        closing(sqlite3.connect(path, isolation_level=None)) as rows,
    ):
        rows.execute("PRAGMA foreign_keys = OFF")
        rows.execute("PRAGMA synchronous = OFF")
        columns = {t: [c[1] for c in rows.execute(f"PRAGMA table_info({t})")] for t in TABLES}
        with IsolatedMemory(url, root_key=root_key) as memory:
            before = Lived(memory, rows, columns)
            for user in USERS:
                live(before.scoped(user), before.keep)
            before.guest_id = happen(memory, before.keep)
        # And after a restart.
        with IsolatedMemory(url, root_key=root_key) as memory:
            after = Lived(memory, rows, columns, before.past, before.guest_id)
            memory.unlock("carol", secret=SECRET, seconds=10**6)
            for user_id in USERS:
                after.scoped(user_id).chat_history("s").add_user_message("after a restart")
            after.keep()
            yield after


@dataclass
class Change:
    """One row put somewhere, or taken away, and how to undo it."""

    table: str
    gone: Row | None
    new: Row | None

    def is_uncounted(self, lived: Lived) -> bool:
        """Whether it is on the list of what cannot be noticed without an anchor.

        Of what no row counts (items, entries, vectors, and embeddings of messages, which are made
        again): one was removed, an older one was put back where it stood, or its clear times, which
        nothing is decided by, were changed. And of anything, that digests were taken away by which
        equality filters find it: they then open it.
        """
        if self.table != "records":
            return False
        columns, kinds = lived.columns["records"], set()
        if self.new and self.differing(columns) == {"equalities"}:
            return self.new[columns.index("equalities")] is None
        for row in filter(None, (self.gone, self.new)):
            kind, parent = (row[columns.index(name)] for name in ("kind", "parent"))
            kinds.add(None if parent in lived.collections() else kind)
        # Put into a scope that is nobody's, it is removed from where it was.
        is_removed = self.new is None or self.new[columns.index("scope_id")] not in lived.users
        stood = is_removed or self.new in lived.past["records"]
        return kinds <= UNCOUNTED and (stood or self.differing(columns) <= TIMES)

    def differing(self, columns: list[str]) -> set[str]:
        """The columns in which what stands there now differs from what stood there."""
        triples = zip(columns, self.gone or (), self.new or (), strict=False)
        return {name for name, one, other in triples if one != other} or {"removed or restored"}


def address(lived: Lived, table: str, row: Row) -> Row:
    return tuple(row[lived.columns[table].index(name)] for name in TABLES[table])


def standing_at(lived: Lived, table: str, row: Row) -> Row | None:
    where = " AND ".join(f"{name} = ?" for name in TABLES[table])
    found = lived.rows.execute(f"SELECT * FROM {table} WHERE {where}", address(lived, table, row))
    stands: Row | None = found.fetchone()
    return stands


def chosen(lived: Lived, rng: random.Random) -> Change:
    """Any row of the past or present, restored, removed, exchanged in whole or in one column."""
    table = rng.choice(["records", "records", "records", "sessions"])
    past, now = lived.ever[table], lived.now[table]
    row, other = rng.choice(past), rng.choice(rng.choice([past, now]))
    place = lived.columns[table]
    how = rng.choice(["restore", "restore", "remove", "exchange", "exchange", "column", "column"])
    if how == "remove":
        return Change(table, rng.choice(now), None)
    new = row
    if how == "exchange":
        keep = {place.index(name) for name in TABLES[table]}
        new = tuple(row[n] if n in keep else other[n] for n in range(len(row)))
    if how == "column":
        row = rng.choice(now)
        at = rng.randrange(len(row))
        new = tuple(other[n] if n == at else row[n] for n in range(len(row)))
        if address(lived, table, new) != address(lived, table, row):
            # Moved: it does not stand at its own address any more.
            return Change(table, row, None if standing_at(lived, table, new) else new)
    return Change(table, standing_at(lived, table, new), new)


def apply(lived: Lived, table: str, gone: Row | None, new: Row | None) -> None:
    if gone is not None:
        where = " AND ".join(f"{name} = ?" for name in TABLES[table])
        lived.rows.execute(f"DELETE FROM {table} WHERE {where}", address(lived, table, gone))
    if new is not None:
        marks = ", ".join("?" * len(new))
        lived.rows.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", new)


def made(lived: Lived, change: Change) -> Change:
    """Make a change; what became of it, where a constraint refused the new row."""
    apply(lived, change.table, change.gone, change.new)
    if change.new and standing_at(lived, change.table, change.new) != change.new:
        return replace(change, new=None)
    return change


def undo(lived: Lived, change: Change) -> None:
    apply(lived, change.table, change.new, change.gone)


def touched(lived: Lived, change: Change) -> list[str]:
    """The users whose scope a changed row was, or is, in."""
    at = lived.columns[change.table].index("scope_id")
    ids = {row[at] for row in (change.gone, change.new) if row}
    return sorted({lived.users[scope_id] for scope_id in ids & set(lived.users)})


def read_all(lived: Lived, users: Sequence[str], expected: dict[str, Any]) -> None:
    """Open all that users have, and expect what they had before; a guest who is gone is gone."""
    for user in users:
        for module in ("tutor", "planner"):
            lived.scoped(user).module(module).verify()
        assert seen(lived.scoped(user)) == expected[user]
    if not users:
        lived.memory.recover(lived.guest_id)
        pytest.fail("a guest who was claimed is back")


@pytest.mark.parametrize("seed", SEEDS)
def test_whatever_row_is_put_where_it_does_not_belong_is_noticed(lived: Lived, seed: int):
    rng = random.Random(seed)
    expected = {user: seen(lived.scoped(user)) for user in USERS}
    for user in USERS:
        lived.scoped(user).verify()
    noticed = unnoticed = 0
    for number in range(EXCHANGES):
        change = made(lived, chosen(lived, rng))
        if change.gone == change.new:
            continue
        users = touched(lived, change)
        try:
            read_all(lived, users if number % EVERYWHERE or not users else USERS, expected)
        except (RecordError, AnonymousNotFound, NotShared):
            noticed += 1
        else:
            assert change.is_uncounted(lived), describe(lived, change)
            unnoticed += 1
        finally:
            undo(lived, change)

    assert noticed > unnoticed
    assert {user: seen(lived.scoped(user)) for user in USERS} == expected


def describe(lived: Lived, change: Change) -> str:
    """Which columns differ: what stands in them says nothing to people."""
    columns, row = lived.columns[change.table], change.new or change.gone or ()
    kind = row[columns.index("kind")]
    return f"{change.table} of kind {kind}, unnoticed: {sorted(change.differing(columns))}"
