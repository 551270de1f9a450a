"""Canonical form: what two objects are compared by that are to say the same, in 16 bytes.

It is made of the objects themselves and of nothing that stores them, so that what a stored form
loses is noticed. Tuples and lists are alike in it, and so are bytes of every type.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import fields, is_dataclass
from datetime import date, time, timedelta
from enum import Enum
from hashlib import blake2b
from itertools import chain
from pathlib import PurePath
from typing import Any

from langchain_core.messages import BaseMessage

from langmem_isolated._codecs.checkpoints.element_cache import fingerprint
from langmem_isolated._codecs.refusals import NotStorable

DIGEST_BYTES = 16


class Canon:
    """Makes digests of what has the same messages again and again, as checkpoints of a thread do.

    A message's own digest is kept by the fingerprint of its fields, for as long as this lives.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[type, int], str] = {}

    def digest(self, value: object) -> bytes:
        """16 bytes that are the same for what says the same."""
        return _digest(value, self._form)

    def _form(self, value: Any) -> Any:
        if not isinstance(value, BaseMessage):
            return _form(value)
        mark = fingerprint(value)
        if mark is None:
            return message_form(value)
        key = type(value), mark
        if key not in self._known:
            self._known[key] = _digest(message_form(value), _form).hex()
        return [value.type, self._known[key]]


def digest(value: object) -> bytes:
    """16 bytes that are the same for what says the same."""
    return _digest(value, _form)


def _digest(value: object, form: Callable[[Any], Any]) -> bytes:
    try:
        text = json.dumps(value, default=form, sort_keys=True)
    except RecursionError:
        raise NotStorable("it is nested too deeply") from None
    except TypeError:
        # Keys that are no text, or of several types.
        text = json.dumps(_plain(value), default=form)
    return blake2b(text.encode(), digest_size=DIGEST_BYTES).digest()


def message_form(message: BaseMessage) -> list[Any]:
    """A message's type and all its fields; those of a derived class beside langchain-core's."""
    values, own = message.__dict__, type(message).model_fields
    found = {name: values[name] for name in own if name in values}
    return [message.type, found | (message.__pydantic_extra__ or {})]


def _plain(value: object) -> Any:
    """The same of lists and texts alone, pairs of dicts in the order of their keys' forms."""
    if isinstance(value, Mapping):
        pairs = ([json.dumps(_plain(key)), _plain(one)] for key, one in value.items())
        return ["dict", sorted(pairs, key=lambda pair: pair[0])]
    if isinstance(value, list | tuple):
        return [*map(_plain, value)]
    if value is None or isinstance(value, str | int | float):
        return value
    return _plain(_form(value))


def _form(value: Any) -> Any:
    """What JSON has no form for, in one that has its type and all that it says."""
    if isinstance(value, BaseMessage):
        return message_form(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return ["bytes", bytes(value).hex()]
    return dict(value) if isinstance(value, Mapping) else [type(value).__qualname__, _said(value)]


def _said(value: Any) -> Any:
    if isinstance(value, AbstractSet):
        return sorted(json.dumps(_plain(one)) for one in value)
    if isinstance(value, date | time):
        # Of one moment and offset, whatever the zone is called.
        return value.isoformat()
    if isinstance(value, Enum | type):
        return getattr(value, "name", repr(value))
    return str(value) if isinstance(value, PurePath | timedelta) else _parts(value)


def _parts(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in fields(value)}
    if hasattr(value, "tobytes"):
        shape = getattr(value, "dtype", None), getattr(value, "shape", None)
        return [str(shape), value.tobytes().hex()]
    # Of an object it would be deprecated.
    if hasattr(type(value), "model_fields") or hasattr(value, "__pydantic_fields__"):
        return vars(value) | (value.__pydantic_extra__ or {})
    slots = chain.from_iterable(_slots(one) for one in type(value).__mro__)
    named = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    if state := named | getattr(value, "__dict__", {}):
        return state
    return list(value) if hasattr(value, "__iter__") else str(value)


def _slots(one: type) -> tuple[str, ...]:
    found = one.__dict__.get("__slots__", ())
    return (found,) if isinstance(found, str) else tuple(n for n in found if n[:2] != "__")
