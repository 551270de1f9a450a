"""Promises 1, 3 and 4 for items of a store: apart, unreadable, and in their places."""

import asyncio
import itertools
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, PutOp, SearchOp

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.items.addresses import Address, RecordAddresses
from langmem_isolated.errors import RecordDoesNotOpen, RecordError
from langmem_isolated.store import IsolatedStore
from tests.conftest import Attacker, Door
from tests.postgres import PostgresServer
from tests.promises.test_nothing_readable_on_disk import (
    Disk,
    Talkative,
    canary,
    files_in,
    readable_in,
    told_by,
)
from tests.promises.test_nothing_readable_on_disk import log as talkative_log
from tests.promises.test_users_cannot_see_each_other import HOSTILE_IDS

assert talkative_log  # a fixture

_numbers = itertools.count()


# --- apart ----------------------------------------------------------------------------------------


def put_by_all(stores: dict[Any, IsolatedStore]) -> None:
    for who, store in stores.items():
        store.put(("memories", "family"), "sister", {"of": repr(who)})


def assert_each_sees_its_own(stores: dict[Any, IsolatedStore]) -> None:
    for who, store in stores.items():
        item = store.get(("memories", "family"), "sister")
        assert item is not None
        assert item.value == {"of": repr(who)}
        for found in (
            store.search(()),
            store.search(("memories",), filter={"of": {"$ne": ""}}),
            store.search((), query="sister"),
        ):
            assert [one.value for one in found] == [{"of": repr(who)}]
        assert store.list_namespaces() == [("memories", "family")]


def index() -> Any:
    return {"dims": 2, "embed": lambda texts: [[1.0, float(len(text))] for text in texts]}


def test_users_with_names_that_look_alike_see_their_own_items(memory: IsolatedMemory):
    stores = {
        name: memory.scope(user_id=name, module_id="tutor").store(index=index())
        for name in HOSTILE_IDS
    }
    put_by_all(stores)
    assert_each_sees_its_own(stores)

    stores.pop("a").delete(("memories", "family"), "sister")
    assert memory.scope(user_id="a", module_id="tutor").store().search(()) == []
    assert_each_sees_its_own(stores)


def test_modules_and_projects_of_one_user_are_apart(memory: IsolatedMemory):
    names = ["a", "b", "a:b", "ab", "a,b", "%"]
    stores = {
        (user, module, project): memory.scope(
            user_id=user, module_id=module, project_id=project
        ).store(index=index())
        for user, module, project in itertools.product(names[:3], names[:3], names[:2])
    }

    put_by_all(stores)

    assert_each_sees_its_own(stores)


def test_the_same_names_have_other_digests_in_another_scope(
    memory: IsolatedMemory, attacker: Attacker
):
    for user, module in (("alice", "tutor"), ("alice", "planner"), ("bob", "tutor")):
        store = memory.scope(user_id=user, module_id=module).store()
        store.put(("memories", "family"), "sister", {})
        store.put(("family",), "sister", {})

    for column in ("parent", "key"):
        assert attacker(f"SELECT COUNT(DISTINCT {column}) FROM records") == [(6,)]


# --- unreadable -----------------------------------------------------------------------------------

VECTOR = [0.12345678, 1.7654321, -0.31415927, 2.7182818]
NUMBERS = [struct.pack(form, *VECTOR) for form in ("<4f", ">4f", "<4d", ">4d")]


def marked_index() -> Any:
    return {"dims": 4, "embed": lambda texts: [VECTOR for _ in texts], "fields": ["long"]}


def labels() -> tuple[str, ...]:
    return (canary("label"), canary("label"))


def value() -> dict[str, Any]:
    return {
        canary("field"): canary("text"),
        "nested": [{canary("field"): (canary("text"), canary("bytes").encode())}],
        "long": f"{canary('long')} " * 500,
        "end": "x" * 5_000 + canary("end"),
    }


