"""Shared profile: what another module knows of the user, as far as it is shared."""

from __future__ import annotations

from typing import Any

from langmem_isolated.lifecycle.profiles.reader import ProfileReader
from langmem_isolated.lifecycle.profiles.values import Fact, Interest, ProfileContents
from langmem_isolated.lifecycle.sharing.reading import WayIn
from langmem_isolated.lifecycle.sharing.terms import Terms


class SharedProfile(ProfileReader):
    """Another module's :class:`Profile`, to be read: made by ``scope.shared_from(…).profile()``.

    Where a grant is narrowed to parts or attributes, ``contents()`` has no others.

    Args:
        way: From which module's profile to which module.
    """

    def __init__(self, way: WayIn) -> None:
        self._way = way
        # What does not know of parts, below, reads only what is shared as a whole.
        super().__init__(way.reading(Terms.check_whole_profile).records)

    def contents(self) -> ProfileContents:
        """All of the profile that is shared, of one moment."""
        reading = self._way.reading(lambda terms: terms.check_kind("profile"))
        found = ProfileReader(reading.records).contents()
        terms = reading.terms
        return ProfileContents(
            found.summary if terms.has_part("summary") else None,
            found.facts if terms.has_part("facts") else (),
            found.interests if terms.has_part("interests") else (),
            {
                name: value
                for name, value in found.attributes.items()
                if terms.has_part("attributes") and terms.has_attribute(name)
            },
        )

    def facts(self) -> list[Fact]:
        """The facts, by when they were first stored."""
        return self._of("facts").facts()

    def interests(self) -> list[Interest]:
        """The interests, the most mentioned first."""
        return self._of("interests").interests()

    def attributes(self) -> dict[str, Any]:
        """The attributes that are shared, by name."""
        reading = self._way.reading(lambda terms: terms.check_part("attributes"))
        found = ProfileReader(reading.records).attributes()
        return {name: found[name] for name in found if reading.terms.has_attribute(name)}

    def summary(self) -> str | None:
        """What the other module makes of the user as a whole; ``None`` if nothing was set."""
        return self._of("summary").summary()

    def _of(self, part: str) -> ProfileReader:
        return ProfileReader(self._way.reading(lambda terms: terms.check_part(part)).records)
