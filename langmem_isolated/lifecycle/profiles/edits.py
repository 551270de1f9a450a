"""Profile edits: what is done to a profile's entries while nobody else changes them.

Each is the body of a transaction, and may be run again from the beginning: it depends on what it is
given and on what stands there, and on nothing else.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from langmem_isolated._runtime.clock import EPOCH, MICROSECOND
from langmem_isolated._runtime.limits import Limits
from langmem_isolated._storage.entries import Entry
from langmem_isolated._storage.profiles import BOUNDED, Part, ProfileEntries
from langmem_isolated.errors import ProfileEntryChanged, ProfileEntryNotFound, ProfileFull
from langmem_isolated.lifecycle.profiles.forms import (
    fact_entry,
    fact_of,
    interest_entry,
    interest_key,
    interest_of,
    tag_of,
    together,
)
from langmem_isolated.lifecycle.profiles.reader import facts_of
from langmem_isolated.lifecycle.profiles.values import Fact, FactSource, Interest, ProfileCleared


class NewFact(NamedTuple):
    """A fact on its way into a profile, under the id that it gets if it is new there."""

    id: str
    text: str
    source: FactSource


class Edits(NamedTuple):
    """What may be done to a profile, within limits."""

    limits: Limits

    def add(self, found: ProfileEntries, new: Sequence[NewFact]) -> list[Fact]:
        """Add facts; one that is there already, or comes twice, gets another source."""
        known: dict[bytes, Fact] = {}
        added = 0
        for one in new:
            tag = tag_of(one.text)
            there = known.get(tag) or _same(found, tag)
            # In a batch, each stands behind the one before.
            known[tag] = _learned(there, one, _moment(found), found.now + added)
            added += there is None
        self._refuse_too_many(found, added)
        self._put(found, Part.FACTS, *map(fact_entry, known.values()))
        return [known[tag_of(one.text)] for one in new]

    def correct(self, found: ProfileEntries, fact_id: str, text: str, revision: int | None) -> Fact:
        """Give a fact another text, unless it has another revision than the one expected."""
        (fact,) = _facts(found, [fact_id])
        if revision not in (None, fact.revision):
            raise ProfileEntryChanged.of("fact")
        fact = replace(fact, text=text, updated=_moment(found), revision=fact.revision + 1)
        self._put(found, Part.FACTS, fact_entry(fact))
        return fact

    def merge(self, found: ProfileEntries, ids: Sequence[str], text: str | None) -> Fact:
        """Make one fact of several, under the id of the first."""
        fact = _merged(_facts(found, ids), _moment(found), text)
        found.remove(Part.FACTS, [bytes.fromhex(other) for other in ids[1:]])
        self._put(found, Part.FACTS, fact_entry(fact))
        return fact

    def fold(self, found: ProfileEntries) -> int:
        """Make one fact of each group that says the same; returns how many went."""
        groups: dict[bytes, list[Fact]] = {}
        for fact in facts_of(found):
            groups.setdefault(tag_of(fact.text), []).append(fact)
        alike = [group for group in groups.values() if len(group) > 1]
        others = [bytes.fromhex(fact.id) for group in alike for fact in group[1:]]
        if alike:
            found.remove(Part.FACTS, others)
            merged = (_merged(group, _moment(found), None) for group in alike)
            self._put(found, Part.FACTS, *map(fact_entry, merged))
        return len(others)

    def add_interest(self, found: ProfileEntries, name: str) -> Interest:
        """Count another mention of an interest."""
        (value,) = found.get(Part.INTERESTS, [interest_key(name)])
        self._refuse_too_many(found, value is None)
        time = _moment(found)
        there = Interest(name, 0, time, time) if value is None else interest_of(value)
        interest = replace(there, mentions=there.mentions + 1, last=time)
        self._put(found, Part.INTERESTS, interest_entry(interest))
        return interest

    def put(self, found: ProfileEntries, part: Part, entry: Entry) -> None:
        """Store an attribute, or the summary, in place of what stands there."""
        if part in BOUNDED:
            (value,) = found.get(part, [entry.key])
            self._refuse_too_many(found, value is None)
        self._put(found, part, entry)

    def swap(self, found: ProfileEntries, part: Part, entry: Entry, expected: bytes | None) -> bool:
        """Store an attribute, unless another stands there than was ``expected``."""
        if found.get(part, [entry.key]) != [expected]:
            return False
        self.put(found, part, entry)
        return True

    def _put(self, found: ProfileEntries, part: Part, *new: Entry) -> None:
        for entry in new:
            self.limits.checked_size("profile_bytes", entry.value)
        found.put(part, *new)

    def _refuse_too_many(self, found: ProfileEntries, added: int) -> None:
        if added:
            wanted = sum(map(found.count, BOUNDED)) + added
            if wanted > self.limits.profile_entries:
                raise ProfileFull(self.limits.profile_entries, wanted)


def remove(found: ProfileEntries, part: Part, key: bytes) -> int:
    """Remove an entry, whether or not it opens; returns how many there were, 0 or 1."""
    there = found.count(part)
    found.remove(part, [key])
    return there - found.count(part)


def clear(found: ProfileEntries) -> ProfileCleared:
    """Remove everything, whether or not it opens."""
    return ProfileCleared(*map(found.clear, Part))


def _facts(found: ProfileEntries, ids: Sequence[str]) -> list[Fact]:
    keys = [bytes.fromhex(fact_id) for fact_id in ids]
    values = found.get(Part.FACTS, keys)
    there = [fact_of(key, v) for key, v in zip(keys, values, strict=True) if v is not None]
    if len(there) < len(keys):
        raise ProfileEntryNotFound.of("fact")
    return there


def _same(found: ProfileEntries, tag: bytes) -> Fact | None:
    there = found.tagged(Part.FACTS, tag)
    return fact_of(there[0].key, there[0].value) if there else None


def _learned(there: Fact | None, new: NewFact, moment: datetime, position: int) -> Fact:
    if there is None:
        return Fact(new.id, new.text, new.source.time, moment, 0, (new.source,), position)
    return replace(
        there,
        time=min(there.time, new.source.time),
        updated=moment,
        revision=there.revision + 1,
        sources=together([*there.sources, new.source]),
    )


def _merged(group: Sequence[Fact], moment: datetime, text: str | None) -> Fact:
    return replace(
        group[0],
        text=group[0].text if text is None else text,
        time=min(fact.time for fact in group),
        updated=moment,
        revision=max(fact.revision for fact in group) + 1,
        sources=together([source for fact in group for source in fact.sources]),
    )


def _moment(found: ProfileEntries) -> datetime:
    return EPOCH + found.now * MICROSECOND
