"""Values as LangGraph stores them: taken apart into elements, put together again, exactly."""

import copy
import dataclasses
import datetime as dt
import itertools
import logging
import random
import sys
import threading
import uuid
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal
from typing import Any, cast

import ormsgpack
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.types import Command, Interrupt, Overwrite, Send

from langmem_isolated._codecs import classes
from langmem_isolated._codecs.checkpoints import element_cache
from langmem_isolated._codecs.checkpoints import encoder as encoder_module
from langmem_isolated._codecs.checkpoints.decoder import Decoder
from langmem_isolated._codecs.checkpoints.element_cache import (
    ElementCache,
    ElementCaches,
    fingerprint,
)
from langmem_isolated._codecs.checkpoints.encoder import (
    LARGE_BYTES,
    PASSING_BYTES,
    Element,
    Encoder,
)
from langmem_isolated._codecs.checkpoints.layout import (
    CHUNK_V1,
    run_length_decode,
    run_length_encode,
    runs_of,
)
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.messages import encode_message
from langmem_isolated._crypto.sealing import digest
from langmem_isolated._crypto.secret_bytes import SecretBytes
from langmem_isolated.errors import RecordError, ValueNotStorable
from tests.processes import in_child
from tests.spellings import assert_shows_none_of
from tests.threads import (
    ALLOWED,
    Color,
    Frozen,
    Level,
    Model,
    NotAllowed,
    NotAllowedEnum,
    NotAllowedModel,
    Pair,
    Point,
    same,
)

NAMES = frozenset((kind.__module__, kind.__name__) for kind in ALLOWED)
LARGE = "large " * 50

StoredBody = tuple[list[int], bytes, list[int]]
"""The numbers of its elements, the encoded value, and the numbers of its chunks."""


class Shelf:
    """A thread's elements, kept in a dict instead of a database."""

    def __init__(self, allowed: frozenset[tuple[str, ...]] = NAMES) -> None:
        self.elements: dict[int, bytes] = {}
        self.known = ElementCache(b"generation")
        self.serde = Serde(allowed)

    def store(self, value: Any) -> StoredBody:
        """Encode ``value`` as a body, and keep what is new of it."""
        encoder = Encoder(self.known, lambda part: digest(SecretBytes(bytes(32)), part), self.serde)
        packed = encoder.encode(encoder.replace_by_references(value))
        numbers = [number for ref in encoder.references for number in self._numbers(ref)]
        chunks = [number for ref in encoder.chunks for number in self._numbers(ref)]
        for print_, reference in encoder.seen:
            self.known.put(print_, self._numbers(reference)[0])
        return numbers, packed, chunks

    def _numbers(self, reference: range | Element) -> Sequence[int]:
        if isinstance(reference, range):
            return reference
        if reference.mac not in self.known.numbers:
            self.elements[len(self.elements)] = reference.plaintext
            self.known.put_mac(reference.mac, len(self.elements) - 1)
        return [self.known.numbers[reference.mac]]

    def load(self, body: StoredBody, known: ElementCache | None = None) -> Any:
        [value] = Decoder(self.elements, known, self.serde).decode([body])
        return value

    def round_trip(self, value: Any) -> Any:
        return self.load(self.store(value))


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


# What comes back ----------------------------------------------------------------------------------

words = st.text(st.characters(codec="utf-8"), max_size=8)
large_text = st.integers(120, 300).map(lambda length: "é" * length)
plain = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), words, large_text,
    st.binary(max_size=200),
)  # fmt: skip
scalars = plain | st.one_of(
    # LangGraph forgets which of two equal hours it is.
    st.datetimes(timezones=st.none() | st.just(dt.UTC)).map(lambda when: when.replace(fold=0)),
    st.dates(),
    st.timedeltas(),
    st.uuids(),
    st.decimals(allow_nan=False),
    st.sampled_from([*Color, *Level, Color.RED]),
    st.frozensets(st.integers(0, 5)),
    st.sets(words, max_size=3),
    st.lists(st.integers(), max_size=3).map(lambda items: deque(map(str, items))),
)
json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words | large_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=5,
)
ids = st.sampled_from([None, "a", "b", "c"])


