"""Serializer of a checkpointer: LangGraph's own beside ours, with the same allow-list."""

from collections.abc import Iterable

from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langmem_isolated._codecs.classes import AllowedTypes, TypeName


class Serde:
    """Which types a checkpointer stores.

    Args:
        allowed: ``(module, name)`` of classes that may be stored besides LangGraph's safe ones.
        is_strict: Whether others are refused when they are written, and read as plain fields.
    """

    def __init__(self, allowed: Iterable[TypeName] = (), *, is_strict: bool = True) -> None:
        self.allowed = frozenset(allowed)
        self.types = AllowedTypes(self.allowed if is_strict else None)
        # What others find at ``saver.serde``; nothing is stored by it.
        self.plus = JsonPlusSerializer(
            allowed_msgpack_modules=(self.allowed or None) if is_strict else True
        )
