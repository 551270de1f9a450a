"""Pickles as data: what a pickle says is read, and nothing that it names is found or called.

``pickle.loads`` runs what the bytes say. Here their opcodes are only listed, by
:func:`pickletools.genops`, and dicts, lists and plain values are made of them; an object of a class
is a `PickledObject` that holds its state, whatever the class is.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any

from langmem_isolated.importers.application.forms import Unreadable

# As many as a point of 16,000 dimensions and a payload of some thousand values has.
_MOST_OPCODES = 100_000


class PickledObject:
    """In place of an object: its state, if the pickle gives it one."""

    __slots__ = ("state",)

    def __init__(self) -> None:
        self.state: Any = None


class _Mark:
    """Where a group of values begins on the stack."""


_VALUES = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    )
)
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple, "EMPTY_SET": set,
    "MARK": _Mark, "GLOBAL": PickledObject,
}  # fmt: skip
# Each takes so many values from the stack, and leaves an object in their place.
_OBJECTS = {"STACK_GLOBAL": 2, "NEWOBJ": 2, "NEWOBJ_EX": 3, "REDUCE": 2}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_IGNORED = ("PROTO", "FRAME")


def data_of(pickled: bytes) -> Any:
    """What a pickle holds, objects as `PickledObject`.

    Raises:
        Unreadable: It is no whole pickle, or has opcodes that data does not need.
    """
    try:
        return _read(pickled)
    # Whatever is wrong with foreign bytes: they are cut off, or hold what does not fit together.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Unreadable(f"no whole pickle ({type(error).__name__})") from None


def _read(pickled: bytes) -> Any:
    machine = _Machine()
    for number, (opcode, argument, _) in enumerate(pickletools.genops(pickled)):
        if number > _MOST_OPCODES:
            raise Unreadable(f"a pickle of more than {_MOST_OPCODES:,} opcodes")
        machine.step(opcode.name, argument)
    return machine.result()


class _Machine:
    """The stack and the memo of a pickle, for opcodes that make data."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def result(self) -> Any:
        """What is on the stack at the end."""
        [value] = self._stack
        return value

    def step(self, name: str, argument: Any) -> None:
        """Do what one opcode says."""
        if name in _VALUES:
            self._stack.append(argument)
        elif name in _MADE:
            self._stack.append(_MADE[name]())
        elif name in _OBJECTS:
            self._pop(_OBJECTS[name])
            self._stack.append(PickledObject())
        elif name in _TUPLES:
            self._stack.append(tuple(self._pop(_TUPLES[name])))
        elif name not in _IGNORED:
            self._other(name, argument)

    def _other(self, name: str, argument: Any) -> None:
        step = getattr(self, f"_{name.lower()}", None)
        if step is None:
            raise Unreadable("a pickle with opcodes that data does not need")
        step(argument)

    def _pop(self, count: int) -> list[Any]:
        taken = self._stack[-count:]
        if len(taken) < count:
            raise IndexError
        del self._stack[-count:]
        return taken

    def _to_mark(self) -> list[Any]:
        places = range(len(self._stack) - 1, -1, -1)
        place = next((place for place in places if type(self._stack[place]) is _Mark), None)
        if place is None:
            raise IndexError
        taken = self._stack[place + 1 :]
        del self._stack[place:]
        return taken

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _binput(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    _put = _long_binput = _binput

    def _binget(self, number: int) -> None:
        value = self._memo[number]
        # Lists of a list, thirty times over, would be a gigabyte once they are written out.
        if isinstance(value, list | dict | tuple):
            raise Unreadable("a pickle in which a list or dict stands in two places")
        self._stack.append(value)

    _get = _long_binget = _binget

    def _append(self, _: Any) -> None:
        self._stack[-2].append(self._pop(1)[0])

    def _appends(self, _: Any) -> None:
        values = self._to_mark()
        self._stack[-1].extend(values)

    def _additems(self, _: Any) -> None:
        # Sets are in the state of pydantic's models alone, and not read.
        self._to_mark()

    def _setitem(self, _: Any) -> None:
        key, value = self._pop(2)
        self._set({key: value})

    def _setitems(self, _: Any) -> None:
        values = iter(self._to_mark())
        self._set(dict(zip(values, values, strict=True)))

    def _set(self, entries: dict[Any, Any]) -> None:
        self._stack[-1].update(entries)

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._to_mark()))

    def _list(self, _: Any) -> None:
        self._stack.append(self._to_mark())

    def _dict(self, _: Any) -> None:
        values = iter(self._to_mark())
        self._stack.append(dict(zip(values, values, strict=True)))

    def _build(self, _: Any) -> None:
        [state] = self._pop(1)
        if isinstance(self._stack[-1], PickledObject):
            self._stack[-1].state = state

    def _stop(self, _: Any) -> None:
        """The end, which genops tells."""
