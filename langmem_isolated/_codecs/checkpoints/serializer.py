"""Serializer of types that msgpack lacks: LangGraph's own, with an allow-list."""

import importlib
import logging
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langmem_isolated._codecs.compat import SAFE_MSGPACK_TYPES
from langmem_isolated._codecs.values import type_name
from langmem_isolated.errors import ValueNotStorable

_log = logging.getLogger("langmem_isolated")

TypeName = tuple[str, ...]


class Serde:
    """LangGraph's serializer, strict: a type that is not allowed is refused when it is written."""

    def __init__(self, allowed: Iterable[TypeName] = ()) -> None:
        self.allowed = frozenset(allowed)
        self.plus = JsonPlusSerializer(allowed_msgpack_modules=self.allowed or None)

    def dumps(self, value: Any) -> bytes:
        """A value that msgpack has no form for, in LangGraph's."""
        try:
            type_, packed = self.plus.dumps_typed(value)
        except (ormsgpack.MsgpackEncodeError, TypeError):
            raise ValueNotStorable(type_name(value), "a checkpoint") from None
        for name in _names_in(packed) if type_ == "msgpack" else ():
            self.check(name)
        return ormsgpack.packb([type_, packed])

    def loads(self, packed: bytes) -> Any:
        """What :meth:`dumps` was given."""
        type_, inner = ormsgpack.unpackb(packed)
        return self.plus.loads_typed((type_, inner))

    def check(self, name: TypeName) -> None:
        """Refuse a type that would not be rebuilt.

        Raises:
            ValueNotStorable: It is neither one of LangGraph's safe types nor allowed.
        """
        if name in SAFE_MSGPACK_TYPES:
            return
        if name not in self.allowed:
            raise ValueNotStorable(
                ".".join(name), "a checkpoint (allow it: checkpointer(allow=[…the type…]))"
            )
        if _found(*name) is None:
            raise ValueNotStorable(
                ".".join(name), "a checkpoint (no class is found by that name in its module)"
            )

    def rebuild(self, module: str, name: str, fields: dict[str, Any]) -> Any:
        """The object of that class and fields; the fields where it is not allowed or cannot be."""
        if (module, name) in SAFE_MSGPACK_TYPES or (module, name) in self.allowed:
            # As LangGraph does: state outlives the classes of an application.
            with suppress(Exception):
                return _found(module, name)(**fields)
        _warn_not_rebuilt(module, name)
        return fields


def _found(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


@cache
def _warn_not_rebuilt(module: str, name: str) -> None:
    _log.warning(
        "A %s.%s in a checkpoint was read as a dict: it is not allowed, or has changed.",
        module,
        name,
    )


def _names_in(packed: bytes) -> set[TypeName]:
    """The types that LangGraph's serializer would import to read ``packed``."""
    names: set[TypeName] = set()

    def collect(code: int, inner: bytes) -> Any:
        parts = ormsgpack.unpackb(inner, ext_hook=collect, option=ormsgpack.OPT_NON_STR_KEYS)
        # Codes 0 to 5 are [module, name, …]; 6 and 7 hold arrays and snapshots.
        if code <= 5 and len(parts) >= 2:  # noqa: PLR2004
            names.add((parts[0], parts[1]))
        return None

    ormsgpack.unpackb(packed, ext_hook=collect, option=ormsgpack.OPT_NON_STR_KEYS)
    return names
