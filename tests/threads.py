"""Puts and reads checkpoints without a graph, and the types that such tests store."""

import enum
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pydantic
from langchain_core.documents import Document
from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointTuple
from langgraph.checkpoint.base.id import uuid6
from langgraph.types import Overwrite, Send

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.threads import reading
from langmem_isolated._storage.threads.addresses import thread_digest
from langmem_isolated._storage.threads.listing import ThreadRows
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from tests.conftest import Attacker, Door


@dataclass
class Point:
    x: Any
    y: Any = 0


@dataclass(frozen=True, slots=True)
class Frozen:
    parts: Any
    label: str = "label"


class Model(pydantic.BaseModel):
    name: str
    inner: dict[str, Any] = {}


class Color(enum.Enum):
    RED = "red"
    BLUE = 2


class Level(enum.StrEnum):
    HIGH = "high"


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class NotAllowed:
    secret: Any = "secret"
    more: Any = field(default_factory=list)


class NotAllowedModel(pydantic.BaseModel):
    secret: str = "secret"


class NotAllowedEnum(enum.Enum):
    SECRET = "secret"


ALLOWED = [Point, Frozen, Model, Color, Level, Pair]


def checkpoint(values: dict[str, Any], **more: Any) -> Checkpoint:
    """A checkpoint as LangGraph makes them, newer than any before."""
    made: dict[str, Any] = {
        "v": 4,
        "id": str(uuid6()),
        "ts": "2026-01-01T00:00:00+00:00",
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, 1),
        "versions_seen": {},
        "updated_channels": None,
        **more,
    }
    return made  # type: ignore[return-value]


def at(
    thread_id: str, checkpoint_id: str | None = None, namespace: str = "", **more: Any
) -> RunnableConfig:
    """The config of a thread, or of one of its checkpoints."""
    names = {"thread_id": thread_id, "checkpoint_ns": namespace, **more}
    return {"configurable": {**names, "checkpoint_id": checkpoint_id} if checkpoint_id else names}


def id_of(config: RunnableConfig) -> str:
    checkpoint_id: str = config["configurable"]["checkpoint_id"]
    return checkpoint_id


def put(
    saver: Any, config: RunnableConfig, values: dict[str, Any], **metadata: Any
) -> RunnableConfig:
    """Store a checkpoint of these channel values behind the one that ``config`` names."""
    new = checkpoint(values)
    stored: RunnableConfig = saver.put(config, new, metadata, new["channel_versions"])
    return stored


def values_at(saver: Any, config: RunnableConfig) -> dict[str, Any]:
    """The channel values of a checkpoint that must be there."""
    found = saver.get_tuple(config)
    assert found is not None
    values: dict[str, Any] = found.checkpoint["channel_values"]
    return values


def count(attacker: Attacker, kind: Kind = Kind.ELEMENT) -> int:
    """How many rows of a kind the database has."""
    [(number,)] = attacker("SELECT count(*) FROM records WHERE kind = ?", int(kind))
    return int(number)


_PARTS: dict[type, Callable[[Any], list[Any]]] = {
    BaseMessage: lambda value: [vars(value), value.__pydantic_extra__ or {}],
    Document: lambda value: [vars(value)],
    Point: lambda value: [vars(value)],
    Model: lambda value: [vars(value)],
    Frozen: lambda value: [value.parts, value.label],
    Overwrite: lambda value: [value.value],
    Send: lambda value: [value.node, value.arg],
    dict: lambda value: [part for pair in value.items() for part in pair],
    list: list,
    tuple: list,
    deque: lambda value: [value.maxlen, *value],
    set: lambda value: sorted(f"{type(part)} {part!r}" for part in value),
    frozenset: lambda value: sorted(f"{type(part)} {part!r}" for part in value),
}


def _parts(value: Any) -> Any:
    if isinstance(value, float) and math.isnan(value):
        return "NaN"
    taken = (take(value) for kind, take in _PARTS.items() if isinstance(value, kind))
    return next(taken, repr(value))


def same(one: Any, other: Any) -> bool:
    """Equal in type, value and order at full depth; a NaN is the same as a NaN."""
    parts, others = _parts(one), _parts(other)
    if type(one) is not type(other) or isinstance(parts, str):
        return type(one) is type(other) and parts == others
    return len(parts) == len(others) and all(map(same, parts, others))


class _Lists:
    """`list` as a method with two doors."""

    def __init__(self, saver: Any) -> None:
        self._saver = saver

    def all(self, *args: Any, **options: Any) -> list[CheckpointTuple]:
        return list(self._saver.list(*args, **options))

    async def aall(self, *args: Any, **options: Any) -> list[CheckpointTuple]:
        return [found async for found in self._saver.alist(*args, **options)]


async def listed(door: Door, saver: Any, *args: Any, **options: Any) -> list[CheckpointTuple]:
    """What `list` gives, through either door."""
    found: list[CheckpointTuple] = await door(_Lists(saver), "all", *args, **options)
    return found


def comparable(found: CheckpointTuple | None) -> Any:
    if found is None:
        return None
    parent = found.parent_config and found.parent_config["configurable"]
    return [
        found.config["configurable"], found.checkpoint, found.metadata, parent,
        [list(write) for write in found.pending_writes or []],
    ]  # fmt: skip


def by_place(found: Any) -> list[Any]:
    def place(one: CheckpointTuple) -> list[str]:
        where = one.config["configurable"]
        return [where["thread_id"], where["checkpoint_ns"], where["checkpoint_id"]]

    return [comparable(one) for one in sorted(found, key=place)]


def elements_in_database(saver: IsolatedCheckpointSaver, thread_id: str) -> list[bytes]:
    """Every element of a thread in plaintext, by its number."""
    records = saver._resolve({})[1]

    def opened(transaction: Transaction, keys: ScopeKeys) -> list[bytes]:
        digest = thread_digest(keys, thread_id)
        life = ThreadRows(transaction, keys)[digest].life
        numbers = [one.number for one in reading.stored_elements(transaction, keys, digest)]
        return list(reading.elements(transaction, keys, life, numbers).values())

    return records.snapshot(opened, [])


def size_in_database(saver: IsolatedCheckpointSaver, thread_id: str) -> int:
    """Bytes of everything that stands below a thread, as the tables have it."""
    records = saver._resolve({})[1]
    keys = records.keys()
    thread = keys.pseudonym(Kind.THREAD, thread_id.encode())
    with records.database._engine.connect() as connection:
        schema = "langmem_isolated." if records.database.is_postgres else ""
        sql = f"SELECT parent, length(sealed) FROM {schema}records"
        rows = connection.exec_driver_sql(sql).fetchall()
    return sum(size for parent, size in rows if bytes(parent).startswith(thread))
