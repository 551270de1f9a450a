"""Profile values: facts, interests and all that one profile holds, as callers get them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import NoneType
from typing import Any

from langmem_isolated._runtime.calls import ONE_SCOPE, made_by

MADE_BY = f"{ONE_SCOPE}.profile()"


@made_by(f"{MADE_BY}.facts()", first=str)
@dataclass(frozen=True, slots=True)
class FactSource:
    """Where a fact comes from; ids are left out of the ``repr``.

    >>> fact = scope.profile().add_fact("Has a test on Friday.", source="user", session_id="monday")
    >>> fact.sources[0].kind, fact.sources[0].session_id, fact.sources[0].module_id
    ('user', 'monday', 'tutor')
    """

    kind: str = field(repr=False)
    """``"application"``, ``"user"``, ``"model"``, or the application's own word."""
    time: datetime
    """When it was learned there, UTC."""
    module_id: str = field(repr=False)
    """The module that wrote it, which tells in a notebook across modules."""
    session_id: str | None = field(default=None, repr=False)
    message_id: str | None = field(default=None, repr=False)


@made_by(f"{MADE_BY}.add_fact(text)", first=str)
@dataclass(frozen=True, slots=True)
class Fact:
    """Something that a module knows of a user; what it says is left out of the ``repr``.

    >>> fact = scope.profile().add_fact("Prefers short answers.")
    >>> fact.text, fact.sources[0].kind, len(fact.id)
    ('Prefers short answers.', 'application', 16)
    """

    id: str
    """64 random bits, 16 characters."""
    text: str = field(repr=False)
    time: datetime
    """When it was first learned, UTC."""
    updated: datetime
    """When it was last corrected, merged, or learned again, UTC."""
    revision: int
    """How often it was changed since."""
    sources: tuple[FactSource, ...] = field(repr=False)
    """The first, and the newest others, eight at most."""
    position: int = field(repr=False)
    """Where it stands in the list."""


@made_by(f"{MADE_BY}.add_interest(name)", first=str)
@dataclass(frozen=True, slots=True)
class Interest:
    """What a user comes back to; its name is left out of the ``repr``.

    >>> _ = scope.profile().add_interest("Chess")
    >>> interest = scope.profile().add_interest("chess")
    >>> interest.name, interest.mentions
    ('Chess', 2)
    """

    name: str = field(repr=False)
    """As it was first written; case and white space make no other of it."""
    mentions: int
    since: datetime
    last: datetime


@made_by(f"{MADE_BY}.contents()", first=(str, NoneType))
@dataclass(frozen=True, slots=True)
class ProfileContents:
    """All that a profile holds, read at one moment; the ``repr`` has numbers alone.

    >>> profile = scope.profile()
    >>> _ = profile.add_fact("Prefers short answers.")
    >>> profile.set_attribute("level", 3)
    >>> profile.contents()
    ProfileContents(facts=1, interests=0, attributes=1, summary=False)
    >>> profile.contents().attributes["level"]
    3
    """

    summary: str | None
    facts: tuple[Fact, ...]
    """By when they were first stored."""
    interests: tuple[Interest, ...]
    """The most mentioned first, and of those the last mentioned."""
    attributes: Mapping[str, Any]
    """By name."""

    def __repr__(self) -> str:
        return (
            f"ProfileContents(facts={len(self.facts)}, interests={len(self.interests)}, "
            f"attributes={len(self.attributes)}, summary={self.summary is not None})"
        )

    def __bool__(self) -> bool:
        return bool(self.summary or self.facts or self.interests or self.attributes)

    def quotable(self) -> Iterator[dict[str, Any]]:
        """What a model may be told, the most telling first, the newest facts before older ones."""
        if self.summary:
            yield {"kind": "summary", "text": self.summary}
        for name, value in self.attributes.items():
            yield {"kind": "attribute", "name": name, "text": value}
        for fact in sorted(self.facts, key=lambda fact: (fact.updated, fact.position))[::-1]:
            yield {"kind": "fact", "id": fact.id, "time": fact.time, "text": fact.text}
        for interest in self.interests:
            yield {"kind": "interest", "text": interest.name}


@made_by(f"{MADE_BY}.clear()", first=int)
@dataclass(frozen=True, slots=True)
class ProfileCleared:
    """What was removed from a profile.

    >>> _ = scope.profile().add_fact("Prefers short answers.")
    >>> scope.profile().clear()
    ProfileCleared(facts=1, interests=0, attributes=0, summaries=0)
    """

    facts: int
    interests: int
    attributes: int
    summaries: int
