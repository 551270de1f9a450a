import asyncio
import datetime as dt
import ipaddress
import itertools
import math
import random
import subprocess
import sys
import textwrap
import threading
import time
import uuid
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    SearchItem,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.items import reading, statements, writing
from langmem_isolated._storage.items.addresses import Address
from langmem_isolated.errors import EmbeddingModelWarning, KeyDestroyed, ValueNotStorable
from langmem_isolated.store import IsolatedStore
from tests.conftest import Attacker, Door
from tests.query_plans import query_plan
from tests.threads import Level

ANIMALS = {"cat": [1.0, 0.0, 0.0], "dog": [0.8, 0.6, 0.0], "stone": [0.0, 0.0, 1.0]}
MINUTES = 1 / 60_000
"""A millisecond."""


class ByTable(Embeddings):
    """Texts have the vectors they were given; what was asked for is remembered."""

    def __init__(self, table: dict[str, list[float]]) -> None:
        self.table = table
        self.asked: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.asked += texts
        return [self.table[text] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return self.embed_documents([text])[0]


@pytest.fixture
def store(memory: IsolatedMemory) -> IsolatedStore:
    return memory.scope(user_id="alice", module_id="tutor").store()


def indexed(memory: IsolatedMemory, user: str = "alice", **more: Any) -> IsolatedStore:
    index = {"dims": 3, "embed": ByTable(ANIMALS), "fields": ["text"], **more}
    return memory.scope(user_id=user, module_id="tutor").store(index=index)


def keys(items: Sequence[Item]) -> list[str]:
    return [item.key for item in items]


def scores(items: Sequence[SearchItem]) -> list[float | None]:
    return [None if item.score is None else round(item.score, 3) for item in items]


# --- putting, getting, deleting -------------------------------------------------------------------


async def test_what_is_put_is_got(store: IsolatedStore, door: Door):
    value = {"text": "She plays the cello.", "weight": 3, "tags": ["family", None], "of": {"n": 1}}
    before = dt.datetime.now(dt.UTC)

    await door(store, "put", ("memories", "family"), "sister", value)

    item = await door(store, "get", ("memories", "family"), "sister")
    assert type(item) is Item
    assert (item.namespace, item.key, item.value) == (("memories", "family"), "sister", value)
    assert before <= item.created_at == item.updated_at <= dt.datetime.now(dt.UTC)


async def test_what_was_never_put_is_absent(store: IsolatedStore, door: Door):
    assert await door(store, "get", ("memories",), "sister") is None
    assert await door(store, "search", ()) == []
    assert await door(store, "list_namespaces") == []
    assert await door(store, "sweep") == 0
    await door(store, "delete", ("memories",), "sister")

    await door(store, "put", ("memories",), "brother", {})

    assert await door(store, "get", ("memories",), "sister") is None
    assert await door(store, "get", ("memories", "more"), "brother") is None


async def test_reading_and_deleting_make_no_keys(memory: IsolatedMemory, door: Door):
    store = memory.scope(user_id="nobody", module_id="tutor").store()

    await door(store, "get", ("memories",), "sister")
    await door(store, "delete", ("memories",), "sister")
    await door(store, "batch", [GetOp(("a",), "b"), SearchOp(("a",)), PutOp(("a",), "b", None)])

    assert memory.modules(user_id="nobody") == []


async def test_an_update_keeps_when_the_item_was_first_put(store: IsolatedStore, door: Door):
    await door(store, "put", ("memories",), "sister", {"plays": "cello"})
    first = await door(store, "get", ("memories",), "sister")
    await asyncio.sleep(0.003)

    await door(store, "put", ("memories",), "sister", {"plays": "piano"})

    item = await door(store, "get", ("memories",), "sister")
    assert item.value == {"plays": "piano"}
    assert item.created_at == first.created_at
    assert item.updated_at > first.updated_at
    await door(store, "batch", [PutOp(("memories",), key, {}) for key in ("sister", "brother")])
    again = await door(store, "get", ("memories",), "sister")
    assert again.created_at == item.created_at
    assert again.updated_at >= item.updated_at


async def test_a_deleted_item_is_gone_and_begins_anew_when_put_again(
    store: IsolatedStore, door: Door
):
    await door(store, "put", ("memories",), "sister", {"plays": "cello"})
    await door(store, "put", ("memories",), "brother", {})
    first = await door(store, "get", ("memories",), "sister")

    await door(store, "delete", ("memories",), "sister")

    assert await door(store, "get", ("memories",), "sister") is None
    assert keys(await door(store, "search", ())) == ["brother"]
    await asyncio.sleep(0.002)
    await door(store, "put", ("memories",), "sister", {"plays": "piano"})
    assert (await door(store, "get", ("memories",), "sister")).created_at > first.updated_at


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"": ""},
        {"a": None, "b": True, "c": 0, "d": -1.5, "e": "é\x00\U0001f600", "f": [], "g": {}},
        {"big": 2**200, "small": -(2**70), "inf": math.inf, "float": 1e-320},
        {"bytes": b"\x00\xff", "tuple": (1, (2,)), "set": {1, 2}, "deque": deque([1], 3)},
        {"when": dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "day": dt.date(2026, 1, 2)},
        {"id": uuid.UUID(int=7), "price": Decimal("1.10"), "host": ipaddress.ip_address("::1")},
        {"said": [HumanMessage("Hello"), AIMessage("Hi", id="1")], "page": Document("text")},
        {"nested": {"deep": [{"er": [{"and": {"deeper": (None,)}}]}]}, "text": "long " * 5_000},
        {1: "a key that is no text", ("a", 1): 2},
    ],
    ids=lambda value: "-".join(map(str, value))[:40] or "empty",
)
async def test_values_come_back_as_they_were(store: IsolatedStore, door: Door, value: Any):
    await door(store, "put", ("memories",), "sister", value)

    found = (await door(store, "get", ("memories",), "sister")).value
    assert found == value
    assert repr(found) == repr(value)
    (item,) = await door(store, "search", ("memories",))
    assert item.value == value


async def test_every_read_gives_a_value_of_the_callers_own(store: IsolatedStore, door: Door):
    value = {"tags": ["family"]}
    await door(store, "put", ("memories",), "sister", value)
    value["tags"].append("changed after it was put")

    (await door(store, "get", ("memories",), "sister")).value["tags"].append("changed by a reader")

    assert (await door(store, "get", ("memories",), "sister")).value == {"tags": ["family"]}


class Secret:
    def __repr__(self) -> str:
        return "canary"


async def test_a_value_that_cannot_be_stored_is_refused_by_its_type(
    store: IsolatedStore, door: Door
):
    good = PutOp(("memories",), "brother", {})

    with pytest.raises(ValueNotStorable, match=r"test_store\.Secret in an item of a store") as bad:
        await door(store, "batch", [good, PutOp(("memories",), "sister", {"s": [Secret()]})])
    assert "canary" not in str(bad.value)
    with pytest.raises(TypeError, match="must be a mapping, got list"):
        await door(store, "batch", [good, PutOp(("memories",), "sister", ["text"])])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="must be a str, got int"):
        await door(store, "batch", [good, GetOp(("memories",), 1)])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Unknown operation str"):
        await door(store, "batch", [good, "get"])
    with pytest.raises(ValueNotStorable, match="lone surrogates"):
        await door(store, "put", ("memories",), "\ud800", {})

    assert await door(store, "search", ()) == []


