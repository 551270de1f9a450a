"""Equality filters that the database answers: the same answers, fewer items opened, none missed."""

import datetime as dt
import enum
import itertools
import math
import sqlite3
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langgraph.store.base import Item, PutOp, SearchOp

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope, ScopedMemory
from langmem_isolated._adapters import missing_digests
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._search.equality import EqualityFields
from langmem_isolated._search.store_filters import compiled
from langmem_isolated._storage.items import reading, writing
from langmem_isolated._storage.items.addresses import Address, RecordAddresses
from langmem_isolated._storage.items.lookup import Lookup
from langmem_isolated.errors import KeyDestroyed, RecordDoesNotOpen
from langmem_isolated.store import IsolatedStore
from langmem_isolated.store.batch import _filter
from tests.conftest import ROOT_KEY, Attacker, Door

FIELDS = ["category", "author.name"]
WORK, HOME = {"category": "work"}, {"category": "home"}
ITEM = int(Kind.ITEM)


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def store(tutor: ScopedMemory) -> IsolatedStore:
    return tutor.store(equality=FIELDS)


def fill(store: IsolatedStore, count: int = 6) -> None:
    """Items of both categories in turn, each by one of three authors."""
    for n in range(count):
        value = {**(HOME if n % 2 else WORK), "author": {"name": n % 3}, "n": n}
        store.put(("notes", "ab"[n % 2]), str(n), value)


def keys(found: list[Any]) -> list[str]:
    return [item.key for item in found]


def columns(attacker: Attacker) -> list[bytes | None]:
    rows = attacker("SELECT equalities FROM records WHERE kind = ? ORDER BY created_at", ITEM)
    return [None if row[0] is None else bytes(row[0]) for row in rows]


def entries(column: bytes | None) -> list[bytes]:
    assert column is not None
    return [column[at : at + 16] for at in range(16, len(column), 16)]


def damage(attacker: Attacker, scoped: ScopedMemory, *numbers: int) -> None:
    """Make items of :func:`fill` unreadable: who opens one is refused."""
    places = RecordAddresses(scoped._records.keys())
    for n in numbers:
        place = places.of(Address((b"notes", b"ab"[n % 2 :][:1]), str(n).encode()))
        damaged = "UPDATE records SET sealed = ? WHERE kind = ? AND parent = ? AND key = ?"
        attacker(damaged, b"x" * 80, ITEM, *place)


# --- what is opened -------------------------------------------------------------------------------


async def test_only_items_that_may_pass_are_opened(
    store: IsolatedStore, tutor: ScopedMemory, attacker: Attacker, door: Door
):
    fill(store)
    damage(attacker, tutor, 1, 3, 5)

    assert keys(await door(store, "search", (), filter=WORK)) == ["4", "2", "0"]
    assert keys(await door(store, "search", (), filter={"category": {"$eq": "work"}})) == list(
        "420"
    )
    both = {"category": "work", "author": {"name": 2}}
    assert keys(await door(store, "search", (), filter=both)) == ["2"]
    assert keys(await door(store, "search", (), filter={**WORK, "n": {"$gt": 1}})) == ["4", "2"]
    assert await door(store, "search", (), filter={"category": "none"}) == []
    with pytest.raises(RecordDoesNotOpen):
        await door(tutor.store(), "search", (), filter=WORK)
    with pytest.raises(RecordDoesNotOpen):
        await door(store, "search", (), filter={"n": 0})


def test_a_prefix_a_page_and_the_order_are_those_of_every_search(store: IsolatedStore):
    fill(store, 12)

    assert keys(store.search(("notes", "a"), filter=WORK)) == ["10", "8", "6", "4", "2", "0"]
    assert store.search(("notes", "b"), filter=WORK) == []
    assert keys(store.search((), filter=WORK, limit=2, offset=3)) == ["4", "2"]
    assert store.search((), filter=WORK, limit=2, offset=6) == []


