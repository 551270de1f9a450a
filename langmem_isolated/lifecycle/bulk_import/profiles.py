"""Profiles of an import: all parts of one in one transaction, read back."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, TypeVar

from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime.clock import now
from langmem_isolated._storage import profiles
from langmem_isolated._storage.copying import journal
from langmem_isolated._storage.copying.import_marks import PARTS_KEPT
from langmem_isolated._storage.copying.options import Added
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.profiles import Part, ProfileEntries
from langmem_isolated.errors import ImportNotVerified
from langmem_isolated.lifecycle.bulk_import.messages import REFUSALS
from langmem_isolated.lifecycle.bulk_import.outcome import REJECTED, OnReject, PutOutcome
from langmem_isolated.lifecycle.bulk_import.records import ForeignFact, ForeignProfile, Rejected
from langmem_isolated.lifecycle.bulk_import.target import Target
from langmem_isolated.lifecycle.bulk_import.times import microseconds
from langmem_isolated.lifecycle.profiles.edits import Edits
from langmem_isolated.lifecycle.profiles.forms import (
    ID_BYTES,
    SUMMARY_KEY,
    checked_json,
    checked_text,
    fact_entry,
    fact_of,
    interest_entry,
    source_of,
    tag_of,
    value_entry,
    value_of,
)
from langmem_isolated.lifecycle.profiles.values import Fact, Interest
from langmem_isolated.scope import checked_id

T = TypeVar("T")


class _Told(NamedTuple):
    """A part of a profile on its way in."""

    part: Part
    entry: Entry
    place: str

    @property
    def added(self) -> Added:
        """What a journal calls it."""
        return Added(Kind.PROFILE, (self.entry.key, *self.part.space))

    def is_said_by(self, found: ProfileEntries) -> bool | None:
        """Whether a profile has it; ``None`` if it has another in its place."""
        there = self._there(found)
        if there is None:
            return False
        return _said(self.part, there) == _said(self.part, self.entry) or None

    def _there(self, found: ProfileEntries) -> Entry | None:
        if self.part is Part.FACTS and self.entry.tag is not None:
            return next(iter(found.tagged(self.part, self.entry.tag)), None)
        (value,) = found.get(self.part, [self.entry.key])
        return None if value is None else self.entry._replace(value=value)


def _said(part: Part, entry: Entry) -> Any:
    """What a part says, whatever was learned of it since: of a fact and an interest their text."""
    if part is Part.FACTS:
        return tag_of(fact_of(entry.key, entry.value).text)
    return entry.key if part is Part.INTERESTS else value_of(entry.value)


class _Put(NamedTuple):
    """What became of a profile's parts."""

    added: list[Added]
    taken: list[_Told]


class ProfileImport:
    """Puts foreign profiles into scopes.

    Args:
        moment: When the import began, in µs: where a source has no time.
    """

    def __init__(self, moment: int) -> None:
        self._moment = moment

    def put(self, target: Target, unit: ForeignProfile, on_reject: OnReject) -> PutOutcome:
        """Put one in, all of its parts that are not there; see `BulkImport.put`."""
        told = self._told(target, unit, on_reject)
        put = partial(_put, token=target.token, edits=Edits(target.limits), told=told)
        try:
            moment = now()
            is_there = target.records.read(profiles.view, False, partial(_has_all, told), moment)
            done = _Put([], []) if is_there or not told else target.write(put, moment)
        except REFUSALS as refusal:
            on_reject(Rejected(unit.place, str(refusal)))
            return REJECTED
        for one in done.taken:
            on_reject(Rejected(one.place, "the profile has something else in its place"))
        self._verify(target, [one for one in told if one not in done.taken])
        count = len(told) - len(done.taken)
        if done.added:
            return PutOutcome("copied", count, sum(len(one.entry.value) for one in told))
        return PutOutcome("present", count) if count or not done.taken else REJECTED

    def _verify(self, target: Target, told: Sequence[_Told]) -> None:
        """Read the profile, and look for each part.

        Raises:
            ImportNotVerified: One is not there.
        """
        for one in told:
            is_there = partial(_has_all, [one])
            with target.comparing(one.added):
                if not target.records.read(profiles.view, False, is_there, now()):
                    raise ImportNotVerified(one.place, "a part of the profile")

    def _told(self, target: Target, unit: ForeignProfile, on_reject: OnReject) -> list[_Told]:
        made: list[_Told] = []

        def take(part: Part, each: Iterable[T], make: Callable[[T], Entry]) -> None:
            for number, one in enumerate(each, 1):
                place = f"{unit.place}, {part.value.decode()} {number}"
                try:
                    entry = make(one)
                    target.limits.checked_size("profile_bytes", entry.value)
                except (*REFUSALS, ValueError) as refusal:
                    on_reject(Rejected(place, str(refusal)))
                else:
                    made.append(_Told(part, entry, place))

        take(Part.FACTS, unit.facts, partial(self._fact, target.scope.module_id))
        take(Part.INTERESTS, unit.interests, self._interest)
        take(Part.ATTRIBUTES, unit.attributes.items(), _attribute)
        take(Part.SUMMARY, [] if unit.summary is None else [unit.summary], _summary)
        # Of two that say the same the first.
        once = {(one.part, one.entry.tag or one.entry.key): one for one in reversed(made)}
        return [*reversed(once.values())]

    def _fact(self, module: str, one: ForeignFact) -> Entry:
        time = microseconds(one.time)
        source = source_of(one.source, module, None, None, self._moment if time is None else time)
        id_, text = secrets.token_hex(ID_BYTES), checked_text("fact", one.text)
        return fact_entry(Fact(id_, text, source.time, source.time, 0, (source,), 0))

    def _interest(self, name: str) -> Entry:
        moment = source_of("import", "import", None, None, self._moment).time
        return interest_entry(Interest(checked_text("interest", name), 1, moment, moment))


def _attribute(pair: tuple[Any, Any]) -> Entry:
    name, value = pair
    return value_entry(checked_id("name", name).encode(), checked_json(value))


def _summary(text: Any) -> Entry:
    return value_entry(SUMMARY_KEY, checked_text("summary", text))


def _has_all(told: Sequence[_Told], found: ProfileEntries) -> bool:
    return all(one.is_said_by(found) for one in told)


def _put(
    transaction: Transaction,
    keys: ScopeKeys,
    moment: int,
    *,
    token: bytes,
    edits: Edits,
    told: Sequence[_Told],
) -> _Put:
    put = profiles.edit(transaction, keys, partial(_put_new, edits, told), moment)
    if put.added:
        journal.record(transaction, keys, put.added, [], token=token, kept=PARTS_KEPT)
    return put


def _put_new(edits: Edits, told: Sequence[_Told], found: ProfileEntries) -> _Put:
    put = _Put([], [])
    for number, one in enumerate(told):
        is_said, entry = one.is_said_by(found), one.entry
        if is_said is None:
            put.taken.append(one)
        elif not is_said:
            if one.part is Part.FACTS:
                # In the order of the source, behind what is there.
                fact = fact_of(entry.key, entry.value)
                entry = fact_entry(replace(fact, position=found.now + number))
            edits.put(found, one.part, entry)
            put.added.append(one.added)
    return put