@pytest.mark.parametrize(
    "key", ["", " ", "a\x00b", "%", "*", "'; DROP TABLE records; --", "é", "e\u0301", "k" * 10_000]
)
async def test_any_text_is_a_key(store: IsolatedStore, door: Door, key: str):
    await door(store, "put", ("memories",), key, {"n": 1})
    await door(store, "put", ("memories",), f"{key}2", {"n": 2})

    assert (await door(store, "get", ("memories",), key)).value == {"n": 1}
    assert sorted(keys(await door(store, "search", ("memories",)))) == sorted([key, f"{key}2"])


async def test_keys_that_are_no_text_are_taken_as_text(store: IsolatedStore, door: Door):
    await door(store, "put", ("memories",), 7, {"n": 1})

    assert (await door(store, "get", ("memories",), "7")).key == "7"
    await door(store, "delete", ("memories",), 7)
    assert await door(store, "get", ("memories",), 7) is None


# --- namespaces -----------------------------------------------------------------------------------

MALFORMED = [
    ("a.b",),
    ("",),
    ("a", ""),
    ("a", "b\x00"),
    ("a", 7),
    ("a", None),
    ("\ud800",),
    ("a",) * 101,
    "memories",
    None,
]


@pytest.mark.parametrize("namespace", MALFORMED, ids=lambda namespace: ascii(namespace)[:30])
async def test_malformed_namespaces_are_refused_without_being_quoted(
    store: IsolatedStore, door: Door, namespace: Any
):
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
        ("put", (namespace, "sister", {}), {}),
        ("get", (namespace, "sister"), {}),
        ("delete", (namespace, "sister"), {}),
        ("search", (namespace,), {}),
        ("batch", ([PutOp(namespace, "sister", {})],), {}),
        ("batch", ([PutOp(namespace, "sister", None)],), {}),
        ("batch", ([GetOp(namespace, "sister")],), {}),
        ("batch", ([SearchOp(namespace)],), {}),
        ("batch", ([ListNamespacesOp((MatchCondition("prefix", namespace),))],), {}),
        ("batch", ([ListNamespacesOp((MatchCondition("suffix", namespace),))],), {}),
    ]
    if namespace:
        calls += [("list_namespaces", (), {end: namespace}) for end in ("prefix", "suffix")]

    for name, args, kwargs in calls:
        with pytest.raises(InvalidNamespaceError) as refused:
            await door(store, name, *args, **kwargs)
        assert refused.value.__cause__ is None
        assert "a.b" not in str(refused.value)


async def test_reserved_and_empty_namespaces_take_no_items(store: IsolatedStore, door: Door):
    for namespace in ((), ("langgraph",), ("langgraph", "more")):
        for call in (
            ("put", namespace, "sister", {}),
            ("batch", [PutOp(namespace, "sister", {})]),
        ):
            with pytest.raises(InvalidNamespaceError, match="at least one label"):
                await door(store, *call)
        assert await door(store, "get", namespace, "sister") is None
        await door(store, "delete", namespace, "sister")

    await door(store, "put", ("memories", "langgraph"), "sister", {})
    assert await door(store, "list_namespaces") == [("memories", "langgraph")]


async def test_a_prefix_ends_at_a_label(store: IsolatedStore, door: Door):
    names = [("acme",), ("acme", "x"), ("acme-corp",), ("acm",), ("ACME",), ("acm_",), ("acm%",)]
    for name in names:
        await door(store, "put", name, "k", {"of": list(name)})

    found = await door(store, "search", ("acme",))
    assert sorted(item.namespace for item in found) == [("acme",), ("acme", "x")]
    assert len(await door(store, "search", ("acm_",))) == 1
    assert len(await door(store, "search", ())) == len(names)
    assert await door(store, "list_namespaces", prefix=("acme",)) == [("acme",), ("acme", "x")]


async def test_names_that_look_alike_are_apart(store: IsolatedStore, door: Door):
    names = [("é",), ("e\u0301",), ("a", "b"), ("ab",), ("a b",), ("a,b",), ("a", "b", "c"),
             ("a" * 3_000,), ("*",), ("*", "b"), ("x" * 255,) * 100]  # fmt: skip
    for number, name in enumerate(names):
        await door(store, "put", name, "k", {"n": number})

    for number, name in enumerate(names):
        assert (await door(store, "get", name, "k")).value == {"n": number}
    assert await door(store, "list_namespaces") == sorted(names)


async def test_namespaces_are_listed_as_documented(store: IsolatedStore, door: Door):
    for name in ("abc", "abde", "abdi", "abf", "acf"):
        for key in ("1", "2"):
            await door(store, "put", tuple(name), key, {})

    async def listed(**options: Any) -> list[str]:
        return ["".join(name) for name in await door(store, "list_namespaces", **options)]

    assert await listed() == ["abc", "abde", "abdi", "abf", "acf"]
    assert await listed(prefix=("a", "b"), max_depth=3) == ["abc", "abd", "abf"]
    assert await listed(suffix=("f",)) == ["abf", "acf"]
    assert await listed(prefix=("a", "*", "f")) == ["abf", "acf"]
    assert await listed(prefix=("*", "b", "d")) == ["abde", "abdi"]
    assert await listed(suffix=("*", "f")) == ["abf", "acf"]
    assert await listed(suffix=("b", "*")) == ["abc", "abf"]
    assert await listed(prefix=("a", "b"), suffix=("e",)) == ["abde"]
    assert await listed(prefix=("a", "b", "c", "d")) == []
    assert await listed(max_depth=1) == ["a"]
    assert await listed(limit=2, offset=1) == ["abde", "abdi"]
    assert await listed(limit=0) == []
    assert await listed(prefix=()) == await listed(suffix=()) == await listed()
    await door(store, "delete", ("a", "b", "f"), "1")
    assert await listed(suffix=("f",)) == ["abf", "acf"]
    await door(store, "delete", ("a", "b", "f"), "2")
    assert await listed(suffix=("f",)) == ["acf"]
    with pytest.raises(ValueError, match="'prefix' or 'suffix'"):
        await door(store, "batch", [ListNamespacesOp((MatchCondition("infix", ("a",)),))])  # type: ignore[arg-type]
    for wrong in ({"limit": -1}, {"offset": -1}, {"max_depth": -1}):
        with pytest.raises(ValueError, match="0 or more"):
            await listed(**wrong)


async def test_namespaces_given_as_lists_are_taken(store: IsolatedStore, door: Door):
    await door(store, "put", ["memories", "family"], "sister", {})

    assert (await door(store, "get", ["memories", "family"], "sister")).namespace == (
        "memories",
        "family",
    )
    assert keys(await door(store, "search", ["memories"])) == ["sister"]


# --- searching ------------------------------------------------------------------------------------


