"""What LangGraph's serializer wrote is read strictly: nothing that foreign bytes name is called."""

import dataclasses
import datetime as dt
import importlib
import ipaddress
import json
import pickle
import re
import uuid
import zoneinfo
from collections import deque
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.load import dumpd
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage, ToolMessage
from langgraph.checkpoint.serde.encrypted import EncryptedSerializer
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import _DeltaSnapshot
from langgraph.store.base import Item, SearchItem
from langgraph.types import Command, Interrupt, Overwrite, Send, TimeoutPolicy
from pydantic import BaseModel, SecretStr

from langmem_isolated._codecs.stock_serializer import StockSerializer, Undecodable
from langmem_isolated._crypto.foreign_aes import ForeignAes
from langmem_isolated.errors import SourceRefused

STOCK = JsonPlusSerializer()
NOON = dt.datetime(2026, 11, 29, 12, 0, 1, 5, dt.UTC)


class Plan(BaseModel):
    """A model of an application."""

    steps: list[str] = []
    inner: dict[str, Any] = {}


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Pair(NamedTuple):
    left: Any
    right: Any


class Mood(Enum):
    GOOD = "good"


class Outer:
    class Nested(BaseModel):
        n: int


APPLICATION = [Plan(steps=["a"]), Point(1, 2), Pair(1, [2]), Mood.GOOD, Outer.Nested(n=1)]
STOCKS_OWN = [
    *(None, True, -(2**63), 1.5, "ü", b"\x00", bytearray(b"a"), [1, ["2"]], {"a": {1: None}}),
    *({1, 2}, frozenset("a"), deque([1, {"a": 2}]), uuid.uuid4(), Decimal("1.10")),
    *(NOON, NOON.date(), NOON.timetz(), dt.timedelta(-1, 2, 3), dt.UTC),
    *(dt.timezone(dt.timedelta(hours=2), "X"), zoneinfo.ZoneInfo("Europe/Berlin")),
    *(ipaddress.ip_address("10.0.0.1"), ipaddress.ip_network("10.0.0.0/8")),
    *(ipaddress.ip_interface("fe80::1/64"), ipaddress.ip_address("::1"), Path("a/b")),
    *(
        re.compile("a+", re.IGNORECASE),
        SecretStr("s"),
        Document(page_content="d", metadata={"n": 1}),
    ),
    HumanMessage("Hi", id="1", name="al", response_metadata={"a": [1]}),
    AIMessage(
        [{"type": "text", "text": "a"}],
        tool_calls=[{"name": "t", "args": {"a": 1}, "id": "c", "type": "tool_call"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    ),
    ToolMessage("r", tool_call_id="c", artifact={"x": NOON}, status="error"),
    RemoveMessage(id="1"),
    *(
        Send("node", {"m": HumanMessage("a")}),
        Send("node", 1, timeout=TimeoutPolicy(run_timeout=1.5)),
    ),
    *(Interrupt(value={"q": 1}, id="i"), Command(update={"a": 1}, goto=["b", Send("c", 2)])),
    *(Overwrite([1]), TimeoutPolicy(run_timeout=2.0), _DeltaSnapshot([HumanMessage("x")])),
    Item(value={"a": 1}, key="k", namespace=("n",), created_at=NOON, updated_at=NOON),
    SearchItem(("n",), "k", {"a": 1}, NOON, NOON, score=0.5),
]


def read(value: Any, **options: Any) -> Any:
    return StockSerializer(**options).loads(*STOCK.dumps_typed(value))


@pytest.mark.parametrize("value", STOCKS_OWN, ids=lambda value: type(value).__name__)
def test_what_langgraph_writes_of_its_own_types_is_read_as_langgraph_reads_it(value: Any):
    expected = STOCK.loads_typed(STOCK.dumps_typed(value))

    found = read({"in": [value]} if not isinstance(value, bytes | bytearray) else value)
    found = found["in"][0] if isinstance(found, dict) else found

    assert type(found) is type(expected)
    assert found == expected


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numpy_are_read(order: Any):
    array = np.asarray(np.arange(6, dtype=np.float32).reshape(2, 3), order=order)

    found = read(array)

    assert (found.dtype, found.shape, found.tolist()) == (array.dtype, (2, 3), array.tolist())


@pytest.mark.parametrize("value", APPLICATION, ids=lambda value: type(value).__name__)
def test_classes_of_an_application_are_rebuilt_where_they_are_allowed_and_refused_otherwise(
    value: Any,
):
    with pytest.raises(Undecodable, match=f"the class tests.*{type(value).__name__} is not among"):
        read([value])

    assert read([value], allow=[type(value)]) == [value]
    named = f"{type(value).__module__}.{type(value).__qualname__}"
    assert read([value], allow=[named]) == [value]


def test_plain_fields_of_unknown_classes_are_kept_where_the_caller_wants_them():
    assert read([*APPLICATION[:4]], unknown="data") == [
        {"steps": ["a"], "inner": {}},
        {"x": 1, "y": 2},
        {"left": 1, "right": [2]},
        "good",
    ]


@pytest.mark.parametrize(
    "name", ["os.system", "subprocess.Popen", "no.such.Class", "Plan", "builtins.dict"]
)
def test_what_is_no_model_dataclass_enum_or_named_tuple_cannot_be_allowed(name: str):
    with pytest.raises(SourceRefused, match="Number 2 of allow"):
        StockSerializer([Plan, name])


# --- attacks --------------------------------------------------------------------------------------


packed, Ext = ormsgpack.packb, ormsgpack.Ext


def ext(code: int, *parts: Any) -> bytes:
    return packed(Ext(code, packed(parts)))


class Pickled:
    """Runs a command wherever it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return (importlib.import_module("os").system, (self.command,))


def crafted(command: str) -> dict[str, tuple[str, bytes]]:
    """Rows that run a command wherever they are read by who calls what they name."""
    shell = {"args": command, "shell": True}
    call = {"lc": 2, "type": "constructor", "id": ["os", "system"], "args": [command]}
    inner = Ext(1, packed(("os", "system", [command])))
    method = {**call, "id": ["os", "PathLike"], "method": "register"}
    return {
        "0": ("msgpack", ext(0, "os", "system", command)),
        "1": ("msgpack", ext(1, "os", "system", [command])),
        "2": ("msgpack", ext(2, "subprocess", "call", shell)),
        "3": ("msgpack", ext(3, "os", "os", command, "system")),
        "4": ("msgpack", ext(4, "subprocess", "call", shell)),
        "5": ("msgpack", ext(5, "subprocess", "call", shell, "model_validate_json")),
        "6": ("msgpack", ext(6, "|O", [1], "C", b"\x00" * 8)),
        "7": ("msgpack", packed(Ext(7, ext(0, "os", "system", command)))),
        "in a set": ("msgpack", packed({"a": [Ext(0, packed(("builtins", "set", [inner])))]})),
        "json": ("json", json.dumps({"a": [call]}).encode()),
        "json method": ("json", json.dumps(method).encode()),
        "json langchain": ("json", json.dumps({**call, "lc": 1, "kwargs": {}}).encode()),
        "json secret": ("json", b'{"lc": 1, "type": "secret", "id": ["PATH"]}'),
        "pickle": ("pickle", pickle.dumps(Pickled(command))),
        "another code": ("msgpack", ext(77, "os", "system", command)),
    }  # fmt: skip


# What the serializer of LangGraph runs as it is, or with the two options that it has for it.
RUN_BY_STOCK = {"0", "1", "2", "4", "5", "7", "in a set", "json", "pickle"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", crafted(""))
@pytest.mark.parametrize("unknown", ["reject", "data"])
def test_a_crafted_row_runs_nothing_whatever_stock_does_with_it(
    name: str, unknown: Any, tmp_path: Path
):
    ran = tmp_path / "ran"
    row = crafted(f"touch {ran}")[name]
    try:
        JsonPlusSerializer(pickle_fallback=True, allowed_json_modules=True).loads_typed(row)
    except Exception:  # noqa: BLE001 - it may refuse it as well
        assert name not in RUN_BY_STOCK
    assert ran.exists() == (name in RUN_BY_STOCK)
    ran.unlink(missing_ok=True)

    reader = StockSerializer(unknown=unknown, allow=[Plan, Point, Mood])
    if unknown == "reject":
        with pytest.raises(Undecodable) as caught:
            reader.loads(*row)
        assert str(tmp_path) not in str(caught.value)
    else:
        try:
            found = reader.loads(*row)
        except Undecodable:
            found = None
        assert isinstance(found, dict | list | str | int | set | None | _DeltaSnapshot)

    assert not ran.exists()


def test_no_module_is_imported_that_bytes_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "trap.py").write_text("class Trap: ...\nopen(__file__ + '.ran', 'w')")
    monkeypatch.syspath_prepend(tmp_path)

    for code in range(6):
        with pytest.raises(Undecodable, match=r"trap\.Trap"):
            StockSerializer().loads("msgpack", ext(code, "trap", "Trap", {}))

    assert not (tmp_path / "trap.py.ran").exists()


JSON_ROW = ("json", json.dumps({"a": [dumpd(HumanMessage("Hi", id="1"))], "b": 1.5}).encode())


@pytest.mark.parametrize(
    "row",
    [
        ("msgpack", b""),
        ("msgpack", packed(["a" * 50])[:20]),
        ("msgpack", b"\xdd\xff\xff\xff\xff"),
        ("msgpack", b"\x91" * 5000),
        ("json", b"{"),
        ("json", b"[" * 100_000),
        ("json", b"\xff"),
        ("json", b'{"lc": 2, "type": "constructor", "id": "os.system"}'),
        ("msgpack", ext(0, "uuid", "UUID", "no")),
        ("msgpack", ext(0, "builtins", "set", [[1]])),
        ("msgpack", ext(0, ["uuid"], "UUID", "no")),
        ("msgpack", ext(5, "langchain_core.messages.human", "HumanMessage", {"type": "ai"})),
        ("msgpack", ext(6, "<f4", [2], "C", b"\x00" * 12)),
        ("msgpack", packed(Ext(0, b"\xc1"))),
        ("msgpack", None),
        ("None", b""),
        (None, b""),
        ("msgpack+aes", b"\x00" * 40),
        ("msgpack+other", b"\x00" * 40),
    ],
)
def test_a_damaged_row_is_refused_without_a_word_of_its_content(row: tuple[Any, Any]):
    with pytest.raises(Undecodable) as caught:
        StockSerializer().loads(*row)

    assert "aaaa" not in str(caught.value)
    assert caught.value.__cause__ is None


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_rows_that_were_changed_at_random_are_read_or_refused_and_nothing_else(data: Any):
    kind, stored = data.draw(st.sampled_from([*map(STOCK.dumps_typed, STOCKS_OWN), JSON_ROW]))
    changed = bytearray(stored)
    for _ in range(data.draw(st.integers(1, 3)) if changed else 0):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(changed)))

    for bytes_ in (bytes(changed), bytes(changed[:end]), data.draw(st.binary(max_size=40))):
        with suppress(Undecodable):
            StockSerializer(unknown="data").loads(kind, bytes_)


def test_nesting_is_bounded():
    row = packed("x")
    for _ in range(3000):
        row = packed(Ext(7, row))

    with pytest.raises(Undecodable, match="nested too deeply"):
        StockSerializer().loads("msgpack", row)


def test_the_same_message_is_decoded_once_until_it_is_forgotten():
    reader = StockSerializer()
    row = STOCK.dumps_typed([HumanMessage("Hi", id="1")])

    (first,), (second,) = reader.loads(*row), reader.loads(*row)
    reader.forget()
    (third,) = reader.loads(*row)

    assert first is second
    assert first is not third
    assert first == third


# --- what LangGraph wrote before msgpack, and with encryption -------------------------------------


def lc2(module: str, name: str, **parts: Any) -> dict[str, Any]:
    return {"lc": 2, "type": "constructor", "id": [*module.split("."), name], **parts}


def test_rows_of_json_from_before_msgpack_are_read():
    state = {
        "messages": [
            dumpd(HumanMessage("Hi", id="1")),
            dumpd(AIMessage("Yo")) | {"id": ["langchain_core", "messages", "AIMessage"]},
        ],
        "time": lc2("datetime", "datetime", method="fromisoformat", args=[NOON.isoformat()]),
        "uuid": lc2("uuid", "UUID", args=["0" * 32]),
        "sends": [lc2("langgraph.constants", "Send", kwargs={"node": "n", "arg": 1})],
        "bytes": lc2("builtins", "bytes", method="fromhex", args=["00ff"]),
        "set": lc2("builtins", "set", args=[[1, 2]]),
        "plan": lc2(__name__, "Plan", method=[None, "model_construct"], kwargs={"steps": ["a"]}),
        "mood": lc2(__name__, "Mood", args=["good"]),
        "mine": {"lc": 3, "type": "constructor"},
    }

    found = StockSerializer([Plan, Mood]).loads("json", json.dumps(state).encode())

    assert found == {
        "messages": [HumanMessage("Hi", id="1"), AIMessage("Yo")],
        "time": NOON,
        "uuid": uuid.UUID(int=0),
        "sends": [Send("n", 1)],
        "bytes": b"\x00\xff",
        "set": {1, 2},
        "plan": Plan(steps=["a"]),
        "mood": Mood.GOOD,
        "mine": {"lc": 3, "type": "constructor"},
    }


@pytest.mark.parametrize("size", [16, 24, 32])
def test_what_an_encrypted_serializer_sealed_opens_with_its_key_alone(size: int):
    key = bytes(range(size))
    stock = EncryptedSerializer.from_pycryptodome_aes(key=key)
    kind, sealed = stock.dumps_typed(["secret"])
    assert kind == "msgpack+aes"

    ours = StockSerializer(decrypt=ForeignAes(key).open)
    for value in (["secret"], None, b"bytes", bytearray(b"array"), "x" * 100):
        assert ours.loads(*stock.dumps_typed(value)) == value
    flipped = sealed[:-1] + bytes([sealed[-1] ^ 1])
    for wrong, changed in ((bytes(size), sealed), (key, flipped), (key, b"")):
        with pytest.raises(Undecodable, match="does not open with the key"):
            StockSerializer(decrypt=ForeignAes(wrong).open).loads(kind, changed)
    with pytest.raises(Undecodable, match="no key was given"):
        StockSerializer().loads(kind, sealed)


def test_a_key_of_another_length_is_refused_and_never_shown():
    with pytest.raises(ValueError, match="this one has 5"):
        ForeignAes(b"short")

    assert repr(ForeignAes(b"k" * 16)) == "ForeignAes()"


def test_a_row_that_pycryptodome_sealed_once_opens_for_ever():
    sealed = bytes.fromhex(
        "6465666768696a6b6c6d6e6f70717273c464640b840295ca73c126c47f38ab65"
        "c5130673e67eca7b35107bd79948784ff9969f3136fdff2d"
    )

    assert ForeignAes(bytes(range(32))).open(sealed) == b"langgraph wrote this row"
