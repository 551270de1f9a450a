import dataclasses
import datetime as dt
import enum
import ipaddress
import json
import math
import re
import uuid
import zoneinfo
from collections import OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import ormsgpack
import pydantic
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain_core import messages as core
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from langmem_isolated import IsolatedMemory
from langmem_isolated._codecs.classes import AllowedTypes
from langmem_isolated._codecs.headers import HEADER_V1, Header, decode_header, encode_header
from langmem_isolated._codecs.messages import (
    MESSAGE_V1,
    MessageMetadata,
    decode_message,
    decode_message_with_metadata,
    decode_messages,
    decode_prototype,
    encode_message,
)
from langmem_isolated._codecs.values import decode_value, encode_value
from langmem_isolated.errors import RecordError, ValueNotStorable
from tests.conftest import Door
from tests.spellings import assert_shows_none_of

VECTORS = Path(__file__).parent / "vectors"
CANARY = "canary-7f3a"


def in_parts(value: Any) -> Any:
    """The parts of a container, in order where it has one; the text of anything else."""
    if isinstance(value, BaseMessage):
        return [vars(value), value.__pydantic_extra__ or {}]
    if isinstance(value, Document):
        return [vars(value)]
    if isinstance(value, dict):
        return [part for pair in value.items() for part in pair]
    if isinstance(value, list | tuple):
        return [*value]
    if isinstance(value, deque):
        return [value.maxlen, *value]
    # The repr of a set inside another has no order of its own.
    is_set = isinstance(value, set | frozenset)
    return sorted(f"{type(part)} {sorted(repr(part))}" for part in value) if is_set else repr(value)


def same(one: Any, other: Any) -> bool:
    """Equal in type, value and order at full depth; a NaN is the same as a NaN."""
    parts, others = in_parts(one), in_parts(other)
    if type(one) is not type(other) or isinstance(parts, str):
        return type(one) is type(other) and parts == others
    return len(parts) == len(others) and all(map(same, parts, others))


# Values

text = st.text(max_size=20)
zones = st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns"]).map(zoneinfo.ZoneInfo)
offsets = st.builds(
    dt.timezone,
    st.timedeltas(dt.timedelta(hours=-23), dt.timedelta(hours=23)),
) | st.just(dt.UTC)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**80), 2**80),
    st.floats(),
    text,
    st.binary(max_size=20),
    st.datetimes(timezones=st.none() | zones | offsets),
    st.dates(),
    st.times(timezones=st.none() | zones | offsets),
    st.timedeltas(),
    st.uuids(),
    st.decimals(),
    st.ip_addresses(),
    zones,
    offsets,
    st.sampled_from(
        [
            ipaddress.ip_network("10.0.0.0/8"),
            ipaddress.ip_network("2001:db8::/32"),
            ipaddress.ip_interface("10.1.2.3/8"),
            ipaddress.ip_interface("2001:db8::1/32"),
            Path("some/../file"),
            re.compile("(?i)a+", re.MULTILINE),
            re.compile(rb"\d"),
            dt.timezone(dt.timedelta(hours=1), "BST"),
            dt.datetime(2024, 10, 27, 2, 30, fold=1),  # noqa: DTZ001
            dt.time(2, 30, fold=1),
        ]
    ),
)
# A NaN is not equal to itself: sets of them cannot be compared.
hashable = st.recursive(
    scalars.filter(lambda value: "nan" not in repr(value).lower()),
    lambda inner: st.lists(inner, max_size=2).map(tuple) | st.frozensets(inner, max_size=2),
    max_leaves=3,
)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(text, inner, max_size=4),
        st.dictionaries(hashable, inner, max_size=3),
        st.sets(hashable, max_size=4),
        st.frozensets(hashable, max_size=4),
        st.builds(deque, st.lists(inner, max_size=3), st.sampled_from([None, 3, 9])),
        st.builds(Document, page_content=text, metadata=st.dictionaries(text, inner, max_size=2)),
        st.builds(HumanMessage, content=text, additional_kwargs=st.just({})),
    )


values = st.recursive(scalars, containers, max_leaves=6)