async def test_a_search_gives_the_items_put_last_first(store: IsolatedStore, door: Door):
    for number in range(40):
        await door(store, "put", ("memories", str(number % 3)), f"k{number}", {"n": number})
    await door(store, "put", ("memories", "0"), "k0", {"n": 0, "again": True})

    order = ["k0", *(f"k{number}" for number in range(39, 0, -1))]
    assert keys(await door(store, "search", ("memories",))) == order[:10]
    assert keys(await door(store, "search", (), limit=1)) == order[:1]
    assert keys(await door(store, "search", (), limit=100)) == order
    assert keys(await door(store, "search", (), limit=7, offset=30)) == order[30:37]
    assert await door(store, "search", (), limit=0) == []
    assert await door(store, "search", (), offset=40) == []
    assert keys(await door(store, "search", (), limit=10**12, offset=38)) == order[38:]
    assert type((await door(store, "search", ()))[0]) is SearchItem
    for wrong in ({"limit": -1}, {"offset": -1}):
        with pytest.raises(ValueError, match="0 or more"):
            await door(store, "search", (), **wrong)


@pytest.mark.parametrize("wanted", [None, {"even": True}])
async def test_pages_of_items_put_at_once_neither_repeat_nor_skip_any(
    store: IsolatedStore, door: Door, wanted: dict[str, Any] | None
):
    await door(store, "put", ("memories",), "first", {"even": True})
    ops = [PutOp(("memories",), f"k{n}", {"n": n, "even": n % 2 == 0}) for n in range(200)]
    await door(store, "batch", ops)
    await door(store, "put", ("memories",), "last", {"even": True})

    found: list[str] = []
    while page := await door(store, "search", (), filter=wanted, limit=7, offset=len(found)):
        found += keys(page)

    expected = [op.key for op in ops if op.value and (not wanted or op.value["even"])]
    assert sorted(found) == sorted([*expected, "first", "last"])
    assert (found[0], found[-1]) == ("last", "first")


@pytest.mark.parametrize("one_in", [2, 9, 50, 500])
async def test_a_filter_finds_the_newest_of_those_that_pass(
    store: IsolatedStore, door: Door, one_in: int
):
    for first in range(0, 400, 40):
        ops = [
            PutOp(("memories",), f"k{n}", {"n": n, "is_one": n % one_in == 0})
            for n in range(first, first + 40)
        ]
        await door(store, "batch", ops)
        await asyncio.sleep(0.002)

    found = await door(store, "search", (), filter={"is_one": True}, limit=10)

    batches = [item.value["n"] // 40 for item in found]
    passing = [n // 40 for n in range(400) if n % one_in == 0]
    assert batches == sorted(passing, reverse=True)[:10]


@pytest.mark.parametrize("wanted", [None, {"is_rare": True}])
@pytest.mark.parametrize("equality", [None, ["is_rare"]])
async def test_a_search_finds_what_many_others_were_put_after(
    memory: IsolatedMemory, door: Door, equality: list[str] | None, wanted: dict[str, Any] | None
):
    store = memory.scope(user_id="alice", module_id="tutor").store(equality=equality)
    for number in range(5):
        await door(store, "put", ("rare",), f"k{number}", {"is_rare": number < 4})
    for is_rare in (True, False):
        ops = [PutOp(("memories",), f"{is_rare}{n}", {"is_rare": is_rare}) for n in range(200)]
        await door(store, "batch", ops)

    order = [f"k{number}" for number in (range(3, -1, -1) if wanted else range(4, -1, -1))]
    for limit in (1, 2, 10):
        found = await door(store, "search", ("rare",), filter=wanted, limit=limit)
        assert keys(found) == order[:limit]
    assert keys(await door(store, "search", ("rare",), filter=wanted, offset=2)) == order[2:]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_a_search_goes_through_the_index_of_items_only_as_far_as_it_needs(memory: IsolatedMemory):
    assert query_plan(memory, statements.first(0, is_postgres=False)) == [
        "CO-ROUTINE last",
        "SEARCH records USING COVERING INDEX records_items",
        "SCAN last",
        "SEARCH records USING PRIMARY KEY",
    ]


FILTERS: list[dict[str, Any]] = [
    {},
    {"n": 2},
    {"n": 2.0},
    {"n": True},
    {"n": None},
    {"missing": None},
    {"n": "2"},
    {"n": {"$eq": 2}},
    {"n": {"$ne": 2}},
    {"missing": {"$ne": 2}},
    {"of": {"x": 1}},
    {"of": {}},
    {"of": {"x": 1, "y": None}},
    {"tags": ["a", "b"]},
    {"tags": ["a", {"$ne": "c"}]},
    {"tags": ("a", "b")},
    {"tags": []},
    {"name": "cello"},
    {"name": ""},
    {"name": "cello", "n": 10},
    {"name": {"$eq": "cello"}},
    {"name": {"$ne": "cello"}},
    {"n": {"$gt": 2, "$lte": 10}},
    {"key.with.dots": 1},
    {"quote'\"; --": "x"},
    {"level": "high"},
    {"level": "high", "n": 6},
    {"\ud800": "x"},
    {"\ud800": "\udfff"},
]  # fmt: skip
ITEMS: list[dict[str, Any]] = [
    {"n": 2, "name": "cello"},
    {"n": 9, "name": "cell"},
    {"n": 10, "name": "cello", "tags": ["a", "b"]},
    {"n": 100, "tags": ["b", "a"], "of": {"x": 1}},
    {"n": 1, "of": {"x": 1, "y": None, "z": 2}},
    {"n": 3, "of": {"x": 0}, "name": ""},
    {"n": 4, "tags": [], "of": {}, "key.with.dots": 1},
    {"n": 5, "nested": {"name": "cello"}, "quote'\"; --": "x"},
    {"n": 6, "level": Level.HIGH},
    {"n": 7, "\ud800": "x", "level": "high"},
    {"n": 8, "\ud800": "\udfff"},
]


@pytest.mark.parametrize("wanted", FILTERS, ids=str)
async def test_filters_find_what_langgraphs_own_store_finds(
    store: IsolatedStore, door: Door, wanted: dict[str, Any]
):
    theirs = InMemoryStore()
    for number, value in enumerate(ITEMS):
        theirs.put(("memories",), f"k{number}", value)
        await door(store, "put", ("memories",), f"k{number}", value)

    found = await door(store, "search", ("memories",), filter=wanted, limit=100)

    expected = theirs.search(("memories",), filter=wanted, limit=100)
    assert sorted(keys(found)) == sorted(keys(expected))


NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)
LATER = NOON + dt.timedelta(hours=1)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({"$gt": 9}, [10, 100, 1e300, Decimal("9.5")]),
        ({"$gte": 9}, [9, 10, 100, 1e300, Decimal("9.5")]),
        ({"$lt": 9.5}, [2, 9, -1.5]),
        ({"$lte": Decimal(2)}, [2, -1.5]),
        ({"$gt": 2, "$lt": 100}, [9, 10, Decimal("9.5")]),
        ({"$gt": "10"}, ["9", "a", "é"]),
        ({"$lt": "a"}, ["9"]),
        ({"$gt": NOON}, [LATER]),
        ({"$gte": NOON}, [NOON, LATER]),
        ({"$gt": dt.date(2020, 1, 1)}, []),
        ({"x": {"$gt": 0}}, [{"x": 1}]),
    ],
    ids=str,
)
async def test_order_is_that_of_numbers_among_numbers_and_of_texts_among_texts(
    store: IsolatedStore, door: Door, condition: dict[str, Any], expected: list[Any]
):
    values = [2, 9, 10, 100, -1.5, 1e300, Decimal("9.5"), "9", "a", "é", None, True, False, [1],
              {"x": 1}, NOON, LATER, LATER.replace(tzinfo=None)]  # fmt: skip
    ops = [PutOp(("memories",), str(number), {"v": value}) for number, value in enumerate(values)]
    await door(store, "batch", [*ops, PutOp(("memories",), "without", {})])

    found = await door(store, "search", (), filter={"v": condition}, limit=100)

    positions = sorted(int(item.key) for item in found)
    assert [values[position] for position in positions] == [v for v in values if v in expected]


