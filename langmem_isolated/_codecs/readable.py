"""Readable form: what is stored as JSON that people and other programs read.

Nothing is rebuilt: a class that this program has not is read as its fields all the same. What JSON
has not is ``{"type": …, "value": …}``, bytes among it as base64; then the readable form does not
tell all, and whoever wants it exactly keeps the stored bytes beside it.
"""

import base64
import json
import math
from typing import Any, NamedTuple

import ormsgpack

from langmem_isolated._codecs.classes import type_name
from langmem_isolated._codecs.forms import MESSAGE, PAIRS, TEXT
from langmem_isolated._codecs.messages import MESSAGE_V1, MESSAGE_V2, MessageMetadata
from langmem_isolated._codecs.values import encode_value
from langmem_isolated._codecs.versions import later_form
from langmem_isolated.errors import ValueNotStorable

# By their codes, which never change; others go by their number.
_NAMES = dict(
    zip(
        (1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 22, 26, 27),
        (
            *("tuple", "set", "frozenset", "deque", "integer", "datetime", "date", "time"),
            *("timedelta", "uuid", "decimal", "path", "document", "object", "array"),
        ),
        strict=True,
    )
)

# What the values of profiles and caches begin with.
_VERSION = b"\x01"


class Readable(NamedTuple):
    """A value as JSON has it."""

    value: Any
    is_exact: bool
    """Whether the stored bytes can be made from it again."""


class ReadableMessage(NamedTuple):
    """A message in the form of `message_to_dict`, and what was sealed beside it."""

    message: dict[str, Any]
    metadata: MessageMetadata | None
    is_exact: bool


def readable(packed: bytes) -> Readable:
    """What :func:`encode_value` made, in a readable form."""
    found = _Unpacked()
    value = found.unpack(packed)
    if not found.has_others and _is_json(value) and ormsgpack.packb(value) == packed:
        return Readable(value, is_exact=True)
    return Readable(_plain(value), is_exact=False)


def readable_message(plaintext: bytes) -> ReadableMessage:
    """What :func:`encode_message` made, in a readable form.

    Raises:
        RecordError: A later version of this package wrote it.
    """
    form = plaintext[:1]
    if form not in (MESSAGE_V1, MESSAGE_V2):
        raise later_form("message", form, MESSAGE_V1, MESSAGE_V2)
    (*beside, type_, fields), is_exact = readable(plaintext[1:])
    metadata = MessageMetadata.unpacked(*beside) if beside else None
    # Of what a later version sealed beside it nothing is shown.
    is_known = metadata is None or metadata.packed() == beside
    return ReadableMessage({"type": type_, "data": fields}, metadata, is_exact and is_known)


def readable_bytes(value: bytes) -> Any:
    """Bytes of any origin: a value of ours behind its version, or text; ``None`` for others."""
    try:
        return readable(value[1:]).value if value[:1] == _VERSION else value.decode()
    except ValueError:
        return None


def readable_state(values: dict[str, Any]) -> dict[str, Any]:
    """The values of channels, by channel, each in a readable form; lists among them are emptied."""
    return {str(name): _state(value) for name, value in values.items()}


def _state(value: object) -> Any:
    if type(value) is list:
        # One by one, and none is held as both: 50,000 messages took 139 MB, and take 81.
        value.reverse()
        return [_readable(value.pop()) for _ in range(len(value))]
    return _readable(value)


def _readable(value: object) -> Any:
    try:
        return readable(encode_value(value, "a state")).value
    except ValueNotStorable:
        return {"type": type_name(value), "value": None}


class _Unpacked:
    """Unpacks one value; ``has_others`` says afterwards whether it held what msgpack lacks."""

    __slots__ = ("has_others",)

    def __init__(self) -> None:
        self.has_others = False

    def unpack(self, packed: bytes) -> Any:
        return ormsgpack.unpackb(packed, ext_hook=self._hook)

    def _hook(self, code: int, packed: bytes) -> Any:
        self.has_others = True
        plain = self.unpack(packed)
        if code == TEXT:
            return plain.decode(errors="surrogatepass")
        if code == MESSAGE:
            return {"type": plain[0], "data": plain[1]}
        if code == PAIRS:
            pairs = [*zip(plain[::2], plain[1::2], strict=True)]
            return {"type": "dict", "value": [list(pair) for pair in pairs]}
        return {"type": _NAMES.get(code, f"form {code}"), "value": plain}


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, bytes):
        return {"type": "bytes", "value": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return {"type": "float", "value": str(value)}
    return value