async def use_everything(memory: IsolatedMemory, door: Door) -> IsolatedStore:
    """Put a canary into everything that a caller supplies, and run every operation over it."""
    scoped = memory.scope(user_id=canary("user"), module_id=canary("module"))
    unindexed, store = scoped.store(), scoped.store(index=marked_index())
    for one in (store, unindexed):
        name, key = labels(), canary("key")
        for _ in range(2):
            await door(one, "put", name, key, value())
        await door(one, "batch", [PutOp((*name, canary("label")), canary("key"), value())] * 3)
        await door(one, "put", name, canary("key"), value(), ttl=0.0001)
        await door(one, "get", name, key)
        await door(one, "search", name[:1], filter={canary("field"): canary("text")})
        await door(one, "search", (), query=canary("query"), filter={"end": {"$gt": canary("t")}})
        await door(one, "list_namespaces", prefix=("*", name[1]), suffix=(canary("label"),))
        await door(one, "delete", name, key)
    await asyncio.sleep(0.01)
    await door(store, "sweep")
    return store


async def test_no_part_of_an_item_is_readable_in_the_files_or_the_dump(
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
        content = b"".join(disk.contents().values())
        assert len(content) > 5_000
        assert not any(form in content or form.hex().encode() in content for form in NUMBERS)
        close()


async def test_no_part_of_an_item_is_readable_in_the_files_of_the_server(
    postgres: PostgresServer, postgres_url: str, root_key: LocalRootKey, door: Door
):
    with IsolatedMemory(postgres_url, root_key=root_key) as memory:
        await use_everything(memory, door)
        memory._database.inspect(lambda connection: connection.exec_driver_sql("CHECKPOINT"))

    content = files_in(postgres.data)
    assert [name for name, file in content.items() if readable_in(file)] == []


async def test_no_part_of_an_item_is_readable_in_a_log(
    request: pytest.FixtureRequest, database_url: str, root_key: LocalRootKey, door: Door
):
    log = request.getfixturevalue("talkative_log")
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        await use_everything(memory, door)

    assert [text for text in log.texts if readable_in(text.encode())] == []
    assert log.texts


class MarkedKey:
    def __str__(self) -> str:
        return f"{canary('key')}\ud800"


def provoked(store: IsolatedStore, attacker: Attacker) -> list[Callable[[], object]]:
    """Calls given canaries, each of which raises; the last breaks the rows."""
    name, key = labels(), canary("key")
    store.put(name, key, value())

    def tampered() -> object:
        # No mark: it would stay in the server's WAL.
        attacker("UPDATE records SET sealed = ?", b"changed")
        return store.get(name, key)

    return [
        lambda: store.put((canary("label"), canary("a.b")), key, value()),
        lambda: store.get((f"{canary('label')}.x",), key),
        lambda: store.search((f"{canary('label')}\x00",)),
        lambda: store.delete((canary("label"), ""), key),
        lambda: store.list_namespaces(prefix=(canary("label"), "")),
        lambda: store.list_namespaces(suffix=(f"{canary('label')}\ud800",)),
        lambda: store.put((canary("label"), 7), key, value()),  # type: ignore[arg-type]
        lambda: store.put((), key, value()),
        lambda: store.put(("langgraph", canary("label")), key, value()),
        lambda: store.put(name * 60, key, value()),
        lambda: store.put(name, MarkedKey(), value()),  # type: ignore[arg-type]
        lambda: store.put(name, key, {canary("field"): Talkative()}),
        lambda: store.put(name, key, {f"{canary('field')}\ud800": Talkative()}),
        lambda: store.put(name, key, [canary("text")]),  # type: ignore[arg-type]
        lambda: store.put(name, key, value(), ttl=-1),
        lambda: store.put(name, key, value(), index=["$"]),
        lambda: store.search((), filter={canary("field"): {f"${canary('operator')}": 1}}),
        lambda: store.search((), filter={f"{canary('field')}\ud800": {"$odd": canary("text")}}),
        lambda: store.search((), limit=-1, query=canary("query")),
        lambda: store.batch([GetOp(name, MarkedKey())]),  # type: ignore[arg-type]
        lambda: store.batch([canary("operation")]),  # type: ignore[list-item]
        lambda: store.batch(
            [ListNamespacesOp((MatchCondition(canary("kind"), name),))]  # type: ignore[arg-type]
        ),
        tampered,
        lambda: store.search((), filter={"end": canary("text")}),
        lambda: store.search((), query=canary("query")),
        store.list_namespaces,
    ]


def test_errors_quote_nothing_of_an_item(memory: IsolatedMemory, attacker: Attacker):
    store = memory.scope(user_id=canary("user"), module_id="m").store(index=marked_index())

    for provoke in provoked(store, attacker):
        with pytest.raises((ValueError, TypeError, RecordError)) as raised:
            provoke()
        # The lines of this file are in the traceback, but canaries are made when they run.
        assert [text for text in told_by(raised.value) if readable_in(text.encode())] == []


# --- in their places ------------------------------------------------------------------------------

NAME = (b"memories", b"family")
CAT = {"text": "cat"}
Column = dict[str, Any]


class Scene:
    """Alice's item, others that its row could come from, and who moves them."""

    def __init__(self, memory: IsolatedMemory, attacker: Attacker) -> None:
        self.memory, self.attacker = memory, attacker
        self.store = self.store_of("alice", "tutor")
        self.place = self.place_of("alice", "tutor")
        self.store.put(("memories", "family"), "sister", CAT)

    def store_of(self, user: str, module: str) -> IsolatedStore:
        return self.memory.scope(user_id=user, module_id=module).store(index=index())

    def place_of(
        self, user: str, module: str, name: tuple[bytes, ...] = NAME, key: bytes = b"sister"
    ) -> tuple[bytes, bytes, bytes]:
        keys = self.memory.scope(user_id=user, module_id=module)._records.keys()
        return (keys.scope_id, *RecordAddresses(keys).of(Address(name, key)))

    def sealed_at(self, place: tuple[bytes, bytes, bytes], kind: Kind = Kind.ITEM) -> bytes:
        suffix = b"" if kind is Kind.ITEM else bytes(4)
        ((sealed,),) = self.attacker(
            "SELECT sealed FROM records"
            " WHERE scope_id = ? AND parent = ? AND key = ? AND kind = ?",
            *place[:2], place[2] + suffix, int(kind),
        )  # fmt: skip
        return bytes(sealed)

    def set(self, what: str, *values: object, kind: Kind = Kind.ITEM) -> None:
        """Change the row of Alice's item: ``what`` is the SQL behind SET."""
        suffix = b"" if kind is Kind.ITEM else bytes(4)
        self.attacker(
            f"UPDATE records SET {what}"
            " WHERE scope_id = ? AND parent = ? AND key = ? AND kind = ?",
            *values, *self.place[:2], self.place[2] + suffix, int(kind),
        )  # fmt: skip


@pytest.fixture
def scene(memory: IsolatedMemory, attacker: Attacker) -> Scene:
    return Scene(memory, attacker)


READS: dict[str, tuple[Any, ...]] = {
    "get": ("get", ("memories", "family"), "sister"),
    "search": ("search", ()),
    "filtered": ("search", ("memories",), {"filter": {"text": "dog"}}),
    "filtered otherwise": ("search", ("memories",), {"filter": {"text": {"$ne": "dog"}}}),
    "by meaning": ("search", (), {"query": "cat"}),
    "by meaning, filtered": ("search", (), {"query": "cat", "filter": {"text": "dog"}}),
    "namespaces": ("list_namespaces",),
    "batch": ("batch", [GetOp(("memories", "family"), "sister"), SearchOp(())]),
}


async def assert_no_read_opens_it(store: IsolatedStore, door: Door) -> None:
    for name, *args in READS.values():
        options = args.pop() if args and isinstance(args[-1], dict) else {}
        with pytest.raises(RecordDoesNotOpen):
            await door(store, name, *args, **options)


@pytest.mark.parametrize("options", [{}, {"index": index()}, {"equality": ["a"]}])
def test_no_two_records_of_a_batch_share_a_nonce(
    memory: IsolatedMemory, attacker: Attacker, options: Any
):
    store = memory.scope(user_id="alice", module_id="tutor").store(**options)
    puts = [PutOp((f"of{n % 3}",), f"k{n}", {"a": "same"}) for n in range(50)]

    for _ in range(2):
        store.batch(puts)
        store.put(("of1",), "k1", {"a": "same"})

    nonces = [sealed[17:29] for (sealed,) in attacker("SELECT sealed FROM records")]
    assert len(set(nonces)) == len(nonces) >= 50


@pytest.mark.parametrize(
    "origin",
    ["another key", "another namespace", "a deeper namespace", "another user", "another module"],
)
async def test_an_item_moved_into_another_items_row_does_not_open(
    scene: Scene, door: Door, origin: str
):
    user, module, name, key = {
        "another key": ("alice", "tutor", NAME, b"brother"),
        "another namespace": ("alice", "tutor", (b"memories", b"work"), b"sister"),
        "a deeper namespace": ("alice", "tutor", (*NAME, b"more"), b"sister"),
        "another user": ("bob", "tutor", NAME, b"sister"),
        "another module": ("alice", "planner", NAME, b"sister"),
    }[origin]
    other = scene.store_of(user, module)
    other.put(tuple(label.decode() for label in name), key.decode(), CAT)
    sealed = scene.sealed_at(scene.place_of(user, module, name, key))
    if (user, module) == ("alice", "tutor"):
        other.delete(tuple(label.decode() for label in name), key.decode())

    scene.set("sealed = ?", sealed)

    await assert_no_read_opens_it(scene.store, door)


@pytest.mark.parametrize("part", ["scope", "namespace", "key"])
async def test_a_whole_row_moved_to_another_place_does_not_open(
    scene: Scene, door: Door, part: str
):
    other = scene.store_of("bob", "tutor")
    other.put(("elsewhere",), "else", CAT)
    place = scene.place_of("bob", "tutor", (b"memories", b"family"))
    if part == "scope":
        scene.set("scope_id = ?, parent = ?, key = ?", *place)
        with pytest.raises(RecordDoesNotOpen):
            await door(other, "get", ("memories", "family"), "sister")
        return
    scene.attacker("DELETE FROM records WHERE kind = ?", int(Kind.VECTOR))
    if part == "namespace":
        to = scene.place_of("alice", "tutor", (b"memories", b"work"))
        scene.set("parent = ?, key = ?", *to[1:])
        read = ("memories", "work"), "sister"
    else:
        scene.set("key = ?", scene.place_of("alice", "tutor", NAME, b"brother")[2])
        read = ("memories", "family"), "brother"

    with pytest.raises(RecordDoesNotOpen):
        await door(scene.store, "get", *read)
    with pytest.raises(RecordDoesNotOpen):
        await door(scene.store, "search", ("memories",))
    assert await door(scene.store, "get", ("memories", "family"), "sister") is None


@pytest.mark.parametrize("where", [0, 1, 17, 29, 30, -17, -16, -1])
async def test_an_item_changed_in_any_part_does_not_open(scene: Scene, door: Door, where: int):
    sealed = bytearray(scene.sealed_at(scene.place))
    sealed[where] ^= 1

    scene.set("sealed = ?", bytes(sealed))

    await assert_no_read_opens_it(scene.store, door)


async def test_an_item_cut_off_or_in_plaintext_does_not_open(scene: Scene, door: Door):
    sealed = scene.sealed_at(scene.place)
    for other in (b"", sealed[:16], sealed[:45], sealed[:-1], sealed + b"\x00", b'{"text": "cat"}'):
        scene.set("sealed = ?", other)
        await assert_no_read_opens_it(scene.store, door)


async def test_a_record_of_another_kind_is_no_item(scene: Scene, door: Door):
    scene.set("sealed = ?", scene.sealed_at(scene.place, Kind.VECTOR))
    await assert_no_read_opens_it(scene.store, door)

    scene.attacker("DELETE FROM records WHERE kind = ?", int(Kind.ITEM))
    scene.attacker(
        "UPDATE records SET kind = ?, key = ? WHERE kind = ?",
        int(Kind.ITEM), scene.place[2], int(Kind.VECTOR),
    )  # fmt: skip
    await assert_no_read_opens_it(scene.store, door)


async def test_items_cannot_be_put_in_another_order(scene: Scene, door: Door):
    scene.set("updated_at = updated_at + 1")

    await assert_no_read_opens_it_that_returns_it(scene.store, door)
    scene.set("updated_at = 0")
    await assert_no_read_opens_it_that_returns_it(scene.store, door)


async def assert_no_read_opens_it_that_returns_it(store: IsolatedStore, door: Door) -> None:
    for name in ("get", "search", "filtered otherwise", "by meaning", "namespaces", "batch"):
        method, *args = READS[name]
        options = args.pop() if args and isinstance(args[-1], dict) else {}
        with pytest.raises(RecordDoesNotOpen):
            await door(store, method, *args, **options)


@pytest.mark.parametrize("column", ["updated_at", "created_at", "sealed", "key"])
@pytest.mark.parametrize("odd", ["text", 7.5, -(2**63), 2**63 - 1])
async def test_odd_types_and_times_in_a_sqlite_column_are_refused_as_tampering(
    sqlite_url: str, root_key: LocalRootKey, door: Door, column: str, odd: Any
):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        attacker = Attacker(sqlite_url)
        scene = Scene(memory, attacker)
        scene.store.put(("memories", "family"), "brother", {"text": "dog"})
        scene.set(f"{column} = ?", odd)
        if column == "created_at" and odd == 2**63 - 1:
            # Later than it was put last: it was put then.
            item = await door(scene.store, "get", ("memories", "family"), "sister")
            assert item.created_at == item.updated_at
        else:
            for name in ("search", "filtered otherwise", "by meaning"):
                method, *args = READS[name]
                options = args.pop() if isinstance(args[-1], dict) else {}
                with pytest.raises(RecordDoesNotOpen):
                    await door(scene.store, method, *args, **options)
        attacker.close()


async def test_a_put_replaces_a_row_that_was_tampered_with(scene: Scene, door: Door):
    scene.set("sealed = ?", b"changed")

    await door(scene.store, "put", ("memories", "family"), "sister", {"text": "new"})

    item = await door(scene.store, "get", ("memories", "family"), "sister")
    assert item.value == {"text": "new"}


async def test_a_vector_moved_from_another_item_does_not_open(scene: Scene, door: Door):
    scene.store.put(("memories", "family"), "brother", {"text": "a dog"})
    other = scene.place_of("alice", "tutor", NAME, b"brother")
    moved = scene.sealed_at(other, Kind.VECTOR)

    scene.set("sealed = ?", moved, kind=Kind.VECTOR)

    with pytest.raises(RecordDoesNotOpen, match="A vector record"):
        await door(scene.store, "search", (), query="cat")


async def test_a_vector_of_an_earlier_put_put_back_into_its_place_counts_no_more(
    scene: Scene, door: Door
):
    earlier = scene.sealed_at(scene.place, Kind.VECTOR)
    time.sleep(0.002)  # noqa: ASYNC251 -- the next put is of another millisecond
    scene.store.put(("memories", "family"), "sister", {"text": "a dog"})

    scene.set("sealed = ?", earlier, kind=Kind.VECTOR)

    (found,) = await door(scene.store, "search", (), query="cat")
    assert found.score is None


LATER, NEVER = "expires_at = expires_at + 60000000", "expires_at = NULL"
EXPIRY_ATTACKS: dict[str, Callable[[Scene, tuple[Any, Any]], object]] = {
    "later": lambda scene, _: scene.set(LATER),
    "never": lambda scene, _: scene.set(NEVER),
    "never, nor a MAC": lambda scene, _: scene.set(f"{NEVER}, expiry_mac = NULL"),
    "no MAC": lambda scene, _: scene.set("expiry_mac = NULL"),
    "another MAC": lambda scene, _: scene.set("expiry_mac = ?", bytes(16)),
    "that of an earlier put": lambda scene, earlier: scene.set(
        "expires_at = ?, expiry_mac = ?", *earlier
    ),
}


@pytest.mark.parametrize("attack", EXPIRY_ATTACKS)
async def test_an_expiry_that_was_changed_or_taken_away_is_refused(
    scene: Scene, door: Door, attack: str
):
    place = ("memories", "family"), "sister"
    scene.store.put(*place, CAT, ttl=60)
    (earlier,) = scene.attacker("SELECT expires_at, expiry_mac FROM records WHERE kind = 8")
    scene.store.put(*place, CAT, ttl=30)
    assert await door(scene.store, "get", *place, refresh_ttl=False)

    EXPIRY_ATTACKS[attack](scene, earlier)

    for name, arguments in (("get", place), ("search", ((),))):
        with pytest.raises(RecordDoesNotOpen, match="expiry"):
            await door(scene.store, name, *arguments, refresh_ttl=False)


async def test_an_item_without_an_expiry_cannot_be_given_one(scene: Scene, door: Door):
    scene.set("expires_at = ?", 2**60)

    with pytest.raises(RecordDoesNotOpen, match="expiry"):
        await door(scene.store, "get", ("memories", "family"), "sister")


async def test_a_refreshed_expiry_is_that_of_the_item_and_not_sealed_anew(scene: Scene, door: Door):
    place = ("memories", "family"), "sister"
    scene.store.put(*place, CAT, ttl=60)
    sealed = scene.sealed_at(scene.place)
    (before,) = scene.attacker("SELECT expires_at, expiry_mac FROM records WHERE kind = 8")

    assert await door(scene.store, "get", *place, refresh_ttl=True)
    assert await door(scene.store, "get", *place, refresh_ttl=False)

    (after,) = scene.attacker("SELECT expires_at, expiry_mac FROM records WHERE kind = 8")
    assert (after[0] > before[0], after[1] != before[1]) == (True, True)
    assert scene.sealed_at(scene.place) == sealed


async def test_what_can_be_done_unnoticed_is_to_remove_to_restore_and_to_date(
    scene: Scene, door: Door
):
    """Without an anchor outside the database: said in the documentation, and no more than this."""
    before = scene.sealed_at(scene.place)
    updated_at = scene.attacker("SELECT DISTINCT updated_at FROM records")[0][0]
    time.sleep(0.002)  # noqa: ASYNC251 -- the next put is of another millisecond
    scene.store.put(("memories", "family"), "sister", {"text": "later"})

    scene.set("created_at = ?", updated_at - 1_000_000)
    item = await door(scene.store, "get", ("memories", "family"), "sister")
    assert item.created_at.timestamp() == pytest.approx(updated_at / 1_000_000 - 1)
    scene.set("sealed = ?, updated_at = ?", before, updated_at)
    item = await door(scene.store, "get", ("memories", "family"), "sister")
    assert item.value == CAT
    scene.set("expires_at = 1")
    assert await door(scene.store, "get", ("memories", "family"), "sister") is None
    scene.attacker("DELETE FROM records")
    assert await door(scene.store, "search", ()) == []


async def test_an_item_of_a_later_form_says_so(memory: IsolatedMemory, attacker: Attacker):
    """What a later version of this package may have written, sealed as it should be."""
    scene = Scene(memory, attacker)
    keys = memory.scope(user_id="alice", module_id="tutor")._records.keys()
    start = keys.aad_prefix(Kind.ITEM, scene.place[1])
    plaintext = keys.open(start, scene.place[2], scene.sealed_at(scene.place), Kind.ITEM)

    scene.set("sealed = ?", keys.seal(start, scene.place[2], b"\x02" + plaintext[1:]))

    for method, *args in (READS["get"], READS["search"], READS["namespaces"]):
        with pytest.raises(RecordError, match="form 2, this version knows 1"):
            getattr(scene.store, method)(*args)