@pytest.mark.parametrize(
    "condition",
    [{"$gt": None}, {"$gt": ["canary"]}, {"$lt": True}, {"$gte": math.nan},
     {"$lt": Decimal("NaN")}, {"$lte": {"date": "canary"}}],
    ids=str,
)  # fmt: skip
async def test_a_limit_without_an_order_is_refused_even_where_nothing_is_stored(
    store: IsolatedStore, door: Door, condition: dict[str, Any]
):
    with pytest.raises(ValueError, match="what has an order") as refused:
        await door(store, "search", ("memories",), filter={"v": condition})
    assert "canary" not in str(refused.value)


@pytest.mark.parametrize(
    "wanted",
    [
        {"n": {"$regex": "canary"}},
        {"n": {"$gt": 1, "plain": 2}},
        {"of": {"x": {"$in": [1]}}},
        {"tags": ["a", {"$or": 1}]},
    ],
    ids=str,
)
async def test_unknown_operators_are_refused_even_where_nothing_is_stored(
    store: IsolatedStore, door: Door, wanted: dict[str, Any]
):
    with pytest.raises(ValueError, match=r"supported are \$eq, \$ne, \$gt") as refused:
        await door(store, "search", ("memories",), filter=wanted)
    assert "canary" not in str(refused.value)


async def test_a_text_that_stands_deeper_does_not_pass_for_the_one_asked_for(
    store: IsolatedStore, door: Door
):
    await door(store, "put", ("memories",), "deep", {"of": {"name": "cello"}, "name": "piano"})
    await door(store, "put", ("memories",), "text", {"said": "\xa4name\xa5cello"})
    await door(store, "put", ("name", "cello"), "cello", {"text": "name", "cello": "name"})
    await door(store, "put", ("memories",), "this", {"name": "cello", 3: "odd key"})

    assert keys(await door(store, "search", (), filter={"name": "cello"})) == ["this"]


# --- batches --------------------------------------------------------------------------------------


async def test_a_batch_answers_in_order_from_what_was_there_before_it(
    store: IsolatedStore, door: Door
):
    await door(store, "put", ("memories",), "sister", {"n": 1})
    ops: list[Op] = [
        PutOp(("memories",), "sister", {"n": 2}),
        GetOp(("memories",), "sister"),
        PutOp(("more",), "brother", {"n": 3}),
        SearchOp(("memories",)),
        GetOp(("more",), "brother"),
        ListNamespacesOp(),
        GetOp(("memories",), "sister"),
    ]

    answers = await door(store, "batch", ops)

    assert [type(answer) for answer in answers] == [
        type(None), Item, type(None), list, type(None), list, Item,
    ]  # fmt: skip
    assert answers[1].value == answers[6].value == answers[3][0].value == {"n": 1}
    assert answers[5] == [("memories",)]
    after = await door(store, "batch", [op for op in ops if not isinstance(op, PutOp)])
    assert [after[0].value, keys(after[1]), after[2].value, after[3]] == [
        {"n": 2}, ["sister"], {"n": 3}, [("memories",), ("more",)],
    ]  # fmt: skip
    assert await door(store, "batch", []) == []
    assert keys((await door(store, "batch", iter([SearchOp(("more",))])))[0]) == ["brother"]


async def test_of_several_puts_at_one_address_the_last_counts(store: IsolatedStore, door: Door):
    await door(store, "put", ("memories",), "gone", {})

    await door(
        store,
        "batch",
        [
            PutOp(("memories",), "twice", {"n": 1}),
            PutOp(("memories",), "gone", {"n": 1}),
            PutOp(("memories",), "twice", {"n": 2}),
            PutOp(("memories",), "gone", None),
            PutOp(("memories",), "back", None),
            PutOp(("memories",), "back", {"n": 3}),
        ],
    )

    found = {item.key: item.value for item in await door(store, "search", ())}
    assert found == {"twice": {"n": 2}, "back": {"n": 3}}


async def test_large_batches_are_stored_and_read_whole(store: IsolatedStore, door: Door):
    names = [("memories", str(number % 7)) for number in range(1_000)]
    puts = [PutOp(name, f"k{n}", {"n": n}) for n, name in enumerate(names)]

    await door(store, "batch", puts)
    await door(store, "batch", [PutOp(op.namespace, op.key, None) for op in puts[::2]])

    answers = await door(store, "batch", [GetOp(op.namespace, op.key) for op in puts])
    assert [answer and answer.value for answer in answers] == [
        op.value if number % 2 else None for number, op in enumerate(puts)
    ]
    assert len(await door(store, "search", (), limit=2_000)) == 500


# --- time to live ---------------------------------------------------------------------------------


def timed(memory: IsolatedMemory, **ttl: Any) -> IsolatedStore:
    return memory.scope(user_id="alice", module_id="tutor").store(ttl=ttl)


async def test_an_expired_item_is_absent_from_every_read_before_it_is_swept(
    memory: IsolatedMemory, door: Door, attacker: Attacker
):
    store = indexed(memory)
    await door(store, "put", ("memories", "brief"), "cat", {"text": "cat"}, ttl=20 * MINUTES)
    await door(store, "put", ("memories", "lasting"), "dog", {"text": "dog"}, ttl=60)
    await asyncio.sleep(0.03)

    assert await door(store, "get", ("memories", "brief"), "cat") is None
    assert keys(await door(store, "search", ())) == ["dog"]
    assert keys(await door(store, "search", (), filter={"text": {"$ne": "x"}})) == ["dog"]
    assert keys(await door(store, "search", (), query="cat")) == ["dog"]
    assert await door(store, "list_namespaces") == [("memories", "lasting")]
    assert attacker("SELECT COUNT(*) FROM records") == [(4,)]
    assert await door(store, "sweep") == 1
    assert await door(store, "sweep") == 0
    assert attacker("SELECT COUNT(*) FROM records") == [(2,)]


async def test_an_item_put_over_an_expired_one_begins_anew(store: IsolatedStore, door: Door):
    await door(store, "put", ("memories",), "sister", {"n": 1}, ttl=MINUTES)
    await asyncio.sleep(0.01)
    between = dt.datetime.now(dt.UTC)
    await asyncio.sleep(0.002)

    await door(store, "put", ("memories",), "sister", {"n": 2})

    item = await door(store, "get", ("memories",), "sister")
    assert (item.value, item.created_at > between) == ({"n": 2}, True)
    assert await door(store, "sweep") == 0