@given(values)
@example(float("nan"))
@example(-0.0)
@example(2**64)
@example({1: "int", "1": "text", 1.5: "float", None: "none", (1,): "tuple"})
@example({True: {uuid.UUID(int=7): {dt.date(2026, 1, 2): {b"bytes": 0}}}})
@example([{"text": 1}, {1: [{2: ({3: {4}},)}]}])
@example(dt.datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")))
@settings(max_examples=300)
def test_values_come_back_exactly(value: Any):
    assert same(decode_value(encode_value(value, "a test")), value)


@given(st.lists(text, unique=True, max_size=30), st.booleans())
def test_the_order_of_keys_is_kept(keys: list[str], mixed: bool):
    value = dict.fromkeys([*keys, 7] if mixed else keys)

    assert [*decode_value(encode_value(value, "a test"))] == [*value]


class Mood(enum.StrEnum):
    GLAD = "glad"


class Size(enum.IntEnum):
    SMALL = 1


class Name(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (Name("alice"), "alice"),
        (OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (defaultdict(list, a=[1]), {"a": [1]}),
        ({Mood.GLAD: 1, Name("n"): 2}, {"glad": 1, "n": 2}),
        (type("Rows", (list,), {})([1]), [1]),
        (bytearray(b"raw"), b"raw"),
        (memoryview(b"raw"), b"raw"),
    ],
)
def test_subclasses_of_plain_types_come_back_as_those(value: Any, plain: Any):
    assert same(decode_value(encode_value(value, "a test")), plain)


# What is refused


class Canary:
    def __repr__(self) -> str:
        return CANARY

    __str__ = __repr__


class Agreeable:
    """Equal to everything, to a field's default too."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


class Colour(enum.Enum):
    RED = CANARY


class Settings(pydantic.BaseModel):
    secret: str = CANARY


@dataclasses.dataclass
class Row:
    secret: str = CANARY


class Odd(float):
    __slots__ = ()


class Rows(np.ndarray):
    pass


Point = namedtuple("Point", "x y")  # noqa: PYI024


def nested(depth: int, wrap) -> Any:
    value: Any = CANARY
    for _ in range(depth):
        value = wrap(value)
    return value


def endless() -> list:
    value: list[Any] = [CANARY]
    value.append(value)
    return value


REFUSED = [
    (Canary(), "test_codecs.Canary"),
    (Agreeable(), "test_codecs.Agreeable"),
    (Canary, "builtins.type"),
    (lambda: CANARY, "builtins.function"),
    ((letter for letter in CANARY), "builtins.generator"),
    (range(3), "builtins.range"),
    (1j, "builtins.complex"),
    (nested(300, lambda value: [value]), "nested too deeply"),
    (nested(300, lambda value: {"a": value}), "nested too deeply"),
    (nested(201, lambda value: (value,)), "nested too deeply"),
    (nested(100_000, lambda value: (value,)), "nested too deeply"),
    (nested(100_000, lambda value: [value]), "nested too deeply"),
    (nested(300, lambda value: {"a": value, 1: 2}), "nested too deeply"),
    (endless(), "nested too deeply"),
]
# What strict types refuse besides: classes that are not allowed, and what would come back changed.
STRICTLY_REFUSED = [
    (Colour.RED, "test_codecs.Colour"),
    (Settings(), "test_codecs.Settings"),
    (Row(), "test_codecs.Row"),
    (Point(CANARY, 1), "test_codecs.Point"),
    (Odd(1.5), "test_codecs.Odd"),
    (ValueError(CANARY), "builtins.ValueError"),
    (np.array([1.5]).view(Rows), "test_codecs.Rows"),
]
WRAPPINGS = {
    "itself": lambda value: value,
    "a list": lambda value: [1, value],
    "a dict": lambda value: {CANARY: value},
    "a tuple in a dict with numbers for keys": lambda value: {1: (value,)},
    "a document": lambda value: Document(page_content=CANARY, metadata={"a": value}),
    "a message": lambda value: ToolMessage(CANARY, tool_call_id="1", artifact=value),
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize(("value", "names"), REFUSED, ids=range(len(REFUSED)))
def test_what_has_no_exact_form_is_refused_by_its_type(value: Any, names: str, wrapping: str):
    with pytest.raises(ValueNotStorable) as caught:
        encode_value(WRAPPINGS[wrapping](value), "a test")

    assert names in str(caught.value)
    assert "in a test cannot be stored" in str(caught.value)
    assert isinstance(caught.value, TypeError)
    assert_shows_none_of(caught.value, [CANARY.encode()])


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize(
    ("value", "names"), STRICTLY_REFUSED, ids=[name for _, name in STRICTLY_REFUSED]
)
def test_strict_types_refuse_what_is_not_allowed_or_would_change(
    value: Any, names: str, wrapping: str
):
    with pytest.raises(ValueNotStorable) as caught:
        encode_value(WRAPPINGS[wrapping](value), "a test", AllowedTypes(()))

    assert caught.value.type_name.endswith(names)
    assert_shows_none_of(caught.value, [CANARY.encode()])


@pytest.mark.parametrize("key", [Canary(), (1, Canary()), Point(Canary(), 2), 1j])
def test_a_key_without_exact_form_is_refused_by_its_type(key: Any):
    with pytest.raises(ValueNotStorable, match=r"test_codecs\.|complex"):
        encode_value({key: 1}, "a test")


def test_a_pydantic_or_odd_message_class_is_refused_by_its_name():
    class Custom(HumanMessage):
        type: str = "custom"  # type: ignore[assignment]

    class Alone(BaseMessage):
        type: str = "alone"

    for message in (Custom(CANARY), Alone(CANARY)):
        with pytest.raises(ValueNotStorable, match=type(message).__qualname__.split(".")[-1]):
            encode_message(message)


@pytest.mark.parametrize("depth", [50, 99])
@pytest.mark.parametrize("wrap", [lambda v: (v,), lambda v: [v], lambda v: {1: [v]}])
def test_what_was_stored_can_be_read_from_a_deep_stack(depth: int, wrap):
    value = nested(depth // 2, wrap)
    stored = encode_value(value, "a test")

    def below(frames: int) -> Any:
        return below(frames - 1) if frames else decode_value(stored)

    assert same(below(600), value)


async def test_one_refused_message_refuses_the_call_and_nothing_is_written(
    memory: IsolatedMemory, door: Door
):
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    fine = HumanMessage("fine")
    bad = ToolMessage("no", tool_call_id="1", artifact={"deep": [Canary()]})

    with pytest.raises(ValueNotStorable, match="a message of class ToolMessage"):
        await door(history, "add_messages", [fine, bad])

    assert await door(history, "messages") == []
    await door(history, "add_messages", [fine])
    assert await door(history, "messages") == [fine]


# Messages

names = st.none() | text
blocks = st.sampled_from(
    [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"},
        {"type": "reasoning", "reasoning": "Let me see.", "extras": {"signature": "c2ln"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
    ]
)
content = st.just("") | text | st.lists(text | blocks | st.dictionaries(text, text, max_size=2))
free = st.dictionaries(text, scalars | st.lists(scalars, max_size=2).map(tuple), max_size=2)
arguments = st.dictionaries(text, st.integers() | text | st.lists(st.integers()), max_size=3)
tool_calls = st.lists(
    st.builds(
        lambda n, a, i: {"name": n, "args": a, "id": i, "type": "tool_call"}, text, arguments, names
    ),
    max_size=2,
)
invalid_tool_calls = st.lists(
    st.builds(
        lambda n, a, i, e: {
            "name": n, "args": a, "id": i, "error": e, "type": "invalid_tool_call",
        },
        names, names, names, names,
    ),
    max_size=2,
)  # fmt: skip
tool_call_chunks = st.lists(
    st.builds(
        lambda n, a, i, x: {
            "name": n, "args": a, "id": i, "index": x, "type": "tool_call_chunk",
        },
        names, names | st.just('{"a": 1'), names, st.none() | st.integers(0, 9),
    ),
    max_size=2,
)  # fmt: skip
usage = st.none() | st.builds(
    lambda i, o, c: {
        "input_tokens": i,
        "output_tokens": o,
        "total_tokens": i + o,
        "input_token_details": {"cache_read": c},
    },
    st.integers(0, 9999),
    st.integers(0, 9999),
    st.integers(0, 9),
)
common = {
    "content": content, "additional_kwargs": free, "response_metadata": free, "name": names,
    "id": names,
}  # fmt: skip
ai = {
    **common, "tool_calls": tool_calls, "invalid_tool_calls": invalid_tool_calls,
    "usage_metadata": usage,
}  # fmt: skip
tool = {
    **common, "tool_call_id": text, "artifact": free | scalars,
    "status": st.sampled_from(["success", "error"]),
}  # fmt: skip
FIELDS: dict[type[BaseMessage], dict[str, st.SearchStrategy[Any]]] = {
    core.HumanMessage: common,
    core.HumanMessageChunk: common,
    core.SystemMessage: common,
    core.SystemMessageChunk: common,
    core.AIMessage: ai,
    core.AIMessageChunk: {
        **ai,
        "tool_call_chunks": tool_call_chunks,
        "chunk_position": st.sampled_from([None, "last"]),
    },
    core.ToolMessage: tool,
    core.ToolMessageChunk: tool,
    core.FunctionMessage: {**common, "name": text},
    core.FunctionMessageChunk: {**common, "name": text},
    core.ChatMessage: {**common, "role": text},
    core.ChatMessageChunk: {**common, "role": text},
    core.RemoveMessage: {"id": text},
}


def with_fields(message_class: type[BaseMessage], fields: dict[str, Any]) -> BaseMessage:
    """A message with exactly these fields, as an application may have changed them later."""
    required = {"tool_call_id": "1", "name": "f", "role": "r", "content": "", "id": "1"}
    if message_class is core.RemoveMessage:
        required.pop("content")
    message = message_class(**{n: v for n, v in required.items() if n in fields})
    for name, value in fields.items():
        message.__dict__[name] = value
    return message


def test_every_message_class_of_langchain_core_is_tested_here():
    abstract = {BaseMessage, core.BaseMessageChunk}
    exported = [getattr(core, name) for name in core.__all__]
    classes = {it for it in exported if isinstance(it, type) and issubclass(it, BaseMessage)}

    assert classes - abstract == set(FIELDS)


@pytest.mark.parametrize("message_class", FIELDS, ids=lambda c: c.__name__)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_messages_come_back_exactly(message_class: type[BaseMessage], data):
    fields = data.draw(st.fixed_dictionaries(FIELDS[message_class]))
    message = with_fields(message_class, fields)

    assert same(decode_message(encode_message(message)), message)


@pytest.mark.parametrize("message_class", FIELDS, ids=lambda c: c.__name__)
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), later=st.dictionaries(st.sampled_from(["later", "lc_x", "Z"]), free))
def test_fields_of_a_later_langchain_core_come_back_with_their_message(
    message_class: type[BaseMessage], data, later: dict[str, Any]
):
    message = with_fields(message_class, data.draw(st.fixed_dictionaries(FIELDS[message_class])))
    for name, value in later.items():
        setattr(message, name, value)

    read = decode_message(encode_message(message))

    assert same(read, message)
    assert all(same(getattr(read, name), value) for name, value in later.items())


def test_a_message_is_kept_as_it_is_even_where_its_fields_disagree():
    """An application removed a tool call that the raw answer still holds: it stays removed."""
    raw = {"id": "1", "function": {"name": "delete", "arguments": "{}"}, "type": "function"}
    message = AIMessage("", additional_kwargs={"tool_calls": [raw]}, later=1)
    assert message.tool_calls
    message.tool_calls = []

    assert decode_message(encode_message(message)).tool_calls == []


@given(values)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_artifacts_come_back_exactly(artifact: Any):
    message = ToolMessage("ok", tool_call_id="1", artifact=artifact)
    within = ToolMessage("ok", tool_call_id="2", artifact=[(message, {"a": message})])

    assert same(decode_message(encode_message(message)).artifact, artifact)
    assert same(decode_message(encode_message(within)), within)


@pytest.mark.parametrize("message_class", FIELDS, ids=lambda c: c.__name__)
def test_messages_read_share_nothing_with_each_other(message_class: type[BaseMessage]):
    stored = encode_message(plain(message_class))

    one, other = decode_message(stored), decode_message(stored)
    for value in vars(one).values():
        if isinstance(value, dict):
            value["changed"] = True
        if isinstance(value, list):
            value.append("changed")
    one.later = "changed"

    assert same(other, plain(message_class))
    assert same(decode_message(stored), plain(message_class))


@pytest.mark.parametrize("message_class", FIELDS, ids=lambda c: c.__name__)
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_a_copy_of_a_prototype_is_the_message_that_would_be_decoded(
    message_class: type[BaseMessage], data
):
    fields = data.draw(st.fixed_dictionaries(FIELDS[message_class]))
    stored = encode_message(with_fields(message_class, fields))

    if prototype := decode_prototype(stored):
        for copy in decode_messages([prototype, prototype]):
            assert alike(copy, decode_message(stored))


@pytest.mark.parametrize("message_class", FIELDS, ids=lambda c: c.__name__)
@pytest.mark.parametrize("is_full", [False, True])
def test_a_copy_of_a_prototype_shares_nothing_with_it_that_can_be_changed(
    message_class: type[BaseMessage], is_full: bool
):
    message = plain(message_class)
    for name, value in vars(message).items():
        if is_full and isinstance(value, dict | list):
            vars(message)[name] = {"a": [{"b": [1]}]} if isinstance(value, dict) else [{"a": [1]}]
    stored = encode_message(message)
    prototype = decode_prototype(stored)
    assert prototype

    copy, other = decode_messages([prototype, prototype])

    own = changeable(copy)
    assert len(own) >= (10 if is_full else 5)
    assert own.isdisjoint(changeable(prototype))
    assert own.isdisjoint(changeable(other))
    assert alike(copy, decode_message(stored))


def changeable(part: Any) -> set[int]:
    """What can be changed in place of something, by identity."""
    if isinstance(part, BaseMessage):
        parts = [vars(part), part.model_fields_set, part.__pydantic_extra__]
        return {id(part)}.union(*map(changeable, parts))
    if not isinstance(part, dict | list | set | tuple):
        return set()
    within = part.values() if isinstance(part, dict) else part
    return {id(part)}.union(*map(changeable, within))


@pytest.mark.parametrize(
    "message",
    [
        HumanMessage("", later=1),
        HumanMessage("", additional_kwargs={"a": {1: 2}}),
        HumanMessage("", additional_kwargs={"a": (1,), "b": {2}}),
        HumanMessage("\ud800"),
        ToolMessage("", tool_call_id="1", artifact=dt.date(2026, 1, 2)),
        ToolMessage("", tool_call_id="1", artifact=[Decimal(1)]),
    ],
)
def test_a_message_with_what_msgpack_lacks_has_no_prototype(message: BaseMessage):
    assert decode_prototype(encode_message(message)) is None


def plain(message_class: type[BaseMessage]) -> BaseMessage:
    """A message with no more than it must have."""
    required = {"tool_call_id": "1", "role": "r", "name": "f", "id": "1", "content": "x"}
    known = {n: v for n, v in required.items() if n in message_class.model_fields}
    if message_class is core.RemoveMessage:
        known.pop("content")
    return message_class(**known)


def test_a_message_derived_from_a_known_class_comes_back_as_that_class_with_all_fields():
    class Spoken(HumanMessage):
        seconds: float = 0.0
        heard: tuple[str, ...] = ()

    message = Spoken("hello", id="7", seconds=1.5, heard=("a", "b"), later={"x": (1,)})

    read = decode_message(encode_message(message))

    assert type(read) is HumanMessage
    assert (read.content, read.id) == ("hello", "7")
    assert (read.seconds, read.heard, read.later) == (1.5, ("a", "b"), {"x": (1,)})


def test_a_tool_message_derived_from_ours_keeps_what_its_artifact_is():
    class Looked(ToolMessage):
        pass

    inner = Document(page_content="page", metadata={"n": (1, 2)})

    read = decode_message(encode_message(Looked("x", tool_call_id="1", artifact=[inner])))

    assert same(read.artifact, [inner])


async def test_every_message_class_goes_through_the_database(memory: IsolatedMemory, door: Door):
    stored = [decode_message(bytes.fromhex(row["stored"])) for row in frozen()["messages"]]
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("all")

    await door(history, "add_messages", stored)
    read = await door(history, "messages")

    assert {type(message) for message in read} == set(FIELDS)
    assert all(same(*pair) for pair in zip(read, stored, strict=True))


# Other versions


@pytest.mark.parametrize("form", [b"\x00", b"\x03", b"\xff", b""])
def test_a_message_in_another_form_is_refused_clearly(form: bytes):
    body = encode_message(HumanMessage(CANARY))[1:]

    with pytest.raises(RecordError, match=r"stored in form .* this version knows 01, 02") as caught:
        decode_message(form + (body if form else b""))

    assert_shows_none_of(caught.value, [CANARY.encode()])


@pytest.mark.parametrize(
    "plaintext",
    [
        MESSAGE_V1 + ormsgpack.packb(["video", {"content": CANARY}]),
        MESSAGE_V1 + ormsgpack.packb(["human", {"content": ormsgpack.Ext(99, b"\xa1a")}]),
        MESSAGE_V1 + ormsgpack.packb(["tool", {"artifact": [ormsgpack.Ext(1, b"\xc1")]}]),
        MESSAGE_V1 + ormsgpack.packb(["tool", {"artifact": ormsgpack.Ext(20, b"\xa2No")}]),
        MESSAGE_V1
        + ormsgpack.packb(
            ["tool", {"artifact": ormsgpack.Ext(23, ormsgpack.packb(["video", {}]))}]
        ),
    ],
)
def test_a_type_of_a_later_version_is_refused_clearly(plaintext: bytes):
    with pytest.raises(RecordError, match="install a later langmem-isolated") as caught:
        decode_message(plaintext)

    assert caught.value.__cause__ is None
    assert_shows_none_of(caught.value, [CANARY.encode()])


@given(st.builds(Header, text, names, names))
def test_headers_come_back_exactly(header: Header):
    assert decode_header(encode_header(header)) == header


def test_a_later_field_of_a_header_is_left_out_and_a_later_form_refused():
    fields = {"session_id": "monday", "title": "Tables", "channel": None, "later": 1}

    assert decode_header(HEADER_V1 + ormsgpack.packb(fields)) == Header("monday", "Tables")
    assert decode_header(HEADER_V1 + ormsgpack.packb({"session_id": "a"})) == Header("a")
    with pytest.raises(RecordError, match="session's header is stored in form 02"):
        decode_header(b"\x02" + ormsgpack.packb(fields))


# The frozen form


def every_class() -> list[BaseMessage]:
    call = {"name": "add", "args": {"a": 1, "b": [2]}, "id": "call-1", "type": "tool_call"}
    spoilt = {
        "name": "add",
        "args": "{a",
        "id": "call-2",
        "error": "no",
        "type": "invalid_tool_call",
    }
    chunk = {"name": "add", "args": "{", "id": "c", "index": 0, "type": "tool_call_chunk"}
    tokens = {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7}
    seen: dict[str, Any] = {"id": "run-1", "name": "Zoë", "response_metadata": {"model": "m"}}
    moment = dt.datetime(2026, 1, 2, 3, 4, 5, 6, zoneinfo.ZoneInfo("Europe/Berlin"), fold=1)
    every_type = [
        None, True, -1, 2**63, 2**70, 1.5, -math.inf, "text", b"bytes", [1], (1, (2,)), {3},
        frozenset([4]), deque([5], 6), {"a": {7: {"b": 8}}}, moment, moment.date(), moment.timetz(),
        dt.timedelta(-1, 2, 3), dt.UTC, dt.timezone(dt.timedelta(0, 60), "X"), uuid.UUID(int=9),
        Decimal("1.50"), Path("a/b"), moment.tzinfo, re.compile("a", re.IGNORECASE),
        *map(ipaddress.ip_address, ("10.0.0.1", "::1")),
        *map(ipaddress.ip_network, ("10.0.0.0/8", "fd00::/8")),
        *map(ipaddress.ip_interface, ("10.0.0.1/8", "fd00::1/8")),
        Document(page_content="page", metadata={"n": (1,)}, id="d"), HumanMessage("inner"),
    ]  # fmt: skip
    picture = {"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}
    return [
        core.HumanMessage("What is 7 times 6?"),
        core.HumanMessage(["Look:", picture], **seen, additional_kwargs={"a": 1}, later={"b": 2}),
        core.HumanMessageChunk("What", id="run-1"),
        core.SystemMessage(""),
        core.SystemMessageChunk("Be"),
        core.AIMessage(
            "", **seen, tool_calls=[call], invalid_tool_calls=[spoilt], usage_metadata=tokens
        ),
        core.AIMessageChunk("4", id="run-2", tool_call_chunks=[chunk], chunk_position="last"),
        core.ToolMessage("42", tool_call_id="call-1", artifact=every_type, status="error"),
        core.ToolMessageChunk("4", tool_call_id="call-1"),
        core.FunctionMessage("42", name="add"),
        core.FunctionMessageChunk("4", name="add"),
        core.ChatMessage("hi", role="critic"),
        core.ChatMessageChunk("h", role="critic"),
        core.RemoveMessage("run-1"),
    ]


def remade() -> dict[str, Any]:
    return {
        "messages": [
            {"class": type(message).__name__, "stored": encode_message(message).hex()}
            for message in every_class()
        ],
        "header": encode_header(Header("monday", "Tables", None)).hex(),
    }


def frozen(name: str = "messages_v1.json") -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((VECTORS / name).read_text())
    return loaded


def alike(one: BaseMessage, other: BaseMessage) -> bool:
    """Equal, in this order, too, and with what `==` does not look at."""
    return (
        same(one, other)
        and [*vars(one)] == [*vars(other)]
        and one.model_fields_set == other.model_fields_set
        and one.__pydantic_extra__ == other.__pydantic_extra__
        and one.__pydantic_private__ is other.__pydantic_private__ is None
    )


@pytest.mark.parametrize("has_fields_of_later_versions", [True, False])
@pytest.mark.parametrize("has_prototypes", [True, False])
def test_messages_that_are_decoded_together_are_as_each_by_itself(
    has_fields_of_later_versions: bool, has_prototypes: bool
):
    every = [
        message
        for message in every_class()
        if has_fields_of_later_versions or not message.__pydantic_extra__
    ]
    stored = [
        encode_message(message, metadata)
        for _ in range(20)
        for message in every
        for metadata in (None, MessageMetadata(1), MessageMetadata(1, "voice"))
    ]
    parts = [decode_prototype(one) or one for one in stored] if has_prototypes else stored

    together, each = decode_messages(parts), [decode_message(one) for one in stored]

    assert len(together) == len(stored) > 512
    assert all(map(alike, together, each))
    first, second = together[0], together[3 * len(every)]
    assert first.additional_kwargs is not second.additional_kwargs
    assert first.model_fields_set is not second.model_fields_set


def test_encoding_makes_the_bytes_that_were_frozen():
    assert remade() == frozen()


def test_encoding_with_a_channel_makes_the_bytes_that_were_frozen():
    said = MessageMetadata(1_767_323_045_006_000, "général", True, (7, 8))
    stored = [encode_message(m, said).hex() for m in every_class()]
    header = Header("monday", "Tables", "general", "They learn tables.", 7)

    assert {"messages": stored, "header": encode_header(header).hex()} == frozen("channels_v2.json")


def test_frozen_messages_of_a_channel_are_read_exactly():
    loaded = frozen("channels_v2.json")
    said = [decode_message_with_metadata(bytes.fromhex(stored)) for stored in loaded["messages"]]

    assert all(same(one.message, message) for one, message in zip(said, every_class(), strict=True))
    assert {one.metadata for one in said} == {
        MessageMetadata(1_767_323_045_006_000, "général", True, (7, 8))
    }
    assert all(
        same(decode_message(bytes.fromhex(stored)), message)
        for stored, message in zip(loaded["messages"], every_class(), strict=True)
    )
    assert decode_header(bytes.fromhex(loaded["header"])).summarized == 7


@given(st.builds(AIMessage, content, id=names), text, st.integers(0, 2**62))
def test_channel_and_time_come_back_with_their_message(
    message: AIMessage, channel: str, written: int
):
    metadata = MessageMetadata(written, channel)
    said = decode_message_with_metadata(encode_message(message, metadata))

    assert same(said.message, message)
    assert said.metadata == metadata


def test_frozen_messages_are_read_exactly():
    for row, message in zip(frozen()["messages"], every_class(), strict=True):
        assert same(decode_message(bytes.fromhex(row["stored"])), message)
    assert decode_header(bytes.fromhex(frozen()["header"])) == Header("monday", "Tables")
