"""A stored type name makes a model, a dataclass, an enum or a named tuple, and nothing else.

Names are authenticated, so nobody else writes them; whoever did would still run nothing.
"""

import contextlib
import dataclasses
import enum
import functools
import os
import pickle
import subprocess
import sys
from collections import namedtuple
from typing import Any, Self

import ormsgpack
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langmem_isolated._codecs.checkpoints.decoder import Decoder
from langmem_isolated._codecs.checkpoints.serializer import Serde
from langmem_isolated._codecs.classes import ANY_TYPE, rebuild
from langmem_isolated._codecs.forms import OBJECT
from langmem_isolated._codecs.values import decode_value
from langmem_isolated.errors import RecordError

HERE = __name__
ran: list[str] = []


class Plain:
    """None of the four kinds; says when anything of it runs."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        ran.append("new")
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        ran.append("init")

    @classmethod
    def make(cls, *_: Any, **__: Any) -> None:
        ran.append("make")

    class Model(pydantic.BaseModel):
        x: Any = None


class Pretending(type):
    """A metaclass that answers as one of the four kinds does."""

    def __getattr__(cls, name: str) -> Any:
        ran.append(name)
        return {}

    def __instancecheck__(cls, instance: object) -> bool:
        return True

    def __subclasscheck__(cls, subclass: type) -> bool:
        return True


class Pretender(metaclass=Pretending):
    def __init__(self, **_: Any) -> None:
        ran.append("init")


def function(*_: Any, **__: Any) -> None:
    ran.append("function")


callable_object = functools.partial(function)


class Model(pydantic.BaseModel):
    x: Any = None


@dataclasses.dataclass
class Data:
    x: Any = None


class Choice(enum.Enum):
    A = "a"


Pair = namedtuple("Pair", "x")  # noqa: PYI024

OURS = (Model, Data, Choice, Pair, Plain.Model)
NAMES = [
    *(("os", name) for name in ("system", "popen", "remove", "getcwd", "environ", "path.join")),
    *(("builtins", name) for name in ("eval", "exec", "open", "type", "object", "print", "dict")),
    *(("functools", name) for name in ("partial", "reduce", "partial.func")),
    *(("subprocess", name) for name in ("Popen", "run", "check_output")),
    *(("pickle", name) for name in ("loads", "Unpickler")),
    *(("importlib", name) for name in ("import_module", "reload")),
    *(("operator", name) for name in ("attrgetter", "methodcaller")),
    *((HERE, name) for name in vars(sys.modules[HERE]) if not name.startswith("__")),
    *((HERE, f"Plain.{name}") for name in ("make", "__init__", "__class__", "__new__", "Model")),
    *((HERE, f"{kind}.__class__") for kind in ("Model", "Data", "Choice", "Pair", "function")),
    *((HERE, name) for name in ("Model.model_validate", "Pair._make", "Data.__init__", "")),
    *((HERE, name) for name in ("function.__globals__", "os.system", "subprocess.Popen", ".Model")),
    ("os.path", "os.system"),
    (f"{HERE}.Model", "Model"),
    (".", "Model"),
    ("", ""),
    ("no.such.module", "Name"),
]  # fmt: skip
names = st.sampled_from(NAMES) | st.tuples(st.text(max_size=9), st.text(max_size=9))
plain = st.none() | st.integers(-(2**63), 2**63) | st.text(max_size=5) | st.binary(max_size=5)
values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "cmd", "args", "self"]), inner, max_size=3)
        | st.builds(
            lambda kind, name, fields, more: ormsgpack.Ext(
                OBJECT, ormsgpack.packb([kind, *name, fields, *more])
            ),
            st.sampled_from("mv1dtex"),
            names,
            inner,
            st.lists(plain, max_size=2),
        )
    ),
    max_leaves=4,
)


def are_ours(value: Any) -> bool:
    """Whether it is made of plain values and of the four kinds alone."""
    if isinstance(value, dict):
        return all(map(are_ours, [*value, *value.values()]))
    if isinstance(value, list):
        return all(map(are_ours, value))
    if type(value) in OURS:
        return True
    return value is None or type(value) in (int, str, bytes)


@given(st.sampled_from("mv1dtex"), names, values, st.lists(plain, max_size=2))
def test_a_name_makes_one_of_the_four_kinds_or_leaves_plain_fields(
    kind: str, name: tuple[str, str], fields: Any, more: list[Any]
):
    ran.clear()
    packed = ormsgpack.packb(ormsgpack.Ext(OBJECT, ormsgpack.packb([kind, *name, fields, *more])))
    for decode in (
        decode_value,
        lambda form: Decoder({}, None, Serde(is_strict=False)).decode([([], form, [])])[0],
    ):
        try:
            found = decode(packed)
        except RecordError:
            continue
        assert are_ours(found), type(found)
    assert ran == []


@pytest.mark.parametrize("kind", list("mv1dte"))
@pytest.mark.parametrize(("module", "name"), NAMES)
def test_no_other_callable_is_found_by_any_name(
    kind: str, module: str, name: str, monkeypatch: pytest.MonkeyPatch
):
    def caught(*_: Any, **__: Any) -> None:
        ran.append("caught")

    for place, attribute in ((os, "system"), (subprocess, "Popen"), (pickle, "loads")):
        monkeypatch.setattr(place, attribute, caught)
    ran.clear()
    fields: Any = {"x": "echo"} if kind != "e" else "a"

    found = rebuild([kind, module, name, fields], ANY_TYPE)

    assert found is fields or type(found) in OURS or dataclasses.is_dataclass(found)
    assert ran == []


def test_each_of_the_four_kinds_is_found_by_its_own_kind_alone():
    kinds = {"m": Model, "v": Model, "d": Data, "t": Pair}
    for kind in "mvdt":
        for made in (Model, Data, Pair, Choice):
            found = rebuild([kind, HERE, made.__qualname__, {"x": 1}], ANY_TYPE)
            assert type(found) is (made if kinds[kind] is made else dict)
    assert rebuild(["e", HERE, "Choice", "a"], ANY_TYPE) is Choice.A
    assert rebuild(["e", HERE, "Model", "a"], ANY_TYPE) == "a"


def test_forms_of_langgraphs_serializer_run_nothing():
    """They can name any function; ours have codes of their own, and none of theirs is read."""
    for code in (0, 1, 2, 3, 4, 5):
        call = ormsgpack.packb((HERE, "function", {"x": 1}, "make"))
        packed = ormsgpack.packb(ormsgpack.Ext(code, call))
        ran.clear()
        for decode in (
            decode_value,
            lambda form: Decoder({}, None, Serde()).decode([([], form, [])]),
        ):
            with contextlib.suppress(RecordError):
                decode(packed)
        assert ran == []
