"""Readable values: what is stored, as people and other programs read it."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage, message_to_dict

# So much stands on one line.
_SHORT = 80


def as_text(value: Any) -> str:
    """A stored value as people read it: a text as it is, all else as JSON."""
    if isinstance(value, str):
        return value
    short = json.dumps(plain(value), ensure_ascii=False)
    return short if len(short) <= _SHORT else as_json(value)


def as_json(value: Any) -> str:
    """A stored value as JSON over some lines."""
    return json.dumps(plain(value), ensure_ascii=False, indent=1, allow_nan=False)


def plain(value: Any) -> Any:
    """A value of what JSON has; for what it has not, text that says the same."""
    if isinstance(value, BaseMessage):
        return plain(message_to_dict(value))
    if isinstance(value, Mapping):
        return {_name(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(part) for part in value]
    if isinstance(value, bytes):
        return {"type": "bytes", "value": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if isinstance(value, str | int | float | None) else str(value)


def _name(name: Any) -> str:
    return name if isinstance(name, str) else str(plain(name))
