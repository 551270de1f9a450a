"""Forms of a checkpoint: checks what a row has, so that what is yielded is one of LangGraph."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langmem_isolated._codecs.stock_serializer import Undecodable
from langmem_isolated.lifecycle import ForeignWrite

# Where LangGraph has what is sent to tasks; a channel's name since version 4 of checkpoints.
TASKS = "__pregel_tasks"
_SENDS_IN_CHANNEL = 4
_PARTS = {"v": int, "id": str, "ts": str, "channel_values": dict, "channel_versions": dict}


def json_object(text: object, what: str) -> dict[str, Any]:
    """The object that is stored as JSON.

    Raises:
        Undecodable: It is damaged, or no object.
    """
    if not isinstance(text, str | bytes):
        raise Undecodable(f"{what} has {type(text).__name__} in place of JSON")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        raise Undecodable(f"{what} has no whole JSON") from None
    if type(found) is not dict:
        raise Undecodable(f"{what} has {type(found).__name__} in place of an object of JSON")
    return found


def checked_checkpoint(found: Any, checkpoint_id: str) -> dict[str, Any]:
    """A checkpoint that has the parts that LangGraph goes by.

    Raises:
        Undecodable: It lacks one, or has another id than its row.
    """
    if type(found) is not dict:
        raise Undecodable(f"it is a {type(found).__name__} in place of a checkpoint")
    for name, kind in _PARTS.items():
        if type(found.get(name)) is not kind:
            raise Undecodable(f"the checkpoint's {name} is no {kind.__name__}")
    if found["id"] != checkpoint_id:
        raise Undecodable("the checkpoint has another id than its row")
    versions = found["channel_versions"]
    seen = found.setdefault("versions_seen", {})
    if type(seen) is not dict or not all(map(_are_versions, (versions, *seen.values()))):
        raise Undecodable("the checkpoint's versions are no numbers or texts")
    return found


def _are_versions(versions: Any) -> bool:
    return type(versions) is dict and all(
        type(channel) is str and type(version) in (str, int, float)
        for channel, version in versions.items()
    )


def lacks_sends(checkpoint: dict[str, Any]) -> bool:
    """Whether what it sent to tasks stands behind its parent, as before version 4."""
    is_old = checkpoint["v"] < _SENDS_IN_CHANNEL
    has_sends = checkpoint.get("pending_sends") or TASKS in checkpoint["channel_values"]
    return is_old and not has_sends


def add_sends(checkpoint: dict[str, Any], sends: Sequence[Any]) -> None:
    """Put what was sent to tasks where LangGraph looks for it, as its PostgresSaver does.

    Raises:
        Undecodable: None of its versions is the newest.
    """
    versions = checkpoint["channel_versions"]
    if sends and versions:
        checkpoint["channel_values"][TASKS] = [*sends]
        try:
            versions[TASKS] = max(versions.values())
        except TypeError:
            raise Undecodable("the checkpoint's versions are numbers and texts") from None


def checked_write(
    task_id: object, task_path: object, index: object, channel: object, value: Any
) -> ForeignWrite:
    """What a task wrote.

    Raises:
        Undecodable: A part of it has another type than it has in LangGraph.
    """
    texts = {"task_id": task_id, "task_path": task_path, "channel": channel}
    for name, part in texts.items():
        if type(part) is not str:
            raise Undecodable(f"a write's {name} is {type(part).__name__} in place of text")
    if type(index) is not int:
        raise Undecodable(f"a write's idx is {type(index).__name__} in place of a number")
    return ForeignWrite(str(task_id), str(task_path), index, str(channel), value)


def by_path(write: ForeignWrite) -> tuple[str, str, int]:
    """The order in which LangGraph applies writes."""
    return write.task_path, write.task_id, write.index