def expiries(attacker: Attacker) -> list[int]:
    rows = attacker("SELECT expires_at FROM records WHERE expires_at IS NOT NULL ORDER BY kind")
    return [expires_at for (expires_at,) in rows]


@pytest.mark.parametrize("read", ["get", "search", "filtered", "by meaning", "batch", "with puts"])
async def test_reading_an_item_lets_it_live_for_its_whole_time_again(
    memory: IsolatedMemory, door: Door, attacker: Attacker, read: str
):
    store = indexed(memory)
    await door(store, "put", ("memories",), "cat", {"text": "cat"}, ttl=0.5)
    await door(store, "put", ("memories",), "dog", {"text": "dog"})
    before = expiries(attacker)
    await asyncio.sleep(0.01)
    reads: dict[str, tuple[Any, ...]] = {
        "get": ("get", ("memories",), "cat"),
        "search": ("search", ("memories",)),
        "filtered": ("search", (), {"filter": {"text": "cat"}}),
        "by meaning": ("search", (), {"query": "dog"}),
        "batch": ("batch", [GetOp(("memories",), "cat"), GetOp(("memories",), "dog")]),
        "with puts": ("batch", [SearchOp(()), PutOp(("more",), "stone", {"text": "stone"})]),
    }
    name, *args = reads[read]
    options = args.pop() if isinstance(args[-1], dict) else {}

    if name != "batch":
        await door(store, name, *args, **options, refresh_ttl=False)
        assert expiries(attacker) == before
    await door(store, name, *args, **options)

    assert len(expiries(attacker)) == len(before) == 1
    assert min(expiries(attacker)) >= before[0] + 10


async def test_reads_refresh_nothing_where_the_configuration_says_so(
    memory: IsolatedMemory, door: Door, attacker: Attacker
):
    store = timed(memory, refresh_on_read=False, default_ttl=0.5)
    await door(store, "put", ("memories",), "cat", {})
    before = expiries(attacker)
    await asyncio.sleep(0.005)

    await door(store, "get", ("memories",), "cat")
    await door(store, "search", ())
    assert expiries(attacker) == before

    await door(store, "get", ("memories",), "cat", refresh_ttl=True)
    assert expiries(attacker) > before


async def test_a_default_time_to_live_holds_unless_another_is_given(
    memory: IsolatedMemory, door: Door, attacker: Attacker
):
    store = timed(memory, default_ttl=30 * MINUTES)
    await door(store, "put", ("memories",), "default", {})
    await door(store, "put", ("memories",), "none", {}, ttl=None)
    await door(store, "put", ("memories",), "longer", {}, ttl=60.5)
    await door(store, "batch", [PutOp(("memories",), "direct", {})])
    await asyncio.sleep(0.04)

    assert sorted(keys(await door(store, "search", ()))) == ["direct", "longer", "none"]
    await door(store, "put", ("memories",), "longer", {}, ttl=None)
    assert len(expiries(attacker)) == 1


async def test_a_read_neither_revives_nor_shortens_what_another_put_meanwhile(
    memory: IsolatedMemory, attacker: Attacker
):
    """An item read with one lifetime, and put with another before its refresh arrives."""
    store = memory.scope(user_id="alice", module_id="tutor").store()
    records = store._resolve()
    store.put(("memories",), "cat", {"n": 1}, ttl=0.5)
    address = Address((b"memories",), b"cat")
    now = time.time_ns() // 1000
    (read,) = records.read(reading.get, [None], [address], now)
    assert read is not None
    await asyncio.sleep(0.003)
    store.put(("memories",), "cat", {"n": 2}, ttl=60)
    expected = expiries(attacker)

    records.write_if_exists(writing.refresh, None, [read], now)
    assert expiries(attacker) == expected

    store.put(("memories",), "cat", {"n": 3})
    records.write_if_exists(writing.refresh, None, [read], now)
    assert expiries(attacker) == []
    store.put(("memories",), "cat", {"n": 4}, ttl=0)
    (read,) = records.read(reading.get, [None], [address], now - 10**9)
    records.write_if_exists(writing.refresh, None, [read], now + 10**6)
    assert store.get(("memories",), "cat") is None


@pytest.mark.parametrize("minutes", [-1, -0.001, math.nan, math.inf, 1e30])
async def test_a_time_to_live_that_is_none_is_refused(
    store: IsolatedStore, door: Door, minutes: float
):
    with pytest.raises(ValueError, match="time to live must be"):
        await door(store, "put", ("memories",), "cat", {}, ttl=minutes)
    assert await door(store, "get", ("memories",), "cat") is None


async def test_the_longest_time_to_live_is_for_ever(store: IsolatedStore, door: Door):
    await door(store, "put", ("memories",), "cat", {}, ttl=1000 * 366 * 24 * 60)

    assert await door(store, "get", ("memories",), "cat") is not None


def test_expired_items_cannot_be_asked_for(memory: IsolatedMemory):
    timed(memory, omit_expired=True)
    with pytest.raises(ValueError, match="omit_expired cannot be False"):
        timed(memory, omit_expired=False)


# --- meaning --------------------------------------------------------------------------------------


async def test_a_query_takes_any_limit_that_a_search_without_one_takes(
    memory: IsolatedMemory, door: Door
):
    store = indexed(memory)
    for animal in ("dog", "cat"):
        await door(store, "put", ("memories",), animal, {"text": animal, "n": 3})

    for wanted in (None, {"n": 3}):
        found = await door(
            store, "search", ("memories",), query="cat", filter=wanted, limit=2**64, offset=1
        )
        assert keys(found) == ["dog"]


async def test_a_query_finds_the_nearest_first_and_behind_them_what_has_no_vector(
    memory: IsolatedMemory, door: Door
):
    store = indexed(memory)
    for animal in ("stone", "dog", "cat"):
        await door(
            store, "put", ("memories", animal[0]), animal, {"text": animal, "n": len(animal)}
        )
    await door(store, "put", ("memories", "x"), "unindexed", {"text": "cat", "n": 3}, index=False)
    await door(store, "put", ("memories", "x"), "textless", {"other": "cat"})

    found = await door(store, "search", ("memories",), query="cat")
    assert keys(found) == ["cat", "dog", "stone", "textless", "unindexed"]
    assert scores(found) == [1.0, 0.8, 0.0, None, None]
    found = await door(store, "search", (), query="dog", limit=2, offset=1)
    assert (keys(found), scores(found)) == (["cat", "stone"], [0.8, 0.0])
    found = await door(store, "search", (), query="dog", limit=3, offset=2)
    assert (keys(found), scores(found)) == (["stone", "textless", "unindexed"], [0.0, None, None])
    found = await door(store, "search", (), query="dog", filter={"n": 3})
    assert (keys(found), scores(found)) == (["dog", "cat", "unindexed"], [1.0, 0.8, None])
    assert keys(await door(store, "search", ("memories", "d"), query="cat")) == ["dog"]
    assert await door(store, "search", ("elsewhere",), query="cat") == []
    found = await door(store, "search", (), limit=2)
    assert (keys(found), scores(found)) == (["textless", "unindexed"], [None, None])
    unindexed = memory.scope(user_id="alice", module_id="tutor").store()
    assert scores(await door(unindexed, "search", (), query="cat")) == [None] * 5


