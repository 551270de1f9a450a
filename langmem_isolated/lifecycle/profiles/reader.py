"""Profile reader: what a profile holds, without the right to change it."""

from typing import Any

from langmem_isolated._runtime.calls import explains_calls
from langmem_isolated._runtime.clock import now
from langmem_isolated._runtime.operations import found, observed, one
from langmem_isolated._storage import profiles
from langmem_isolated._storage.profiles import Part, ProfileEntries
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.lifecycle.profiles.forms import SUMMARY_KEY, fact_of, interest_of, value_of
from langmem_isolated.lifecycle.profiles.values import Fact, Interest, ProfileContents

_NOTHING = ProfileContents(None, (), (), {})


@explains_calls
class ProfileReader:
    """What is known of a user, to be read alone; see :class:`Profile`, which also writes."""

    def __init__(self, records: ScopedDatabase) -> None:
        self._records = records

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"

    @observed("search_memory", "profile", one)
    def contents(self) -> ProfileContents:
        """All that the profile holds, of one moment.

        Raises:
            RecordDoesNotOpen: An entry was changed, moved or exchanged.
            RecordError: A later version of this package wrote one.
            DatabaseError: The database refused or failed.
        """
        return self._records.snapshot(profiles.view, _NOTHING, contents_of, now())

    async def acontents(self) -> ProfileContents:
        """All that the profile holds; see :meth:`contents`."""
        return await self._records.arun(self.contents)

    @observed("search_memory", "profile", found)
    def facts(self) -> list[Fact]:
        """The facts, by when they were first stored."""
        return self._records.read(profiles.view, [], facts_of, now())

    async def afacts(self) -> list[Fact]:
        """The facts; see :meth:`facts`."""
        return await self._records.arun(self.facts)

    @observed("search_memory", "profile", found)
    def interests(self) -> list[Interest]:
        """The interests, the most mentioned first."""
        return self._records.read(profiles.view, [], interests_of, now())

    async def ainterests(self) -> list[Interest]:
        """The interests; see :meth:`interests`."""
        return await self._records.arun(self.interests)

    @observed("search_memory", "profile", found)
    def attributes(self) -> dict[str, Any]:
        """The attributes, by name."""
        return self._records.read(profiles.view, {}, attributes_of, now())

    async def aattributes(self) -> dict[str, Any]:
        """The attributes, by name."""
        return await self._records.arun(self.attributes)

    @observed("search_memory", "profile", found)
    def summary(self) -> str | None:
        """What the module makes of the user as a whole; ``None`` if nothing was set."""
        return self._records.read(profiles.view, None, summary_of, now())

    async def asummary(self) -> str | None:
        """What the module makes of the user as a whole; see :meth:`summary`."""
        return await self._records.arun(self.summary)


def contents_of(found: ProfileEntries) -> ProfileContents:
    """Everything a profile holds."""
    return ProfileContents(
        summary_of(found), tuple(facts_of(found)), tuple(interests_of(found)), attributes_of(found)
    )


def summary_of(found: ProfileEntries) -> str | None:
    """The summary, if there is one."""
    (value,) = found.get(Part.SUMMARY, [SUMMARY_KEY])
    return None if value is None else value_of(value)


def attributes_of(found: ProfileEntries) -> dict[str, Any]:
    """The attributes, by name."""
    there = {entry.key.decode(): entry.value for entry in found.all_of(Part.ATTRIBUTES)}
    return {name: value_of(there[name]) for name in sorted(there)}


def attribute(found: ProfileEntries, name: str) -> bytes | None:
    """An attribute as it is stored."""
    return found.get(Part.ATTRIBUTES, [name.encode()])[0]


def facts_of(found: ProfileEntries) -> list[Fact]:
    """The facts, by when they were first stored."""
    there = (fact_of(entry.key, entry.value) for entry in found.all_of(Part.FACTS))
    return sorted(there, key=lambda fact: fact.position)


def interests_of(found: ProfileEntries) -> list[Interest]:
    """The interests, the most mentioned first."""
    there = [interest_of(entry.value) for entry in found.all_of(Part.INTERESTS)]
    return sorted(there, key=lambda one: (one.mentions, one.last), reverse=True)