def test_a_search_by_meaning_opens_vectors_of_what_passes_alone(
    tutor: ScopedMemory, attacker: Attacker
):
    near: Any = {"dims": 2, "embed": lambda texts: [[1.0, float(len(text))] for text in texts]}
    store = tutor.store(index={**near, "fields": ["t"]}, equality=["category"])
    plain = tutor.store(index={**near, "fields": ["t"]})
    for n in range(6):
        store.put(("notes",), str(n), {**(HOME if n % 2 else WORK), "t": "x" * (n + 1)})
    expected = [(one.key, one.score) for one in plain.search((), query="xxx", filter=WORK)]
    rows = attacker(
        "SELECT created_at FROM records WHERE kind = ? ORDER BY created_at", int(Kind.VECTOR)
    )
    for n in (1, 3, 5):
        attacker("UPDATE records SET sealed = ? WHERE created_at = ?", b"x" * 80, rows[n][0])

    found = store.search((), query="xxx", filter=WORK)

    assert [(one.key, one.score) for one in found] == expected
    assert keys(found) == ["2", "4", "0"]


def test_of_many_that_pass_all_vectors_are_ranked(
    tutor: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    near: Any = {"dims": 2, "embed": lambda texts: [[1.0, float(len(text))] for text in texts]}
    store = tutor.store(index={**near, "fields": ["t"]}, equality=["category"])
    for n in range(6):
        store.put(("notes",), str(n), {**(HOME if n % 2 else WORK), "t": "x" * (n + 1)})
    monkeypatch.setattr(reading, "_MOST_ASKED_FOR", 2)

    assert keys(store.search((), query="xxx", filter=WORK)) == ["2", "4", "0"]
    assert store.search((), query="xxx", filter={"category": "none"}) == []


def test_a_search_by_meaning_sees_one_state_of_items_and_their_vectors(
    memory: IsolatedMemory, tutor: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    """Others write after it was asked which items may pass, and before it is for their vectors."""
    near: Any = {"dims": 2, "embed": lambda texts: [[1.0, float(len(text))] for text in texts]}
    store = tutor.store(index={**near, "fields": ["t"]}, equality=["category"])
    for n in range(4):
        store.put(("notes",), str(n), {**WORK, "t": "x" * (n + 1)})
    before = store.search((), query="xxx", filter=WORK)
    asked = Lookup.rows

    def rows(lookup: Lookup, *args: Any) -> list[Any]:
        found = asked(lookup, *args)
        monkeypatch.undo()
        store.put(("notes",), "2", {**WORK, "t": "xxx", "anew": True})
        store.delete(("notes",), "1")
        return found

    monkeypatch.setattr(Lookup, "rows", rows)

    assert store.search((), query="xxx", filter=WORK) == before
    assert keys(store.search((), query="xxx", filter=WORK)) == ["2", "3", "0"]


# --- nothing is missed ----------------------------------------------------------------------------


def by_another_store(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    fill(tutor.store())


def by_one_with_other_fields(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    fill(tutor.store(equality=["n", "author.name"]))


def replaced_by_another_store(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    for n in range(6):
        tutor.store(equality=FIELDS).put(("notes", "ab"[n % 2]), str(n), {"category": "older"})
    fill(tutor.store())


def in_batches(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    for n in range(0, 6, 2):
        puts = [PutOp(("notes", "ab"[m % 2]), str(m), HOME if m % 2 else WORK) for m in (n, n + 1)]
        tutor.store().batch(puts)


def counted(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    fill(tutor.store(integrity="counted"))


def merged(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    fill(memory.scope(user_id="alice", module_id="planner").store(equality=FIELDS))
    memory.merge_modules(user_id="alice", from_module="planner", into_module="tutor", dry_run=False)


def claimed(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    guest = memory.anonymous(module_id="tutor")
    fill(guest.store(equality=FIELDS))
    memory.claim(guest.id, Scope("alice", "tutor"), confirmed=True)


def under_other_keys(memory: IsolatedMemory, tutor: ScopedMemory) -> None:
    fill(tutor.store())
    memory.rotate_keys("alice")


WAYS: list[Callable[[IsolatedMemory, ScopedMemory], None]] = [
    *(by_another_store, by_one_with_other_fields, replaced_by_another_store, in_batches),
    *(counted, merged, claimed, under_other_keys),
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_what_came_without_digests_is_found_and_indexed_by_the_search(
    memory: IsolatedMemory,
    tutor: ScopedMemory,
    attacker: Attacker,
    way: Callable[[IsolatedMemory, ScopedMemory], None],
):
    way(memory, tutor)
    store = tutor.store(equality=FIELDS)

    assert sorted(keys(store.search((), filter=WORK))) == ["0", "2", "4"]

    damage(attacker, tutor, 1, 3, 5)
    assert sorted(keys(store.search((), filter=WORK))) == ["0", "2", "4"]
    assert sorted(keys(store.search((), filter={"category": "older"}))) == []


def test_fields_of_two_stores_stand_side_by_side_once_both_have_searched(
    tutor: ScopedMemory, attacker: Attacker
):
    one, other = tutor.store(equality=["category"]), tutor.store(equality=["author.name"])
    fill(one)
    assert sorted(keys(other.search((), filter={"author": {"name": 1}}))) == ["1", "4"]

    damage(attacker, tutor, 0, 2, 3, 5)
    assert [len(entries(column)) for column in columns(attacker)] == [2] * 6
    assert sorted(keys(other.search((), filter={"author": {"name": 1}}))) == ["1", "4"]
    with pytest.raises(RecordDoesNotOpen):
        one.search((), filter=HOME)


def test_an_item_that_was_put_anew_meanwhile_gets_no_digests_of_the_older_one(
    tutor: ScopedMemory, store: IsolatedStore
):
    """Between a search and what it stores: another process puts the same item, of another value."""
    plain, records = tutor.store(), tutor._records
    plain.put(("notes",), "k", {**HOME, "secret": 1})
    keys_of = records.keys()
    wanted = _filter(WORK, EqualityFields(FIELDS))
    assert wanted
    lookup = Lookup(keys_of, wanted)
    assert records.snapshot(reading.newest, [], (), lookup, 10, 0) == []
    assert len(lookup.unindexed) == 1

    plain.put(("notes",), "k", {**WORK, "secret": 2})
    records.write(writing.index, lookup.unindexed)

    assert keys(store.search((), filter=WORK)) == ["k"]


def test_a_search_succeeds_where_its_digests_cannot_be_stored_and_the_next_does_not_wait_for_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    url = f"sqlite:///{tmp_path}/memory.db"
    with (
        IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), timeout=0.1) as memory,
        closing(sqlite3.connect(tmp_path / "memory.db", isolation_level=None)) as other,
    ):
        tutor = memory.scope(user_id="alice", module_id="tutor")
        fill(tutor.store())
        other.execute("BEGIN IMMEDIATE")

        for _ in range(3):
            found = tutor.store(equality=FIELDS).search((), filter=WORK)
            assert sorted(keys(found)) == list("024")
        assert len(caplog.records) == 1

        other.execute("ROLLBACK")
        assert columns_of(other) == [None] * 6
        monkeypatch.setattr(missing_digests, "_PAUSE_SECONDS", 0.0)
        assert sorted(keys(tutor.store(equality=FIELDS).search((), filter=HOME))) == list("135")
        assert None not in columns_of(other)


def columns_of(connection: sqlite3.Connection) -> list[bytes | None]:
    return [column for (column,) in connection.execute("SELECT equalities FROM records")]


def test_reads_in_a_batch_that_writes_are_answered_the_same(
    tutor: ScopedMemory, store: IsolatedStore
):
    fill(tutor.store())

    found, _ = store.batch([SearchOp((), WORK), PutOp(("notes", "a"), "0", HOME)])

    assert isinstance(found, list)
    assert sorted(keys(found)) == ["0", "2", "4"]
    assert sorted(keys(store.search((), filter=WORK))) == ["2", "4"]


# --- the same answers -----------------------------------------------------------------------------


class Colour(enum.StrEnum):
    WORK = "work"


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IsolatedMemory]:
    url = f"sqlite:///{tmp_path_factory.mktemp('equality')}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), synchronous="NORMAL") as memory:
        yield memory


_users = itertools.count()
SCALARS: list[Any] = [
    *(None, True, False, 0, 1, 1.0, -0.0, 1.5, -1, 2**70, 2.0**70, -(2**63), 1e300, 10**300),
    *(math.nan, math.inf, -math.inf, "", "1", "a", "work", "é", unicodedata.normalize("NFD", "é")),
    *(Decimal(1), Decimal("1.5"), b"a", (), [], [1, "a"], {"x": 1}, {"x": None}, "\ud800", "\x00"),
    *(dt.date(2026, 1, 1), dt.timedelta(1), {1}),
]
PARTS = st.sampled_from(SCALARS)
VALUES = st.dictionaries(
    st.sampled_from(["p", "q", "r"]),
    PARTS | st.dictionaries(st.sampled_from(["x", "y"]), PARTS, max_size=2),
    max_size=3,
)
LIMITS = st.sampled_from([0, 1, 1.5, "a", "é"])
CONDITIONS = st.one_of(
    PARTS,
    st.just(Colour.WORK),
    st.fixed_dictionaries({"$eq": PARTS}),
    st.fixed_dictionaries({"$eq": PARTS, "$ne": PARTS}),
    st.fixed_dictionaries({"$ne": PARTS}),
    st.fixed_dictionaries({"$gte": LIMITS}),
    st.fixed_dictionaries({"x": PARTS | st.fixed_dictionaries({"$eq": PARTS})}),
    st.fixed_dictionaries({"x": PARTS, "y": PARTS}),
)
FILTERS = st.dictionaries(st.sampled_from(["p", "q", "r", "p.x"]), CONDITIONS, max_size=3)
PUTS = st.builds(
    PutOp,
    st.sampled_from([("a",), ("a", "b"), ("b",)]),
    st.sampled_from("123"),
    VALUES | st.none(),
    st.none(),
    st.none(),
)
SEARCHES = st.builds(
    SearchOp,
    st.sampled_from([(), ("a",), ("b",)]),
    FILTERS,
    st.sampled_from([1, 2, 10]),
    st.sampled_from([0, 1]),
    st.none(),
    st.just(True),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["first", "second", "none"]),
        st.lists(PUTS | PUTS | SEARCHES, min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=6,
)


def plain(answer: Any) -> Any:
    if isinstance(answer, list):
        # Of one moment, items of a batch come by their addresses, which are digests.
        return sorted(repr((item.namespace, item.key, item.value)) for item in answer)
    assert not isinstance(answer, Item)
    return answer


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS)
@example(
    steps=[("none", [PutOp(("a",), "1", {"p": 1})]), ("first", [SearchOp((), {"p": True}, 10)])]
)
@example(
    steps=[
        ("first", [PutOp(("a",), "1", {"p": Decimal(1)})]),
        ("first", [SearchOp((), {"p": 1}, 10), SearchOp((), {"p": {"x": None}}, 10)]),
    ]
)
def test_stores_with_and_without_equality_do_the_same(
    lasting: IsolatedMemory, steps: list[tuple[str, list[Any]]]
):
    """Of several stores over one scope, each with other fields, against one without any."""
    user = next(_users)
    indexed, other = (
        lasting.scope(user_id=f"{name}{user}", module_id="tutor") for name in ("a", "b")
    )
    stores = {
        "first": indexed.store(equality=["p", "q.x"]),
        "second": indexed.store(equality=["q", "p.x"]),
        "none": indexed.store(),
    }
    for name, ops in steps:
        for op in ops:  # each at a moment of its own: pages are of one order
            assert plain(stores[name].batch([op])[0]) == plain(other.store().batch([op])[0])
    indexed.verify()


@given(st.lists(PARTS | st.integers() | st.floats() | st.text(), min_size=2, max_size=2))
@example([1, True])
@example([0, -0.0])
@example([2**53, float(2**53)])
@example([Decimal(1), 1])
@settings(max_examples=300)
def test_what_a_filter_takes_for_equal_has_one_form(pair: list[Any]):
    fields = EqualityFields(["f"])
    stored, wanted = ({"f": part} for part in pair)
    conditions, terms = fields.conditions(wanted), fields.terms(stored)

    if compiled(wanted)(stored) and conditions and terms:
        assert conditions == terms


# --- what is told, and to whom --------------------------------------------------------------------


def test_equal_values_have_one_digest_inside_a_scope_and_another_in_every_other(
    memory: IsolatedMemory, attacker: Attacker
):
    seen: list[bytes] = []
    for user, module, project in [
        ("a", "t", "p"),
        ("b", "t", "p"),
        ("a", "u", "p"),
        ("a", "t", "q"),
    ]:
        scoped = memory.scope(user_id=user, module_id=module, project_id=project)
        store = scoped.store(equality=["p", "q"])
        store.put(("a",), "1", {"p": "work", "q": "work"})
        store.put(("b",), "2", {"p": "work", "q": "home"})
        one, two = columns(attacker)[-2:]
        # Of four, two are of one field and one value.
        assert len({*entries(one), *entries(two)}) == 3
        assert one is not None
        assert two is not None
        assert one[:16] != two[:16]
        seen += {*entries(one), *entries(two)}

    assert len({entry[:8] for entry in seen}) == 8
    assert len({entry[8:] for entry in seen}) == 12


def test_no_digest_is_made_of_anything_where_nothing_is_indexed(
    tutor: ScopedMemory, attacker: Attacker
):
    fill(tutor.store())
    tutor.store().search((), filter=WORK)
    tutor.store(equality=["category"]).search((), filter={"n": 1})

    assert columns(attacker) == [None] * 6


def test_digests_end_with_their_value(store: IsolatedStore, attacker: Attacker):
    store.put(("a",), "k", WORK)
    (work,) = columns(attacker)
    store.put(("a",), "k", HOME)
    (home,) = columns(attacker)
    assert set(entries(work)).isdisjoint(entries(home)) is False  # no author, twice
    assert entries(work) != entries(home)
    assert store.search((), filter=WORK) == []

    store.delete(("a",), "k")
    assert columns(attacker) == []


def test_no_copy_of_the_database_tells_whether_a_value_was_put_again(
    store: IsolatedStore, attacker: Attacker
):
    macs = []
    for secret in ("a", "a", "b", "a"):
        store.put(("a",), "k", {**WORK, "secret": secret})
        macs += [column[:16] for column in columns(attacker) if column]

    assert len({*macs}) == 4


def test_an_item_lives_as_long_with_digests(store: IsolatedStore, attacker: Attacker):
    store.put(("a",), "k", WORK, ttl=0)
    assert store.search((), filter=WORK) == []

    store.put(("a",), "k", WORK, ttl=60)
    (before,) = attacker("SELECT expires_at FROM records WHERE kind = ?", ITEM)
    assert keys(store.search((), filter=WORK)) == ["k"]
    (after,) = attacker("SELECT expires_at FROM records WHERE kind = ?", ITEM)
    assert after > before
    assert keys(store.search((), filter=WORK)) == ["k"]


def test_a_rotation_of_keys_leaves_digests_as_they_are_and_an_erasure_ends_them(
    memory: IsolatedMemory, tutor: ScopedMemory, store: IsolatedStore, attacker: Attacker
):
    fill(store)
    before = columns(attacker)

    memory.rotate_keys("alice")

    assert columns(attacker) == before
    assert tutor.verify().items == 6
    memory.erase_user("alice")
    assert columns(attacker) == []
    assert store.search((), filter=WORK) == []
    with pytest.raises(KeyDestroyed):
        store.put(("a",), "k", WORK)
    # Who comes back has other keys, and so other digests.
    fill(memory.scope(user_id="alice", module_id="tutor").store(equality=FIELDS))
    for one, other in zip(before, columns(attacker), strict=True):
        assert set(entries(one)).isdisjoint(entries(other))


# --- who tampers ----------------------------------------------------------------------------------


def exchanged(attacker: Attacker, rows: list[tuple[Any, ...]]) -> None:
    (_, _, one), (_, _, other) = rows[:2]
    for (_, at, _), column in zip(rows[:2], (other, one), strict=True):
        attacker("UPDATE records SET equalities = ? WHERE created_at = ?", column, at)


def one_value_for_another(attacker: Attacker, rows: list[tuple[Any, ...]]) -> None:
    (_, at, one), (_, _, other) = rows[:2]
    attacker("UPDATE records SET equalities = ? WHERE created_at = ?", one[:16] + other[16:], at)


def one_more(attacker: Attacker, rows: list[tuple[Any, ...]]) -> None:
    (_, at, one), (_, _, other) = rows[:2]
    attacker("UPDATE records SET equalities = ? WHERE created_at = ?", one + other[16:], at)


def one_less(attacker: Attacker, rows: list[tuple[Any, ...]]) -> None:
    attacker("UPDATE records SET equalities = ? WHERE created_at = ?", rows[0][2][:32], rows[0][1])


def made_up(attacker: Attacker, rows: list[tuple[Any, ...]]) -> None:
    attacker("UPDATE records SET equalities = ? WHERE created_at = ?", b"x" * 48, rows[0][1])


TAMPERED = [exchanged, one_value_for_another, one_more, one_less, made_up]


@pytest.mark.parametrize("tampered", TAMPERED, ids=lambda one: one.__name__)
def test_whoever_changes_digests_can_hide_an_item_and_verify_tells(
    tutor: ScopedMemory,
    store: IsolatedStore,
    attacker: Attacker,
    tampered: Callable[[Attacker, list[tuple[Any, ...]]], None],
):
    fill(store)
    rows = attacker(
        "SELECT key, created_at, equalities FROM records WHERE kind = ? ORDER BY created_at", ITEM
    )

    tampered(attacker, rows)

    for wanted, right in ((WORK, {"0", "2", "4"}), (HOME, {"1", "3", "5"})):
        try:
            found = set(keys(store.search((), filter=wanted)))
        except RecordDoesNotOpen:
            continue
        assert found <= right
    with pytest.raises(RecordDoesNotOpen, match="digests"):
        tutor.verify()


def test_who_takes_digests_away_hides_nothing(
    tutor: ScopedMemory, store: IsolatedStore, attacker: Attacker
):
    fill(store)
    attacker("UPDATE records SET equalities = NULL WHERE kind = ?", ITEM)

    assert sorted(keys(store.search((), filter=WORK))) == ["0", "2", "4"]
    assert tutor.verify().items == 6
    assert None not in columns(attacker)


def test_digests_beside_a_record_that_has_none_are_told(tutor: ScopedMemory, attacker: Attacker):
    tutor.byte_store().mset([("a", b"1")])
    attacker("UPDATE records SET equalities = ? WHERE kind = ?", b"x" * 32, int(Kind.ENTRY))

    with pytest.raises(RecordDoesNotOpen, match="a column"):
        tutor.verify()


# --- arguments ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ("category", TypeError, "equality must be a list of field names, got str"),
        ({"category": 1}, TypeError, "got dict"),
        (["a", 3], TypeError, "got a list with int"),
        ([], ValueError, "1 to 16 fields, got 0"),
        ([f"f{n}" for n in range(17)], ValueError, "got 17"),
        ([""], ValueError, "one of 0 characters"),
        (["a..b"], ValueError, "one of 4 characters"),
        (["$eq"], ValueError, "one of 3 characters"),
        (["a.$eq"], ValueError, "one of 5 characters"),
    ],
)
def test_fields_without_a_meaning_are_refused(
    memory: IsolatedMemory, wrong: Any, error: type[Exception], message: str
):
    for made in (memory.scope(user_id="alice", module_id="tutor").store, memory.store):
        with pytest.raises(error, match=message) as caught:
            made(equality=wrong)
        assert "Write equality=" in str(caught.value)


def test_the_store_of_a_run_is_indexed_as_well(memory: IsolatedMemory, attacker: Attacker):
    store = memory.store(equality=FIELDS)
    with memory.using(Scope("alice", "tutor")):
        fill(store)
        damage(attacker, memory.scope(user_id="alice", module_id="tutor"), 1, 3, 5)
        assert keys(store.search((), filter=WORK)) == ["4", "2", "0"]