async def test_an_item_has_the_score_of_its_best_text(memory: IsolatedMemory, door: Door):
    store = indexed(memory, fields=["title", "parts[*].text"])
    await door(store, "put", ("memories",), "both", {"title": "stone", "parts": [{"text": "cat"}]})
    await asyncio.sleep(0.002)
    await door(
        store, "put", ("memories",), "dogs", {"parts": [{"text": "dog"}, {"text": "stone"}, {}]}
    )
    await asyncio.sleep(0.002)
    await door(store, "put", ("memories",), "own", {"title": "cat", "of": "dog"}, index=["of"])

    found = await door(store, "search", (), query="cat")
    assert (keys(found), scores(found)) == (["both", "own", "dogs"], [1.0, 0.8, 0.8])
    found = await door(store, "search", (), query="stone")
    assert (keys(found), scores(found)) == (["dogs", "both", "own"], [1.0, 1.0, 0.0])


async def test_without_fields_the_whole_value_is_what_is_found(memory: IsolatedMemory, door: Door):
    table = {'{"a": 1, "text": "cat"}': [1.0, 0.0, 0.0], "query": [1.0, 0.0, 0.0]}
    store = indexed(memory, fields=None, embed=ByTable(table))

    await door(store, "put", ("memories",), "cat", {"text": "cat", "a": 1})

    assert scores(await door(store, "search", (), query="query")) == [1.0]


async def test_what_is_no_json_can_be_put_where_it_is_not_indexed(
    memory: IsolatedMemory, door: Door
):
    whole, text = indexed(memory, fields=None), indexed(memory)
    value = {"text": "cat", "photo": b"\x89PNG"}

    with pytest.raises(TypeError, match=r"must be JSON.*index=False"):
        await door(whole, "put", ("memories",), "cat", value)
    await door(whole, "put", ("memories",), "unindexed", value, index=False)
    await door(text, "put", ("memories",), "cat", value)

    found = await door(text, "search", (), query="dog")
    assert (keys(found), scores(found)) == (["cat", "unindexed"], [0.8, None])


async def test_vectors_go_and_come_with_their_item(
    memory: IsolatedMemory, door: Door, attacker: Attacker
):
    store = indexed(memory, fields=["texts[*]"])

    def vectors() -> int:
        (row,) = attacker(f"SELECT COUNT(*) FROM records WHERE kind = {int(Kind.VECTOR)}")
        return int(row[0])

    await door(store, "put", ("memories",), "pets", {"texts": ["cat", "dog", "cat"]})
    await door(store, "put", ("memories",), "other", {"texts": ["dog"]})
    assert vectors() == 4
    await door(store, "put", ("memories",), "pets", {"texts": ["stone"]})
    assert vectors() == 2
    assert scores(await door(store, "search", (), query="cat")) == [0.8, 0.0]
    await door(store, "batch", [PutOp(("memories",), "pets", {"texts": ["cat", "dog"]}),
                                PutOp(("memories",), "new", {"texts": ["stone"]})])  # fmt: skip
    assert vectors() == 4
    assert keys(await door(store, "search", (), query="cat")) == ["pets", "other", "new"]
    await door(store, "put", ("memories",), "pets", {"texts": ["cat"]}, index=False)
    assert vectors() == 2
    assert scores(await door(store, "search", (), query="cat")) == [0.8, 0.0, None]
    for key in ("other", "new"):
        await door(store, "delete", ("memories",), key)
    assert vectors() == 0


async def test_vectors_of_an_earlier_put_count_no_more_even_where_nobody_removed_them(
    memory: IsolatedMemory, door: Door, attacker: Attacker
):
    store, plain = indexed(memory), memory.scope(user_id="alice", module_id="tutor").store()
    await door(store, "put", ("memories",), "cat", {"text": "cat"})
    await door(store, "put", ("memories",), "dog", {"text": "dog"})
    await asyncio.sleep(0.002)

    await door(plain, "put", ("memories",), "cat", {"text": "stone"})

    found = await door(store, "search", (), query="cat")
    assert (keys(found), scores(found)) == (["dog", "cat"], [0.8, None])
    await door(plain, "batch", [PutOp(("memories",), key, {}) for key in ("cat", "dog")])
    assert scores(await door(store, "search", (), query="cat")) == [None, None]
    await door(plain, "put", ("memories",), "cat", {}, ttl=0)
    await door(plain, "sweep")
    assert attacker("SELECT COUNT(*) FROM records WHERE kind = ?", int(Kind.VECTOR)) == [(1,)]
    await door(store, "put", ("memories",), "dog", {"text": "cat"})
    assert scores(await door(store, "search", (), query="cat")) == [1.0]


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        ("cosine", {"far": 1.0, "near": 0.8, "zero": 0.0}),
        ("inner_product", {"far": 10.0, "near": 0.8, "zero": 0.0}),
        ("l2", {"near": -0.632, "zero": -1.0, "far": -9.0}),
    ],
)
async def test_vectors_are_compared_as_the_index_says(
    memory: IsolatedMemory, door: Door, distance: str, expected: dict[str, float]
):
    table = {"query": [1, 0, 0], "near": [0.8, 0.6, 0.0], "far": [10, 0, 0], "zero": [0, 0, 0]}
    store = indexed(memory, embed=ByTable(table), distance_type=distance)
    for key in table:
        if key != "query":
            await door(store, "put", ("memories",), key, {"text": key})

    found = await door(store, "search", (), query="query")

    assert dict(zip(keys(found), scores(found), strict=True)) == expected
    assert keys(found) == list(expected)


async def test_vectors_of_another_length_count_as_none(memory: IsolatedMemory, door: Door):
    await door(indexed(memory), "put", ("memories",), "cat", {"text": "cat"})
    other = indexed(memory, dims=2, embed=ByTable({"dog": [0.0, 1.0], "query": [1.0, 0.0]}))
    await door(other, "put", ("memories",), "dog", {"text": "dog"})

    with pytest.warns(EmbeddingModelWarning, match="1 items"):
        found = await door(other, "search", (), query="query")

    assert (keys(found), scores(found)) == (["dog", "cat"], [0.0, None])


@pytest.mark.parametrize(
    "vector", [[1.0], [1.0] * 4, [[1.0] * 3], [1.0, 0.0, math.nan], [math.inf, 0, 0], [1e300, 0, 0]]
)
async def test_an_embedding_that_cannot_be_ranked_is_refused_and_nothing_is_put(
    memory: IsolatedMemory, door: Door, vector: Any
):
    store = indexed(memory, embed=ByTable({"cat": vector}))

    with pytest.raises(ValueError, match="An embedding must have"):
        await door(store, "put", ("memories",), "cat", {"text": "cat"})
    with pytest.raises(ValueError, match="An embedding must have"):
        await door(store, "search", (), query="cat")

    assert await door(store, "get", ("memories",), "cat") is None


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_model_that_returns_too_few_or_many_vectors_is_noticed(
    memory: IsolatedMemory, door: Door, count: int
):
    class Wrong(ByTable):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[1.0, 0.0, float(len(texts))]] * count

    store = indexed(memory, embed=Wrong({}), fields=["$", "text"])

    with pytest.raises(ValueError, match=f"made {count} vectors of 2 texts"):
        await door(store, "put", ("memories",), "cat", {"text": "cat"})
    assert await door(store, "search", ()) == []


