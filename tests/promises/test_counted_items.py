"""Counted items: where a row stands for them, a removed or restored item is noticed."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langgraph.store.base import GetOp, PutOp

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._database.transactions import Row
from langmem_isolated._storage.items.counting import ItemCount
from langmem_isolated.errors import KeyDestroyed, RecordDoesNotOpen
from tests.conftest import Attacker, Door

Attack = Callable[[Attacker, list[tuple[Any, ...]]], object]
COLUMNS = "key, sealed, created_at, updated_at, size, expires_at, expiry_mac"


@pytest.fixture
def scoped(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def rows_of(attacker: Attacker) -> list[tuple[Any, ...]]:
    return attacker(f"SELECT {COLUMNS} FROM records WHERE kind = 8 ORDER BY key")


def put_back(attacker: Attacker, earlier: list[tuple[Any, ...]]) -> None:
    for key, *others in earlier:
        places = ", ".join(f"{name} = ?" for name in COLUMNS.split(", ")[1:])
        attacker(f"UPDATE records SET {places} WHERE kind = 8 AND key = ?", *others, key)


ATTACKS: dict[str, Attack] = {
    "removed": lambda attacker, _: attacker("DELETE FROM records WHERE kind = 8"),
    "rolled back": put_back,
    "dated": lambda attacker, _: attacker("UPDATE records SET created_at = 1"),
    "one removed": lambda attacker, earlier: attacker(
        "DELETE FROM records WHERE key = ?", earlier[0][0]
    ),
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_removed_restored_or_dated_item_is_noticed(
    scoped: ScopedMemory, door: Door, attacker: Attacker, attack: str
):
    store = scoped.store(integrity="counted")
    for value in ("earlier", "later"):
        earlier = rows_of(attacker)
        await door(store, "put", ("facts",), "k", {"v": value})
        await door(store, "put", ("facts",), "l", {"v": value})
    assert (await door(scoped, "verify")).items == 2

    ATTACKS[attack](attacker, earlier)

    with pytest.raises(RecordDoesNotOpen):
        await door(scoped, "verify")


async def test_every_change_keeps_the_count_whichever_store_makes_it(
    scoped: ScopedMemory, door: Door
):
    """Also stores that were not asked to count, and what was there before."""
    plain = scoped.store()
    await door(plain, "put", ("facts",), "before", {"v": 1})
    counted = scoped.store(integrity="counted")
    await door(counted, "put", ("facts",), "k", {"v": 1}, ttl=0.001)
    for store in (plain, counted, scoped.store()):
        await door(store, "put", ("facts",), "k", {"v": 2}, ttl=0.0001)
        await door(store, "put", ("facts",), "l", {"v": 2})
        await door(store, "put", ("facts",), "l", {"v": 3})
        await door(store, "delete", ("facts",), "before")
        await door(store, "delete", ("facts",), "absent")
        await door(store, "put", ("facts", "more"), "m", {"v": 3}, ttl=60)
        await door(store, "get", ("facts", "more"), "m", refresh_ttl=True)
        await door(scoped, "verify")
    await asyncio.sleep(0.05)
    assert await door(plain, "sweep") == 1

    assert (await door(scoped, "verify")).items == 2
    assert (await door(counted, "get", ("facts",), "l")).value == {"v": 3}


def test_counting_is_each_scopes_own(memory: IsolatedMemory, attacker: Attacker):
    counted = memory.scope(user_id="alice", module_id="tutor")
    other = memory.scope(user_id="bob", module_id="tutor")
    counted.store(integrity="counted").put(("facts",), "k", {"v": 1})
    other.store().put(("facts",), "k", {"v": 1})

    assert attacker("SELECT kind, count FROM sessions") == [(8, 1)]
    assert (counted.verify().items, other.verify().items) == (1, 1)
    # A row for items is no session, no thread and no collection.
    assert counted.sessions() == []
    assert counted.checkpointer().threads() == []


async def test_an_erased_scope_takes_no_counted_items(
    scoped: ScopedMemory, door: Door, attacker: Attacker
):
    store = scoped.store(integrity="counted")
    await door(store, "put", ("facts",), "k", {"v": 1})
    attacker("DELETE FROM records")
    attacker("DELETE FROM sessions")
    attacker("UPDATE scopes SET birth = ?", bytes(16))

    with pytest.raises(KeyDestroyed):
        await door(store, "put", ("facts",), "k", {"v": 2})


def test_another_integrity_is_refused(scoped: ScopedMemory):
    with pytest.raises(ValueError, match="counted"):
        scoped.store(integrity="signed")  # type: ignore[arg-type]


def put_with_vectors(scoped: ScopedMemory) -> None:
    store = scoped.store(
        index={"dims": 8, "embed": DeterministicFakeEmbedding(size=8), "fields": ["v"]}
    )
    store.put(("facts",), "new", {"v": "text"})


CHANGES: dict[str, Callable[[ScopedMemory], object]] = {
    "put": lambda scoped: scoped.store().put(("facts",), "new", {"v": 1}),
    "put of several": lambda scoped: scoped.store().batch(
        [PutOp(("facts",), key, {"v": 1}) for key in ("new", "newer", "k")]
    ),
    "put with vectors": put_with_vectors,
    "remove": lambda scoped: scoped.store().delete(("facts",), "k"),
    "sweep": lambda scoped: scoped.store().sweep(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_who_writes_while_others_begin_to_count_is_counted(
    memory: IsolatedMemory,
    database_url: str,
    root_key: LocalRootKey,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    scoped.store().put(("facts",), "k", {"v": 1})
    scoped.store().put(("facts",), "expired", {"v": 1}, ttl=0)
    is_counting, goes_on = threading.Event(), threading.Event()
    put_in = ItemCount.put_in

    def slowly(self: ItemCount, rows: Iterable[Row]) -> None:
        if not is_counting.is_set():
            is_counting.set()
            goes_on.wait(60)
        put_in(self, rows)

    monkeypatch.setattr(ItemCount, "put_in", slowly)
    with (
        IsolatedMemory(database_url, root_key=root_key) as other,
        ThreadPoolExecutor(2) as threads,
    ):
        counted = scoped.store(integrity="counted")
        begun = threads.submit(counted.put, ("facts",), "l", {"v": 2})
        assert is_counting.wait(60)
        theirs = other.scope(user_id="alice", module_id="tutor")
        changed = threads.submit(CHANGES[change], theirs)
        # Long enough to come to where it waits.
        assert not threading.Event().wait(0.2)
        goes_on.set()
        begun.result(60)
        changed.result(60)

        scoped.verify()


def test_an_item_that_is_put_where_a_scope_says_that_nobody_counts_is_noticed(
    scoped: ScopedMemory, attacker: Attacker
):
    scoped.store(integrity="counted").put(("facts",), "k", {"v": 1})
    attacker("UPDATE scopes SET renewals = 0")

    scoped.store().put(("facts",), "l", {"v": 2})

    with pytest.raises(RecordDoesNotOpen):
        scoped.verify()


def test_a_row_that_counts_nothing_keeps_no_item_from_being_removed(
    scoped: ScopedMemory, attacker: Attacker
):
    store = scoped.store()
    store.put(("facts",), "k", {"v": 1})
    scoped.chat_history("s").add_user_message("hello")
    attacker("UPDATE sessions SET kind = 8")

    store.put(("facts",), "l", {"v": 1})
    store.delete(("facts",), "k")

    assert store.get(("facts",), "k") is None
    with pytest.raises(RecordDoesNotOpen):
        scoped.verify()


@pytest.mark.parametrize("integrity", ["counted", None])
def test_batches_that_change_the_same_items_wait_for_each_other(
    scoped: ScopedMemory, integrity: Any
):
    def store() -> Any:
        index = {"dims": 8, "embed": DeterministicFakeEmbedding(size=8), "fields": ["v[*]"]}
        return scoped.store(index=index, ttl={"refresh_on_read": True}, integrity=integrity)

    def put(key: str, number: int) -> PutOp:
        return PutOp(("facts",), key, {"v": [str(n) for n in range(number % 4)]}, ttl=10)

    def change(first: str, second: str) -> None:
        mine = store()
        for number in range(60):
            mine.batch([put(first, number), PutOp(("facts",), second, None)])
            mine.batch([put(first, number + 1), GetOp(("facts",), second)])
            mine.batch([GetOp(("facts",), first), GetOp(("facts",), second)])
            mine.put(("facts",), second, {"v": [str(n) for n in range(number % 3)]}, ttl=10)
            mine.delete(("facts",), first)
            plain.batch([put(first, number), put(second, number)])

    plain = scoped.store()
    store().put(("facts",), "k", {"v": []})
    with ThreadPoolExecutor(4) as threads:
        pairs = [("k", "l"), ("l", "k")] * 2
        for changed in [threads.submit(change, *pair) for pair in pairs]:
            changed.result(60)

    scoped.verify()
