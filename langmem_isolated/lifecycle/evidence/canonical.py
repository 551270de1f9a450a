"""Canonical JSON (RFC 8785): one sequence of bytes for each value. The one home of `rfc8785`."""

from __future__ import annotations

import json
from importlib import import_module
from typing import Any, NoReturn

from langmem_isolated.errors import EvidenceRefused

_EXTRA = "Evidence packs need another package: pip install 'langmem-isolated[evidence]'."


def canonical(value: Any) -> bytes:
    """``value`` in canonical form.

    Raises:
        ImportError: The extra ``evidence`` is not installed.
    """
    made: bytes = _library().dumps(value)
    return made


def parsed(content: bytes) -> Any:
    """The value of a text in canonical form, and in no other: each value has one text.

    Raises:
        EvidenceRefused: It is none.
    """
    try:
        value = json.loads(content, parse_float=_refuse, parse_constant=_refuse)
        is_canonical = canonical(value) == content
    except (ValueError, RecursionError, OverflowError):
        is_canonical, value = False, None
    if not is_canonical:
        raise EvidenceRefused("it is no canonical JSON (RFC 8785)")
    return value


def _refuse(_: str) -> NoReturn:
    raise ValueError


def _library() -> Any:
    try:
        return import_module("rfc8785")
    except ImportError:
        raise ImportError(_EXTRA) from None