async def test_texts_are_embedded_once_before_the_transaction(memory: IsolatedMemory, door: Door):
    """The model itself uses the memory: it would wait for ever inside a transaction."""
    outer = memory.scope(user_id="alice", module_id="tutor").store()

    class Busy(ByTable):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            outer.put(("embedded",), str(len(self.asked)), {"texts": texts})
            return super().embed_documents(texts)

    model = Busy(ANIMALS)
    store = indexed(memory, embed=model)
    ops = [
        PutOp(("memories",), "1", {"text": "cat"}),
        PutOp(("memories",), "2", {"text": "cat"}),
        PutOp(("memories",), "1", {"text": "dog"}),
        PutOp(("memories",), "gone", {"text": "stone"}),
        PutOp(("memories",), "gone", None),
        GetOp(("memories",), "1"),
    ]

    await door(store, "batch", ops)

    assert model.asked == ["dog", "cat"]
    await door(store, "search", (), query="cat")
    await door(store, "get", ("memories",), "1")
    assert model.asked == ["dog", "cat", "cat"]


async def test_functions_serve_as_models_too(memory: IsolatedMemory):
    async def asynchronous(texts: Sequence[str]) -> list[list[float]]:
        return [ANIMALS[text] for text in texts]

    def synchronous(texts: Sequence[str]) -> list[list[float]]:
        return [ANIMALS[text] for text in texts]

    for model in (asynchronous, synchronous):
        store = indexed(memory, embed=model)
        await store.aput(("memories",), "cat", {"text": "cat"})
        assert scores(await store.asearch((), query="cat")) == [1.0]
    assert scores(store.search((), query="cat")) == [1.0]
    with pytest.raises(ValueError, match="async"):
        indexed(memory, embed=asynchronous).search((), query="cat")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"embed": ByTable({})}, "dims must be"),
        ({"dims": 0, "embed": ByTable({})}, "dims must be"),
        ({"dims": "3", "embed": ByTable({})}, "dims must be"),
        ({"dims": 3}, "embed must be provided"),
        ({"dims": 3, "embed": ByTable({}), "distance_type": "hamming"}, "cosine, inner_product"),
    ],
    ids=["no dims", "0", "text", "no model", "unknown distance"],
)
def test_an_index_that_cannot_work_is_refused_at_once(
    memory: IsolatedMemory, index: Any, message: str
):
    with pytest.raises(ValueError, match=message):
        memory.scope(user_id="alice", module_id="tutor").store(index=index)


