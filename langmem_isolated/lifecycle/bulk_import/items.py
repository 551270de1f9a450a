"""Items of an import: many in a transaction, with their times, read back one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from langmem_isolated._codecs.refusals import NotStorable
from langmem_isolated._codecs.values import decode_value, encode_value, is_utf8
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.clock import SECOND, now
from langmem_isolated._storage.copying import imported
from langmem_isolated._storage.copying.imported import ArrivedItem
from langmem_isolated._storage.copying.options import Added
from langmem_isolated._storage.items import reading
from langmem_isolated._storage.items.addresses import MAX_DEPTH, Address
from langmem_isolated._storage.items.rows import Item
from langmem_isolated.errors import ImportNotVerified
from langmem_isolated.lifecycle.bulk_import.canonical import digest
from langmem_isolated.lifecycle.bulk_import.messages import REFUSALS
from langmem_isolated.lifecycle.bulk_import.outcome import (
    REJECTED,
    OnReject,
    OnTaken,
    PutOutcome,
)
from langmem_isolated.lifecycle.bulk_import.records import ForeignItem, Rejected
from langmem_isolated.lifecycle.bulk_import.target import Target
from langmem_isolated.lifecycle.bulk_import.times import microseconds

_MOST_SECONDS = 1000 * 366 * 24 * 3600
_NO_ITEMS: list[Item | None] = []


class _New(NamedTuple):
    """An item on its way in, and by what it is compared."""

    unit: ForeignItem
    arrived: ArrivedItem
    said: bytes

    @property
    def added(self) -> Added:
        """What a journal calls it."""
        address = self.arrived.address
        return Added(Kind.ITEM, (address.key, *address.namespace))


class ItemImport:
    """Puts foreign items into scopes.

    Args:
        moment: When the import began, in µs: where a source has no time.
    """

    def __init__(self, moment: int) -> None:
        self._moment = moment

    def put(
        self,
        target: Target,
        units: Sequence[ForeignItem],
        on_reject: OnReject,
        on_taken: OnTaken,
    ) -> list[PutOutcome]:
        """Put some in, all in one transaction, or find them there; see `BulkImport.put_many`."""
        made = [self._made(target, unit, on_reject) for unit in units]
        first: dict[Address, _New] = {}
        for one in made:
            if one is not None:
                first.setdefault(one.arrived.address, one)
        there = self._put_new(target, first)
        return [REJECTED if one is None else _outcome(one, first, there, on_taken) for one in made]

    def _put_new(self, target: Target, first: dict[Address, _New]) -> dict[Address, Item | None]:
        """Put in those that are not there; what stood under the addresses before."""
        while True:
            there = self._there(target, [*first])
            new = [one for address, one in first.items() if there[address] is None]
            arrived, names = [one.arrived for one in new], [one.added for one in new]
            try:
                if new:
                    target.write_noted(names, imported.put_items, arrived, now())
            except imported.Taken:
                # Somebody has put one of them meanwhile.
                continue
            self._verify(target, new)
            return there

    def _made(self, target: Target, unit: ForeignItem, on_reject: OnReject) -> _New | None:
        try:
            arrived = self._arrived(unit)
            target.limits.check("value_bytes", len(arrived.body))
            return _New(unit, arrived, digest([unit.value, unit.key, *unit.namespace]))
        except REFUSALS as refusal:
            on_reject(Rejected(unit.place, str(refusal)))
            return None

    def _arrived(self, unit: ForeignItem) -> ArrivedItem:
        labels = _checked_labels(unit.namespace)
        if type(unit.key) is not str or not is_utf8(unit.key):
            raise NotStorable("its key must be text that UTF-8 has a form for")
        if not isinstance(unit.value, dict):
            raise NotStorable(f"its value must be a dict, got {kind_of(unit.value)}")
        body = encode_value([unit.value, unit.key, *labels], "an item of a store")
        created, updated = microseconds(unit.created_at), microseconds(unit.updated_at)
        updated = next((t for t in (updated, created) if t is not None), self._moment)
        created = updated if created is None else min(created, updated)
        lifetime, expires_at = _lifetime(unit, updated)
        address = Address(tuple(label.encode() for label in labels), unit.key.encode())
        return ArrivedItem(address, body, [], created, updated, lifetime, expires_at)

    def _there(self, target: Target, addresses: Sequence[Address]) -> dict[Address, Item | None]:
        found = target.records.read(reading.get, _NO_ITEMS, addresses, now()) if addresses else []
        return dict(zip(addresses, found or [None] * len(addresses), strict=True))

    def _verify(self, target: Target, new: Sequence[_New]) -> None:
        """Read items as their store does, and compare.

        Raises:
            ImportNotVerified: One is not what the source has.
        """
        there = self._there(target, [one.arrived.address for one in new])
        for one in new:
            found, arrived = there[one.arrived.address], one.arrived
            times = arrived.created_at, arrived.updated_at, arrived.lifetime
            with target.comparing(one.added):
                if found is None or _said(found) != one.said:
                    raise ImportNotVerified(one.unit.place, "its value")
                if (found.created, found.updated, found.lifetime) != times:
                    raise ImportNotVerified(one.unit.place, "its times")


def _outcome(
    one: _New,
    first: dict[Address, _New],
    there: dict[Address, Item | None],
    on_taken: OnTaken,
) -> PutOutcome:
    address = one.arrived.address
    found = there[address]
    if found is None and first[address] is one:
        return PutOutcome("copied", 1, len(one.arrived.body))
    said = first[address].said if found is None else _said(found)
    if said != one.said:
        return on_taken(one.unit, Kind.ITEM.label)
    return PutOutcome("present", 1)


def _said(item: Item) -> bytes:
    return digest(decode_value(item.body))


def _checked_labels(labels: Any) -> Sequence[str]:
    are_labels = isinstance(labels, tuple | list) and all(
        type(one) is str and one and is_utf8(one) for one in labels
    )
    if not are_labels or not 1 <= len(labels) <= MAX_DEPTH or labels[0] == "langgraph":
        raise NotStorable(f"its namespace must be 1 to {MAX_DEPTH} labels, the first not langgraph")
    checked: Sequence[str] = labels
    return checked


def _lifetime(unit: ForeignItem, updated: int) -> tuple[int | None, int | None]:
    """How long an item lives after it is used, and when its time is up, in µs."""
    seconds, expires_at = unit.ttl_seconds, microseconds(unit.expires_at)
    if seconds is not None and not 0 <= seconds <= _MOST_SECONDS:
        raise NotStorable("its time to live must be 0 to 1,000 years")
    lifetime = None if seconds is None else round(seconds * SECOND)
    if lifetime is None and expires_at is not None:
        lifetime = max(0, expires_at - updated)
    if lifetime is not None and expires_at is None:
        expires_at = updated + lifetime
    if expires_at is not None and expires_at <= now():
        raise NotStorable("its time was up at its source already")
    return lifetime, expires_at