def made(kind: Callable[..., Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(fields).map(lambda chosen: kind(**chosen))


blocks = st.lists(st.fixed_dictionaries({"type": st.just("x"), "v": json_like}), max_size=2)
kwargs = st.dictionaries(words, json_like, max_size=2)
messages = st.one_of(
    made(HumanMessage, content=words | blocks, id=ids, additional_kwargs=kwargs),
    made(AIMessage, content=words | large_text, id=ids),
    made(ToolMessage, content=words, tool_call_id=words, artifact=json_like, id=ids),
    made(RemoveMessage, id=st.sampled_from(["a", "b"])),
)
documents = made(Document, page_content=words | large_text, metadata=kwargs)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(words | st.integers(0, 9) | st.binary(max_size=3), inner, max_size=4),
        st.dictionaries(words, inner, max_size=3).map(OrderedDict),
        inner.map(lambda arg: Send("node", arg)),
        st.tuples(inner, inner).map(lambda parts: Point(*parts)),
        inner.map(Frozen),
        st.tuples(inner, inner).map(lambda parts: Pair(*parts)),
        made(Model, name=words, inner=kwargs),
        inner.map(Overwrite),
        inner.map(_DeltaSnapshot),
        st.lists(inner, max_size=3).map(deque),
    )


values = st.recursive(scalars | messages | documents, containers, max_leaves=12)


@given(values)
def test_what_comes_back_is_what_the_serializer_of_langgraph_gives_back(value: Any):
    langgraph = JsonPlusSerializer(allowed_msgpack_modules=NAMES)
    expected = langgraph.loads_typed(langgraph.dumps_typed(value))

    assert same(Shelf().round_trip(value), expected)


@given(st.lists(messages, max_size=8), st.lists(values, max_size=3))
def test_values_that_share_elements_do_not_disturb_each_other(
    shared: list[BaseMessage], others: list[Any]
):
    langgraph, shelf = JsonPlusSerializer(allowed_msgpack_modules=NAMES), Shelf()
    everything = [shared, shared[::-1], {"messages": shared}, *others, [*shared, *others]]

    bodies = [shelf.store(value) for value in everything]

    for value, body in zip(everything, bodies, strict=True):
        assert same(shelf.load(body), langgraph.loads_typed(langgraph.dumps_typed(value)))


@pytest.mark.parametrize(
    "value",
    [
        None, b"", "", [], {}, (), 0, -0.0, False, set(), [[]], [None], {"": None}, [[], [[]], {}],
        {1: "int", "1": "text", None: "none", (1, 2): "tuple", b"1": "bytes", 0.5: "float"},
        float("nan"), float("inf"), 2**64 - 1, -(2**63), "\U0001f600" * 200, "\x00" * 200,
        b"\x02" * 200, list(range(2000)), [[0.1] * 20] * 30, {"a": {"b": {"c": [LARGE, LARGE]}}},
        [Interrupt(value=[HumanMessage("sure?")], id="i")],
        Command(goto="n", update={"m": [LARGE]}),
    ],
    ids=lambda value: repr(value)[:20],
)  # fmt: skip
def test_edges_come_back(shelf: Shelf, value: Any):
    langgraph = JsonPlusSerializer(allowed_msgpack_modules=None)

    assert same(shelf.round_trip(value), langgraph.loads_typed(langgraph.dumps_typed(value)))


def test_a_message_comes_back_exactly_even_where_langgraph_would_change_it(shelf: Shelf):
    message = HumanMessage("hi", additional_kwargs={"t": (1, 2), "when": dt.date(2026, 1, 2)})

    assert same(shelf.round_trip([message]), [message])


def test_a_message_with_a_model_as_artifact_is_one_element(shelf: Shelf):
    message = ToolMessage("done", tool_call_id="1", artifact=Model(name="n"))

    bodies = [shelf.store([message, HumanMessage(str(number))]) for number in range(5)]

    assert len(shelf.elements) == 6
    assert shelf.load(bodies[0])[0].artifact == Model(name="n")


def test_an_error_is_stored_as_its_text(shelf: Shelf):
    assert shelf.round_trip(ValueError("wrong")) == "ValueError('wrong')"


# What becomes an element --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "elements"),
    [
        ([HumanMessage("a"), HumanMessage("b")], 2),
        ([HumanMessage("a", id="1")] * 2, 1),
        ({"messages": [HumanMessage("a")], "n": 1}, 1),
        (("pair", [HumanMessage("a")]), 1),
        (Send("node", {"messages": [HumanMessage("a")]}), 1),
        (Send("node", [{"args": {"what": LARGE}}]), 0),
        (Send("node", [{"args": {"what": "x" * PASSING_BYTES}}]), 1),
        (Point([HumanMessage("a")], {"deep": [HumanMessage("b")]}), 2),
        (Command(update={"messages": [HumanMessage("a")]}), 1),
        (_DeltaSnapshot([HumanMessage("a"), HumanMessage("b")]), 2),
        (OrderedDict(messages=[HumanMessage("a")]), 1),
        ([LARGE, LARGE + "!", "small"], 2),
        ({"history": [LARGE, LARGE + "!"]}, 2),
        ([(LARGE, 0.5), (LARGE + "!", 0.7)], 2),
        (Point({"a": [[LARGE]]}), 1),
        ([0.1] * 1536, 1),
        (["small"] * 5, 0),
        (["small"] * 500, 1),
        ({str(number): number for number in range(500)}, 1),
        ("x" * (LARGE_BYTES - 1), 0),
        ("x" * LARGE_BYTES, 1),
        (b"x" * LARGE_BYTES, 1),
        ([], 0),
        (Document("text", metadata={"long": LARGE}), 1),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_messages_and_larger_parts_are_elements_wherever_they_stand(
    shelf: Shelf, value: Any, elements: int
):
    shelf.store(value)

    assert len(shelf.elements) == elements


def test_what_is_sent_again_refers_to_what_the_thread_has(shelf: Shelf):
    shelf.store([LARGE])

    body = shelf.store(Send("node", {"what": LARGE}))

    [number], packed, _ = body
    assert number in shelf.elements
    assert len(packed) < len(LARGE)
    assert shelf.load(body) == Send("node", {"what": LARGE})


@pytest.mark.parametrize("wrap", [list, tuple, lambda parts: {"k": parts}, Point, Frozen])
def test_what_grows_stores_only_what_is_new(shelf: Shelf, wrap: Callable[[Any], Any]):
    parts: list[Any] = []
    sizes = []
    for number in range(20):
        parts = [*parts, f"{number} {LARGE}", HumanMessage(str(number))]
        before = len(shelf.elements)
        _, packed, _ = shelf.store(wrap(parts))
        sizes.append(len(packed))
        assert len(shelf.elements) == before + 2

    assert sizes[-1] < sizes[0] + 20 * 2 * 4


def test_a_chain_of_nested_objects_takes_time_in_proportion_to_its_depth(shelf: Shelf):
    """Twice for each level would be a million million steps."""
    chain: Any = "end"
    for _ in range(40):
        chain = Point(Send("n", chain))

    assert same(shelf.round_trip(chain), chain)


@given(st.lists(st.integers(0, 2**48 + 50)))
def test_a_table_gives_back_its_numbers(numbers: list[int]):
    assert run_length_decode(run_length_encode(runs_of(numbers))) == numbers


def test_a_table_of_a_growing_list_stays_small():
    assert run_length_encode([range(7, 4000), range(4000, 5000)]) == [7, 4993]
    assert run_length_encode([range(number, number + 1) for number in range(7, 5000)]) == [7, 4993]


def test_a_list_whose_numbers_are_in_no_order_is_stored_in_chunks(shelf: Shelf):
    messages = [HumanMessage(str(number)) for number in range(400)]
    shelf.store(messages)
    shuffled = random.Random(1).sample(messages, 400)

    numbers, _, chunks = body = shelf.store({"a": shuffled, "b": messages[:3]})

    assert len(numbers) < 150
    assert 1 < len(chunks) < 400 / 8
    assert shelf.load(body) == {"a": shuffled, "b": messages[:3]}


def test_an_object_that_stands_twice_comes_back_as_two(shelf: Shelf):
    message = HumanMessage("a", id="1")

    one, other = shelf.round_trip([message, message])

    assert one == other == message
    assert one is not other


def test_values_read_together_share_the_messages_they_have_in_common(shelf: Shelf):
    message = HumanMessage("a", id="1")
    bodies = [shelf.store([message]), shelf.store([message, HumanMessage("b")])]
    decoder = Decoder(shelf.elements, None, shelf.serde)

    [one], [other] = decoder.decode([bodies[0]]), decoder.decode([bodies[1]])

    assert one[0] is other[0]


# Recognition --------------------------------------------------------------------------------------


def talkative() -> AIMessage:
    """A message with containers in containers in every field that may hold them."""
    return AIMessage(
        [{"type": "text", "text": "hello", "annotations": [{"from": [1, 2]}]}],
        id="1",
        additional_kwargs={"deep": {"list": [{"leaf": 1}]}},
        response_metadata={"headers": {"trace": ["a"]}},
        tool_calls=[{"name": "search", "args": {"where": {"city": ["x"]}}, "id": "c"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
        later_field={"list": [1]},  # type: ignore[call-arg]
    )


def tool_result() -> ToolMessage:
    return ToolMessage(
        "result", tool_call_id="c", artifact={"rows": [{"cells": [1, (2, 3)]}], "when": "2026"}
    )


def later(message: Any) -> dict[str, Any]:
    extra: dict[str, Any] = message.__pydantic_extra__
    return extra


CHANGES: dict[str, tuple[Callable[[], BaseMessage], Callable[[Any], object]]] = {
    "content": (lambda: HumanMessage("a"), lambda m: setattr(m, "content", "b")),
    "id": (lambda: HumanMessage("a"), lambda m: setattr(m, "id", "new")),
    "name": (lambda: HumanMessage("a", name="n"), lambda m: setattr(m, "name", None)),
    "content block": (talkative, lambda m: m.content[0].update(text="bye")),
    "annotation": (talkative, lambda m: m.content[0]["annotations"][0]["from"].append(3)),
    "new block": (talkative, lambda m: m.content.append("more")),
    "additional_kwargs": (talkative, lambda m: m.additional_kwargs["deep"]["list"][0].pop("leaf")),
    "order of keys": (
        lambda: HumanMessage("a", additional_kwargs={"x": 1, "y": 2}),
        lambda m: m.additional_kwargs.update(x=m.additional_kwargs.pop("x")),
    ),
    "response_metadata": (
        talkative, lambda m: m.response_metadata["headers"]["trace"].__setitem__(0, "b")
    ),
    "argument of a tool call": (
        talkative, lambda m: m.tool_calls[0]["args"]["where"]["city"].append("y")
    ),
    "tool call removed": (talkative, lambda m: m.tool_calls.clear()),
    "usage_metadata": (talkative, lambda m: m.usage_metadata.update(total_tokens=3)),
    "a field of a later version": (talkative, lambda m: later(m)["later_field"]["list"].append(2)),
    "a new field": (talkative, lambda m: later(m).update(other=1)),
    "artifact": (tool_result, lambda m: m.artifact["rows"][0]["cells"].append(4)),
    "artifact replaced": (tool_result, lambda m: setattr(m, "artifact", None)),
    "status": (tool_result, lambda m: setattr(m, "status", "error")),
    "text for a date": (
        lambda: HumanMessage("a", additional_kwargs={"at": dt.datetime(2026, 1, 2, tzinfo=dt.UTC)}),
        lambda m: m.additional_kwargs.update(at=m.additional_kwargs["at"].isoformat()),
    ),
    "text for a UUID": (
        lambda: HumanMessage("a", additional_kwargs={"id": uuid.UUID(int=7)}),
        lambda m: m.additional_kwargs.update(id=str(m.additional_kwargs["id"])),
    ),
    "list for a tuple": (
        lambda: HumanMessage("a", additional_kwargs={"t": [(1, 2)]}),
        lambda m: m.additional_kwargs.update(t=[[1, 2]]),
    ),
    "float for an int": (
        lambda: HumanMessage("a", additional_kwargs={"n": 1}),
        lambda m: m.additional_kwargs.update(n=1.0),
    ),
    "bool for an int": (
        lambda: HumanMessage("a", additional_kwargs={"n": 1}),
        lambda m: m.additional_kwargs.update(n=True),
    ),
    "minus zero": (
        lambda: HumanMessage("a", additional_kwargs={"n": 0.0}),
        lambda m: m.additional_kwargs.update(n=-0.0),
    ),
    "text for bytes": (
        lambda: ToolMessage("a", tool_call_id="c", artifact=b"x"),
        lambda m: setattr(m, "artifact", "x"),
    ),
    "text for a Decimal": (
        lambda: ToolMessage("a", tool_call_id="c", artifact=[Decimal(1)]),
        lambda m: m.artifact.__setitem__(0, "1"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_a_message_changed_in_place_is_noticed_at_any_depth(shelf: Shelf, change: str):
    make, apply = CHANGES[change]
    message = make()
    shelf.store([message])
    before = copy.deepcopy(message)

    apply(message)
    assert not same(message, before)
    body = shelf.store([message])

    assert same(shelf.load(body), [message])
    assert len(shelf.elements) == 2


@pytest.mark.parametrize("make", [talkative, tool_result, lambda: HumanMessage("a")])
def test_an_unchanged_message_is_known_again_without_encoding_it(
    shelf: Shelf, make: Callable[[], BaseMessage]
):
    message = make()
    stored = shelf.store([message])

    if fingerprint(message):
        assert shelf.known.number_of(fingerprint(message)) == 0
    assert shelf.store([message]) == stored
    assert len(shelf.elements) == 1


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (dt.date(2026, 1, 2), "2026-01-02"),
        (dt.datetime(2026, 1, 2, tzinfo=dt.UTC), "2026-01-02T00:00:00+00:00"),
        (uuid.UUID(int=7), str(uuid.UUID(int=7))),
        (Color.RED, "red"),
        (1, "1"),
    ],
)
def test_a_key_that_became_its_text_is_noticed(shelf: Shelf, key: Any, text: str):
    shelf.store([HumanMessage("a", additional_kwargs={"by": {key: 1}})])
    changed = [HumanMessage("a", additional_kwargs={"by": {text: 1}})]

    assert same(shelf.load(shelf.store(changed)), changed)


def test_a_message_that_changes_while_it_is_stored_is_not_taken_for_another_as_it_was(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    """A node goes on while LangGraph stores what it answered."""
    message = HumanMessage("before")

    def late(*args: Any, **options: Any) -> bytes:
        message.content = "after"
        return encode_message(*args, **options)

    monkeypatch.setattr(encoder_module, "encode_message", late)
    assert same(shelf.round_trip([message]), [HumanMessage("after")])
    monkeypatch.undo()

    assert same(shelf.round_trip([HumanMessage("before")]), [HumanMessage("before")])


def test_a_message_that_was_read_is_known_again_and_so_is_its_copy(shelf: Shelf):
    body = shelf.store([talkative(), HumanMessage("b")])
    known = ElementCache(b"generation")

    read = shelf.load(body, known)

    for messages in (read, copy.deepcopy(read)):
        assert [known.number_of(fingerprint(message)) for message in messages] == [0, 1]
    read[0].tool_calls[0]["args"]["more"] = 1
    assert known.number_of(fingerprint(read[0])) is None


def test_what_was_read_once_is_not_fingerprinted_again(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
):
    body = shelf.store([HumanMessage(str(number)) for number in range(100)])
    known = ElementCache(b"generation")
    shelf.load(body, known)
    monkeypatch.setattr(element_cache, "_block_fingerprint", lambda _: pytest.fail("again"))

    shelf.load(body, known)


@pytest.fixture
def read_from(shelf: Shelf) -> list[BaseMessage]:
    """Messages of several blocks, as they were read from the shelf."""
    written = [AIMessage(f"say {n}", additional_kwargs={"deep": [{"n": n}]}) for n in range(75)]
    body = shelf.store(written)
    shelf.known = ElementCache(b"generation")
    return cast("list[BaseMessage]", shelf.load(body, shelf.known))


@pytest.mark.parametrize("position", [0, 1, 31, 32, 63, 64, 74])
def test_a_message_changed_amid_many_that_were_read_is_noticed(
    shelf: Shelf, read_from: list[BaseMessage], position: int
):
    read_from[position].additional_kwargs["deep"][0]["n"] = -1

    assert same(shelf.round_trip(read_from), read_from)
    assert len(shelf.elements) == 76


@given(data=st.data())
def test_messages_that_were_read_are_known_again_in_any_order(data: st.DataObject):
    shelf = Shelf()
    written: list[BaseMessage] = [HumanMessage(str(number)) for number in range(75)]
    read = shelf.load(shelf.store(written), shelf.known)
    start = data.draw(st.integers(0, 75))
    rest = data.draw(st.one_of(st.permutations(read), st.lists(st.sampled_from(read))))
    chosen = read[start:] + rest

    assert shelf.round_trip(chosen) == chosen
    chunks = [one for one in shelf.elements.values() if one.startswith(CHUNK_V1)]
    assert len(shelf.elements) - len(chunks) == 75


def test_a_message_of_another_class_is_not_taken_for_one_that_was_read(shelf: Shelf):
    read = shelf.load(shelf.store([HumanMessage("a"), HumanMessage("b")]), shelf.known)
    other = SystemMessage("b")
    other.__dict__.update(read[1].__dict__)
    read[1] = other

    assert type(shelf.round_trip(read)[1]) is SystemMessage


@pytest.mark.parametrize("count", [1, 15, 16, ElementCache.BLOCK])
def test_messages_that_were_read_side_by_side_are_known_again_at_once(shelf: Shelf, count: int):
    body = shelf.store([HumanMessage(str(number)) for number in range(count)])

    read = shelf.load(body, shelf.known)

    assert shelf.known.numbers_of_block(read, 0, fingerprint(read[0])) == [range(count)]


def test_when_the_beginning_of_a_list_goes_what_follows_is_known_in_blocks_as_before(shelf: Shelf):
    body = shelf.store([HumanMessage(str(number)) for number in range(200)])
    read = shelf.load(body, shelf.known)
    numbers, packed, chunks = shelf.store(read[5:])

    again = shelf.load((numbers, packed, chunks), shelf.known)

    assert len(shelf.known._read) == 4 + 1
    for start, count in ((0, 59), (59, 64), (187, 8)):
        found = shelf.known.numbers_of_block(again, start, fingerprint(again[start]))
        assert found == [range(start + 5, start + 5 + count)]


def test_only_so_many_fingerprints_of_a_thread_are_kept_and_the_newest_stay():
    known = ElementCache(b"g")
    for number in range(ElementCache.MACS + 10):
        known.put(number, number)
        assert known.number_of(number) == number

    assert len(known._by_fingerprint) <= ElementCache.MACS
    assert known.number_of(0) is None


def test_only_so_many_blocks_of_a_thread_are_kept():
    known = ElementCache(b"g")
    messages = [HumanMessage(str(number)) for number in range(ElementCache.BLOCKS + 10)]
    for number, message in enumerate(messages):
        known.put_read([message], [number])

    assert len(known._read) <= ElementCache.BLOCKS
    assert len(known._blocks) <= ElementCache.BLOCKS
    assert known.numbers_of_block(messages, len(messages) - 1, fingerprint(messages[-1]))


def test_a_message_changed_back_and_forth_is_always_stored_as_it_is(shelf: Shelf):
    message = HumanMessage("a", id="1")
    for content in ["a", "b", "a", "b", "a"]:
        message.content = content
        assert shelf.round_trip([message]) == [message]

    assert len(shelf.elements) == 2


def test_no_plaintext_is_kept_of_a_message(shelf: Shelf):
    shelf.load(shelf.store([HumanMessage("my-canary-content")]), shelf.known)

    assert shelf.known._blocks
    assert_shows_none_of(vars(shelf.known), [b"my-canary-content"])


@contextmanager
def changing(change: Callable[[], object]) -> Iterator[None]:
    """Another thread changes something all the time, and the interpreter switches often."""
    interval, stop = sys.getswitchinterval(), threading.Event()

    def change_on() -> None:
        while not stop.is_set():
            change()

    thread = threading.Thread(target=change_on)
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        yield
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


def test_a_message_that_another_thread_changes_meanwhile_is_not_taken_for_what_was_stored():
    """With durability="async" a node may change messages while they are being stored."""
    message = HumanMessage("0", id="1", additional_kwargs={"rows": [list(range(50))] * 20})
    numbers = itertools.count(1)

    with changing(lambda: setattr(message, "content", str(next(numbers)))):
        for _ in range(2000):
            shelf = Shelf()
            body = shelf.store([message])
            # Whatever was stored, what is known of the message now must be true of it.
            first, content = shelf.known.number_of(fingerprint(message)), message.content
            if first is not None and shelf.known.number_of(fingerprint(message)) is not None:
                assert shelf.load(body)[0].content == content


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", [dict, OrderedDict, list])
def test_a_container_that_another_thread_changes_meanwhile_is_stored_as_it_was_at_some_moment(
    shelf: Shelf, kind: Callable[..., Any], nested: bool
):
    """With durability="async" a node may change its state while it is being stored."""
    said = [HumanMessage(str(number), id=str(number)) for number in range(100)]
    container = kind(said if kind is list else enumerate(said))
    value = {"in": [container]} if nested else container
    states = [copy.deepcopy(value)]

    def grow() -> None:
        container.append(1) if kind is list else container.update(more=1)

    def replace_by_references() -> None:
        container.pop() if kind is list else container.popitem()

    grow()
    states.append(copy.deepcopy(value))
    replace_by_references()
    with changing(lambda: (grow(), sum(range(200)), replace_by_references())):
        for _ in range(200):
            assert shelf.round_trip(value) in states


def test_only_so_many_threads_are_known_and_the_last_used_stay():
    known = ElementCaches(size=2)
    for thread in (b"1", b"2"):
        known.of(thread, b"g").put_mac(b"mac", 7)
    assert known.of(b"1", b"g").numbers

    known.of(b"3", b"g")

    assert known.last(b"2").numbers == {}
    assert known.last(b"1").numbers == {b"mac": 7}


def test_what_is_known_of_a_thread_ends_with_its_generation():
    known = ElementCaches()
    known.of(b"1", b"old").put_mac(b"mac", 7)

    assert known.of(b"1", b"new").numbers == {}
    assert known.last(b"1").generation == b"new"
    known.forget(b"1")
    assert known.last(b"1").generation == b""


def test_only_so_many_elements_of_a_thread_are_known():
    known = ElementCache(b"g")
    for number in range(ElementCache.MACS + 10):
        known.put_mac(number.to_bytes(4), number)

    assert len(known.numbers) == ElementCache.MACS
    assert (0).to_bytes(4) not in known.numbers


def test_a_child_forked_while_the_threads_are_looked_at_goes_on():
    known = ElementCaches()
    with known._threads._lock:
        generation = in_child(lambda: known.of(b"1", b"g").generation)

    assert generation == b"g"


# Refusals -----------------------------------------------------------------------------------------

WHERE: dict[str, Callable[[Any], Any]] = {
    "alone": lambda value: value,
    "in a list": lambda value: [1, [value]],
    "in a dict": lambda value: {"k": {"l": value}},
    "in a tuple": lambda value: (value,),
    "in a deque": lambda value: deque([value]),
    "in a Send": lambda value: Send("n", {"k": value}),
    "in a dataclass": lambda value: Point([value]),
    "in an Overwrite": lambda value: Overwrite([value]),
    "in an Interrupt": lambda value: [Interrupt(value={"ask": value}, id="i")],
    "in a NamedTuple": lambda value: Pair(value, 1),
    "in a message with odd company": lambda value: [HumanMessage("a"), value],
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize(
    "refused", [NotAllowed(), NotAllowedModel(), NotAllowedEnum.SECRET], ids=lambda v: str(type(v))
)
def test_a_type_that_is_not_allowed_is_refused_and_the_error_says_how_to_allow_it(
    shelf: Shelf, where: str, refused: Any
):
    with pytest.raises(ValueNotStorable) as refusal:
        shelf.store(WHERE[where](refused))

    assert refusal.value.type_name == f"tests.threads.{type(refused).__name__}"
    assert "checkpointer(allow=[" in str(refusal.value)
    assert_shows_none_of(refusal.value, [b"'secret'"])
    assert shelf.elements == {}


@pytest.mark.parametrize("where", WHERE)
def test_what_msgpack_cannot_hold_is_refused_by_our_own_error(shelf: Shelf, where: str):
    deep: Any = "my-secret"
    for _ in range(2000):
        deep = [deep]
    for value in (deep, {Point(1, 2).x: 1, object: 2}, object(), lambda: None, 1j):
        with pytest.raises(ValueNotStorable) as refusal:
            shelf.store(WHERE[where](value))
        assert_shows_none_of(refusal.value, [b"my-secret"])


def test_a_class_that_could_not_be_found_again_is_refused():
    """LangGraph would give its fields back, as a dict."""

    @dataclasses.dataclass
    class Local:
        x: int = 1

    class LocalModel(pydantic.BaseModel):
        x: int = 1

    for value in (Local(), LocalModel()):
        kind = type(value)
        shelf = Shelf(frozenset({(kind.__module__, kind.__name__)}))
        with pytest.raises(ValueNotStorable, match="no class is found by that name"):
            shelf.store([value])


def test_a_refused_value_stores_nothing_and_the_next_is_stored(shelf: Shelf):
    with pytest.raises(ValueNotStorable):
        shelf.store([HumanMessage("a"), LARGE, NotAllowed()])

    assert shelf.elements == {}
    assert shelf.round_trip([HumanMessage("a"), LARGE]) == [HumanMessage("a"), LARGE]


@pytest.fixture
def heard(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    classes._told.clear()
    with caplog.at_level(logging.WARNING):
        yield caplog


def test_a_type_that_is_allowed_no_more_is_read_as_a_dict(
    shelf: Shelf, heard: pytest.LogCaptureFixture
):
    body = shelf.store([Point("secret", [HumanMessage("a")])] * 3)
    shelf.serde = Serde()

    assert shelf.load(body) == [{"x": "secret", "y": [HumanMessage("a")]}] * 3
    [warning] = heard.messages
    assert "tests.threads.Point" in warning
    assert "secret" not in warning


def test_a_class_that_has_changed_is_read_as_a_dict(
    shelf: Shelf, heard: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    """A deployment may rename a field; the thread must still open."""

    @dataclasses.dataclass
    class Renamed:
        latitude: Any = 0

    body = shelf.store([Point(1, 2)])
    monkeypatch.setattr("tests.threads.Point", Renamed)

    assert shelf.load(body) == [{"x": 1, "y": 2}]
    monkeypatch.delattr("tests.threads.Point")
    assert shelf.load(body) == [{"x": 1, "y": 2}]
    assert len(heard.messages) == 1


def test_a_value_of_a_later_version_is_refused_in_words(shelf: Shelf):
    for packed in (
        ormsgpack.packb(ormsgpack.Ext(99, b"")),
        ormsgpack.packb([{"k": [ormsgpack.Ext(99, b"")]}]),
    ):
        with pytest.raises(RecordError, match="install a later langmem-isolated"):
            shelf.load(([], packed, []))
    body = shelf.store([HumanMessage("a")])
    shelf.elements[0] = b"\x77later"
    with pytest.raises(RecordError, match="install a later langmem-isolated"):
        shelf.load(body)


# The stored form ----------------------------------------------------------------------------------


def test_the_stored_form_is_frozen(shelf: Shelf):
    """Bytes of version 0.1: they must be written and read for ever."""
    value = {
        "messages": [HumanMessage("hi", id="1"), "x" * 130],
        "send": Send("node", {"m": [HumanMessage("hi", id="1")]}),
        "point": Point(1, [b"", None]),
        "set": {7},
        "color": Color.RED,
        "delta": _DeltaSnapshot([1]),
    }

    body = shelf.store(value)

    assert body[0] == [0, 1, 0]
    assert body[1].hex() == FROZEN_BODY
    assert {number: part.hex() for number, part in shelf.elements.items()} == FROZEN_ELEMENTS
    shelf.elements = {number: bytes.fromhex(part) for number, part in FROZEN_ELEMENTS.items()}
    assert same(shelf.load(([0, 1, 0], bytes.fromhex(FROZEN_BODY), [])), value)


FROZEN_BODY = (
    "86a86d6573736167657392d44000d44000a473656e64d84193a46e6f646581a16dd64500000001c0a5706f696e"
    "74c7211a94a164ad74657374732e74687265616473a5506f696e7482a17801a17992c400c0a3736574d644d502"
    "9107a5636f6c6f72c72244c71f1a95a165ad74657374732e74687265616473a5436f6c6f72a3726564a3524544"
    "a564656c7461d5439101"
)
FROZEN_ELEMENTS = {
    0: "0192a568756d616e82a7636f6e74656e74a26869a26964a131",
    1: "02d982" + "78" * 130,
}