def test_without_numpy_only_semantic_search_is_missing_and_the_error_names_the_extra():
    script = """
        import sys
        sys.modules["numpy"] = None
        from langmem_isolated import IsolatedMemory, LocalRootKey

        with IsolatedMemory("sqlite://", root_key=LocalRootKey(bytes(32))) as memory:
            alice = memory.scope(user_id="alice", module_id="tutor")
            alice.store().put(("a",), "b", {"c": 1})
            assert alice.store().search(("a",))[0].value == {"c": 1}
            try:
                alice.store(index={"dims": 3, "embed": lambda texts: [[1, 2, 3] for _ in texts]})
            except ImportError as error:
                print(error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True
    )
    assert "pip install 'langmem-isolated[vector]'" in done.stdout


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 30), limit=st.integers(0, 12))
def test_ranking_is_that_of_langgraphs_own_store(
    sqlite_memory: IsolatedMemory, seed: int, count: int, limit: int
):
    chance = random.Random(seed)
    table = {f"t{n}": [chance.gauss(0, 1) for _ in range(5)] for n in range(count + 1)}
    index = {"dims": 5, "embed": ByTable(table), "fields": ["text"]}
    theirs = InMemoryStore(index=index)  # type: ignore[arg-type]
    ours = sqlite_memory.scope(user_id=f"u{next(_numbers)}", module_id="m").store(index=index)  # type: ignore[arg-type]
    for number in range(count):
        value = {"text": f"t{chance.randrange(count)}", "n": number % 3}
        for store in (theirs, ours):
            store.put(("memories", str(number % 2)), str(number), value)

    for wanted in (None, {"n": 1}):
        options: dict[str, Any] = {"query": f"t{count}", "filter": wanted}
        found = ours.search((), **options, limit=limit)
        assert scores(found) == scores(theirs.search((), **options, limit=limit))
        everything = ours.search((), **options, limit=100)
        pages = [ours.search((), **options, limit=1, offset=offset) for offset in range(9)]
        assert keys(list(itertools.chain(*pages))) == keys(everything)[:9]


# --- against langgraph's own store ----------------------------------------------------------------

_numbers = itertools.count()


@pytest.fixture(scope="module")
def sqlite_memory(tmp_path_factory: pytest.TempPathFactory) -> Any:
    url = f"sqlite:///{tmp_path_factory.mktemp('store')}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(bytes(32)), synchronous="NORMAL") as memory:
        yield memory


LABELS = st.sampled_from(["a", "b", "ab", "*", "é"])
NAMESPACES = st.lists(LABELS, min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from(["1", "2", "12", ""])
PARTS = st.sampled_from([None, True, 0, 1, 1.0, 2, -1.5, "a", "b", "", [], [1, "a"], {"x": 1}])
VALUES = st.dictionaries(st.sampled_from(["p", "q", "r"]), PARTS, max_size=3)
NUMBERS = st.fixed_dictionaries({"n": st.integers(-3, 3)}, optional={"p": PARTS, "q": PARTS})
CONDITIONS = st.one_of(
    PARTS,
    st.fixed_dictionaries({"$eq": PARTS}),
    st.fixed_dictionaries({"$ne": PARTS}),
    st.fixed_dictionaries({"x": PARTS}),
)
WANTED = st.one_of(
    st.dictionaries(st.sampled_from(["p", "q", "r"]), CONDITIONS, max_size=2),
    st.fixed_dictionaries(
        {
            "n": st.dictionaries(
                st.sampled_from(["$gt", "$gte", "$lt", "$lte"]),
                st.integers(-3, 3),
                min_size=1,
                max_size=2,
            )
        }
    ),
)
PATHS = st.lists(LABELS, max_size=3).map(tuple)
CONDITION = st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), PATHS)
OPS = st.one_of(
    st.builds(PutOp, NAMESPACES, KEYS, NUMBERS, st.none(), st.none()),
    st.builds(PutOp, NAMESPACES, KEYS, NUMBERS, st.none(), st.none()),
    st.builds(PutOp, NAMESPACES, KEYS, st.none(), st.none(), st.none()),
    st.builds(GetOp, NAMESPACES, KEYS),
    st.builds(lambda *parts: SearchOp(*parts, 100), PATHS, st.none() | WANTED),
    st.builds(
        lambda *parts: ListNamespacesOp(*parts, 100),
        st.lists(CONDITION, max_size=2).map(tuple),
        st.none() | st.integers(1, 3),
    ),
)
BATCHES = st.lists(st.tuples(st.integers(0, 3), st.lists(OPS, min_size=1, max_size=6)), max_size=8)


def plain(answer: Any) -> Any:
    """An answer of either store without times and without the order of a search."""
    if isinstance(answer, Item):
        return answer.namespace, answer.key, answer.value
    if isinstance(answer, list) and answer and isinstance(answer[0], Item):
        return sorted((plain(item) for item in answer), key=repr)
    return answer


def answered(store: InMemoryStore, ops: list[Op]) -> list[Any]:
    """What langgraph's store answers to a batch, each read for itself: all before the puts.

    It lists namespaces that were only read, and those of which every item is gone.
    """
    answers = []
    for op in ops:
        for name in [name for name, items in store._data.items() if not items]:
            del store._data[name]
        answers.append(None if isinstance(op, PutOp) else plain(store.batch([op])[0]))
    store.batch([op for op in ops if isinstance(op, PutOp)])
    return answers


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=BATCHES)
@example(batches=[(0, [PutOp(("a",), "1", {"n": 1})]), (1, [SearchOp((), None, 100)])])
def test_several_scopes_each_do_what_a_store_of_their_own_does(
    sqlite_memory: IsolatedMemory, batches: list[tuple[int, list[Op]]]
):
    _compare(sqlite_memory, batches)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(batches=BATCHES)
def test_several_scopes_do_so_on_either_database(
    memory: IsolatedMemory, batches: list[tuple[int, list[Op]]]
):
    _compare(memory, batches)


def _compare(memory: IsolatedMemory, batches: list[tuple[int, list[Op]]]) -> None:
    number = next(_numbers)
    scopes = [("ann", "m"), ("ann", "n"), ("an", "nm"), ("bob", "m")]
    ours = [memory.scope(user_id=f"{u}-{number}", module_id=m).store() for u, m in scopes]
    theirs = [InMemoryStore() for _ in scopes]
    for who, ops in batches:
        expected = answered(theirs[who], ops)
        assert [plain(answer) for answer in ours[who].batch(ops)] == expected
    everything = SearchOp((), None, 1_000)
    for one, other in zip(ours, theirs, strict=True):
        assert plain(one.batch([everything])[0]) == plain(other.batch([everything])[0])


# --- many at once ---------------------------------------------------------------------------------


def test_threads_put_and_read_at_once(memory: IsolatedMemory):
    users = [memory.scope(user_id=f"user{n}", module_id="tutor").store() for n in range(4)]
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        store = users[worker % 4]
        start.wait()
        for number in range(20):
            store.put(("own", str(worker)), f"k{number}", {"n": number})
            store.put(("shared",), f"k{number % 5}", {"by": worker, "n": number})
            store.batch([PutOp(("shared",), f"k{n}", {"by": worker}) for n in range(worker, 9)])
            assert store.get(("own", str(worker)), f"k{number}") is not None
            store.search(("shared",), filter={"by": worker})

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))

    for number, store in enumerate(users):
        workers = {number, number + 4}
        assert len(store.search(("own",), limit=100)) == 40
        assert {item.value["by"] for item in store.search(("shared",), limit=100)} <= workers


async def test_tasks_and_event_loops_share_one_store(memory: IsolatedMemory):
    store = memory.scope(user_id="alice", module_id="tutor").store()

    async def put(number: int) -> None:
        await store.aput(("memories",), f"k{number}", {"n": number})

    await asyncio.gather(*(put(number) for number in range(30)))
    other_loop = threading.Thread(target=lambda: asyncio.run(put(30)))
    other_loop.start()
    await asyncio.to_thread(other_loop.join)

    assert len(await store.asearch((), limit=100)) == 31


async def test_two_who_put_the_same_items_in_opposite_order_both_succeed(memory: IsolatedMemory):
    store = memory.scope(user_id="alice", module_id="tutor").store()
    puts = [PutOp(("memories", str(n % 3)), f"k{n}", {"n": n}) for n in range(40)]

    for _ in range(5):
        await asyncio.gather(*(store.abatch(ops) for ops in (puts, puts[::-1], puts[::3])))

    assert len(store.search((), limit=100)) == 40


# --- erased scopes --------------------------------------------------------------------------------


@pytest.mark.parametrize("ways", ["one", "many", "with vectors"])
async def test_nothing_is_put_into_an_erased_scope(
    memory: IsolatedMemory, door: Door, attacker: Attacker, ways: str
):
    """Another process has erased the user; this one still has the keys in its cache."""
    store = indexed(memory) if ways == "with vectors" else timed(memory)
    await door(store, "put", ("memories",), "cat", {"text": "cat"})
    attacker("DELETE FROM records")
    attacker("DELETE FROM scopes")
    count = 3 if ways == "many" else 1

    with pytest.raises(KeyDestroyed):
        await door(
            store, "batch", [PutOp(("memories",), str(n), {"text": "dog"}) for n in range(count)]
        )

    assert attacker("SELECT COUNT(*) FROM records") == [(0,)]


@pytest.mark.parametrize("count", [1, 3])
async def test_nothing_is_put_into_the_scope_of_a_user_who_came_back(
    memory: IsolatedMemory, door: Door, attacker: Attacker, count: int
):
    store = timed(memory)
    await door(store, "put", ("memories",), "cat", {})
    attacker("DELETE FROM records")
    attacker("UPDATE scopes SET birth = ?", bytes(16))

    with pytest.raises(KeyDestroyed):
        await door(store, "batch", [PutOp(("memories",), str(n), {}) for n in range(count)])

    assert attacker("SELECT COUNT(*) FROM records") == [(0,)]


# --- the rest -------------------------------------------------------------------------------------


def test_items_stay_when_the_memory_is_opened_again(tmp_path: Path, root_key: LocalRootKey):
    url = f"sqlite:///{tmp_path}/memory.db"
    index: Any = {"dims": 3, "embed": ByTable(ANIMALS), "fields": ["text"]}
    with IsolatedMemory(url, root_key=root_key) as memory:
        memory.scope(user_id="alice", module_id="tutor").store(index=index).put(
            ("memories",), "cat", {"text": "cat"}
        )
    with IsolatedMemory(url, root_key=root_key) as memory:
        store = memory.scope(user_id="alice", module_id="tutor").store(index=index)
        assert scores(store.search((), query="dog")) == [0.8]
        assert store.list_namespaces() == [("memories",)]


def test_it_is_a_base_store_with_every_method_in_both_colours():
    assert issubclass(IsolatedStore, BaseStore)
    assert IsolatedStore.supports_ttl
    for name in ("get", "put", "search", "delete", "list_namespaces", "batch", "sweep"):
        assert name in vars(IsolatedStore)
        assert asyncio.iscoroutinefunction(vars(IsolatedStore)[f"a{name}"])


def test_the_size_of_an_item_is_its_content_and_little_more(
    store: IsolatedStore, attacker: Attacker
):
    store.put(("memories",), "key", {"text": "x" * 100})

    ((size, sealed),) = attacker("SELECT size, LENGTH(sealed) FROM records")
    assert size == sealed < 100 + 100
