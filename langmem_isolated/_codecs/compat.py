"""Private names of LangGraph's serializer that stored forms need, in one tested place."""

from langgraph.checkpoint.serde._msgpack import SAFE_MSGPACK_TYPES, STRICT_MSGPACK_ENABLED
from langgraph.checkpoint.serde.types import _DeltaSnapshot as DeltaSnapshot

__all__ = ["SAFE_MSGPACK_TYPES", "STRICT_MSGPACK_ENABLED", "DeltaSnapshot"]
