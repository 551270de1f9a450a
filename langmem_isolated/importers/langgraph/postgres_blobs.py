"""Blobs: a channel's values, each fetched and decoded once for each version."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from langmem_isolated._codecs.stock_serializer import StockSerializer, Undecodable
from langmem_isolated.importers.langgraph.history import delta_counters
from langmem_isolated.importers.langgraph.postgres_database import PostgresDatabase

# What is fetched at once. A list of 500 messages has 200 kB, and takes ten times that decoded.
_FETCHED_BYTES = 2_000_000
_NONE: Any = object()
"""Stands for the value of a channel that has none."""


class _Version(NamedTuple):
    channel: str
    version: str


class _Stored(NamedTuple):
    kind: str | None
    blob: bytes | None
    place: str


class Blobs:
    """Values of the channels of one namespace of a thread, in the order of its checkpoints.

    A channel's value stays decoded until its next version is asked for; so a thread takes as much
    memory as one of its checkpoints, and what is fetched ahead of it.
    """

    def __init__(
        self,
        database: PostgresDatabase,
        serializer: StockSerializer,
        thread_id: str,
        namespace: str,
    ) -> None:
        self._database, self._serializer = database, serializer
        self._address = (thread_id, namespace)
        self._current: dict[str, tuple[str, Any]] = {}
        self._planned: deque[_Version] = deque()
        self._sizes: dict[_Version, int] = {}
        self._fetched: dict[_Version, _Stored] = {}
        self._deltas: set[str] = set()
        self._channels = {
            channel for (channel,) in self._rows("SELECT DISTINCT channel", "type <> 'empty'")
        }

    def _rows(self, select: str, where: str, *values: Any) -> list[Any]:
        of_namespace = "FROM {checkpoint_blobs} WHERE thread_id = %s AND checkpoint_ns = %s AND"
        return self._database.rows(f"{select} {of_namespace} {where}", *self._address, *values)

    def plan(self, checkpoints: Iterable[Mapping[str, Any]]) -> None:
        """Find out which values the next checkpoints will ask for, and how large they are."""
        current = {channel: version for channel, (version, _) in self._current.items()}
        self._planned.clear()
        self._fetched.clear()
        for checkpoint in checkpoints:
            for wanted in map(_Version._make, versions_of(checkpoint)):
                if wanted.channel in self._channels and current.get(wanted[0]) != wanted[1]:
                    current[wanted.channel] = wanted.version
                    self._planned.append(wanted)
        self._sizes = {
            _Version(channel, version): size
            for channel, version, size in self._among(
                "SELECT channel, version, coalesce(octet_length(blob), 0)", self._planned
            )
        }

    def _among(self, select: str, versions: Collection[_Version]) -> list[Any]:
        if not versions:
            return []
        # By the table's primary key, one look for each.
        among = "(channel, version) IN (SELECT * FROM unnest(%s::text[], %s::text[]))"
        return self._rows(select, among, *map(list, zip(*versions, strict=True)))

    def values(self, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
        """The values that a checkpoint has besides those in its own row.

        Raises:
            Undecodable: One is damaged, or missing.
        """
        self._deltas |= delta_counters(metadata)
        found = {}
        for channel, version in versions_of(checkpoint):
            if channel in self._channels:
                value = self._value(channel, version)
                if value is _NONE and self._is_missing(channel, checkpoint):
                    value = Undecodable("the value of one of its channels is missing in its table")
                    self._current[channel] = (version, value)
                # Every checkpoint of this version is told of it.
                if isinstance(value, Undecodable):
                    raise Undecodable(str(value))
                if value is not _NONE:
                    found[channel] = value
        return found

    def _is_missing(self, channel: str, checkpoint: Mapping[str, Any]) -> bool:
        """Whether a channel that has no value must have one.

        Most that have none are empty, or delta channels between two snapshots. A snapshot has a
        mark in the checkpoint's row, and what a step put a value into is named there as well.
        """
        inline = checkpoint["channel_values"]
        if channel in self._deltas:
            return inline.get(channel) is True
        updated = checkpoint.get("updated_channels")
        return channel not in inline and type(updated) is list and channel in updated

    def _value(self, channel: str, version: str) -> Any:
        known, value = self._current.pop(channel, (None, _NONE))
        if known != version:
            value = self._decoded(_Version(channel, version))
        self._current[channel] = (version, value)
        return value

    def _decoded(self, wanted: _Version) -> Any:
        if wanted not in self._sizes:
            return _NONE
        if wanted not in self._fetched:
            self._fetch(wanted)
        stored = self._fetched.pop(wanted)
        if stored.kind == "empty":
            return _NONE
        try:
            return self._serializer.loads(stored.kind, stored.blob)
        except Undecodable as error:
            return Undecodable(f"checkpoint_blobs, ctid {stored.place}: {error}")

    def _fetch(self, wanted: _Version) -> None:
        """Fetch a value, and with it those that are asked for next."""
        chosen, size = {wanted: None}, self._sizes[wanted]
        while self._planned and size < _FETCHED_BYTES:
            following = self._planned.popleft()
            if following in self._sizes and following not in chosen.keys() | self._fetched.keys():
                size += self._sizes[following]
                chosen[following] = None
        select = "SELECT channel, version, type, blob, ctid::text"
        for channel, version, *stored in self._among(select, chosen):
            self._fetched[_Version(channel, version)] = _Stored(*stored)


def versions_of(checkpoint: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    """The channels of a checkpoint with their versions, as the table of blobs has them."""
    return [(channel, str(version)) for channel, version in checkpoint["channel_versions"].items()]
