"""Comparison of what two sides answer: what differs, by kind and never by content."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from langchain_core.messages import BaseMessage, message_to_dict
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.store.base import Item, ListNamespacesOp, Op, SearchOp

COPIED = "theirs-"
"""Begins the id of a message that had none of its own where it was copied from."""
_STOCK = JsonPlusSerializer()


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal, or have one form in LangGraph's serializer.

    Arrays answer ``==`` with an array, and a class may have no ``==`` at all.
    """
    with suppress(Exception):  # a class of the application's may raise anything
        if one == other:
            return True
    try:
        return bool(_STOCK.dumps_typed(one) == _STOCK.dumps_typed(other))
    except Exception:  # noqa: BLE001 - what has no form is not known to be equal
        return False


def tuple_difference(expected: CheckpointTuple | None, found: CheckpointTuple | None) -> str | None:
    """In what a checkpoint differs from the one expected; ``None`` if in nothing."""
    if expected is None or found is None:
        return None if expected is found else "missing" if found is None else "surplus"
    for kind, left, right in _parts(expected, found):
        if not same(left, right):
            return kind
    return None


def _parts(one: CheckpointTuple, other: CheckpointTuple) -> Iterable[tuple[str, Any, Any]]:
    left: Any = one.checkpoint
    right: Any = other.checkpoint
    yield "checkpoint", left["id"], right["id"]
    yield "parent", _id_of(one.parent_config), _id_of(other.parent_config)
    yield "values", *_values(left["channel_values"], right["channel_values"])
    yield "versions", left["channel_versions"], right["channel_versions"]
    yield "versions", left["versions_seen"], right["versions_seen"]
    yield "metadata", _as_json(one.metadata), _as_json(other.metadata)
    yield "writes", _writes(one), _writes(other)


def _values(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[Any, Any]:
    """Channel values without snapshots of delta channels that one side alone has.

    Savers that keep a value by its version return the snapshot with the checkpoints behind it, too,
    others only with its own: what is rebuilt from the one or the other is the same.
    """

    def without(values: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
        return {
            name: value
            for name, value in values.items()
            if name in beside or type(value).__name__ != "_DeltaSnapshot"
        }

    return without(one, other), without(other, one)


def _id_of(config: Any) -> str | None:
    found: str | None = (config or {}).get("configurable", {}).get("checkpoint_id")
    return found


def _as_json(metadata: Any) -> Any:
    """Savers keep metadata as JSON, where a tuple comes back as a list, and a number's key as text.

    What JSON has no form for, a saver that took it gives back as it was.
    """
    with suppress(TypeError, ValueError, RecursionError):
        return json.loads(json.dumps(metadata, default=repr))
    return metadata


def _writes(found: CheckpointTuple) -> dict[str, list[tuple[Any, ...]]]:
    """By task: savers order tasks in their own ways, and a copy knows no task's path."""
    by_task: dict[str, list[tuple[Any, ...]]] = {}
    for task_id, *written in found.pending_writes or ():
        by_task.setdefault(task_id, []).append(tuple(written))
    return by_task


def messages_difference(
    expected: Sequence[BaseMessage], found: Sequence[BaseMessage]
) -> str | None:
    """In what a session differs; ``None`` if in nothing."""
    if len(expected) != len(found):
        return "length"
    is_same = all(map(same_message, expected, found))
    return None if is_same else "messages"


def same_message(theirs: BaseMessage, ours: BaseMessage) -> bool:
    """Whether a message is the other one; it may have been given another id by a copy."""
    if ours.id != theirs.id and (theirs.id is None or (ours.id or "").startswith(COPIED)):
        ours = ours.model_copy(update={"id": theirs.id})
    return same(theirs, ours) or same(message_to_dict(theirs), message_to_dict(ours))


def result_difference(op: Op, expected: Any, found: Any) -> str | None:
    """In what the result of a store's operation differs; ``None`` if in nothing."""
    if isinstance(op, ListNamespacesOp):
        return None if sorted(expected) == sorted(found) else "namespaces"
    if isinstance(op, SearchOp):
        return _items_difference(_by_place(expected), _by_place(found))
    if expected is None or found is None:
        return None if expected is found else "missing" if found is None else "surplus"
    return None if same(_value(expected), _value(found)) else "value"


def is_comparable(op: Op, results: Any) -> bool:
    """Whether an operation has one right answer.

    Not a search by meaning, or one of which more is there than was asked for: stores differ in
    their order.
    """
    if isinstance(op, SearchOp):
        return op.query is None and op.offset == 0 and len(results) < op.limit
    if isinstance(op, ListNamespacesOp):
        return op.offset == 0 and len(results) < op.limit
    return True


def _by_place(items: Sequence[Item]) -> dict[tuple[Any, ...], Any]:
    return {(item.namespace, item.key): _value(item) for item in items}


def _value(item: Item) -> dict[str, Any]:
    return dict(item.value)


def _items_difference(expected: Mapping[Any, Any], found: Mapping[Any, Any]) -> str | None:
    if expected.keys() - found.keys():
        return "missing"
    if found.keys() - expected.keys():
        return "surplus"
    return None if all(same(value, found[at]) for at, value in expected.items()) else "value"
