"""Options of a search, checked."""

from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, time
from difflib import get_close_matches
from typing import NamedTuple, TypedDict

from langmem_isolated._runtime.arguments import whole_number
from langmem_isolated._runtime.clock import EPOCH, MICROSECOND
from langmem_isolated.scope import checked_id

# As the makers of models call them.
_ROLES = {"user": "human", "assistant": "ai"}
_KNOWN_ROLES = ("human", "ai", "system", "tool", "function", *_ROLES)


class RecallOptions(TypedDict, total=False):
    """What narrows a search."""

    limit: int
    """At most so many messages; 10 if not given."""
    since: date | datetime | None
    """Nothing older. A date begins at midnight UTC; a moment needs a time zone."""
    sessions: Collection[str] | None
    """Ids of the chat sessions and threads to search; all if not given."""
    channel: str | None
    """Only what was said there."""
    roles: Collection[str] | None
    """Only what these said: ``"human"``, ``"ai"``, ``"tool"``, …"""
    outside: Collection[str]
    """Ids of sessions and threads that are not searched."""
    language: str | None
    """Of what was said and is asked, a code of ISO 639-1 or an English name; by default found."""


class Search(NamedTuple):
    """What is asked for, once it was found to make sense."""

    query: str
    limit: int
    since: int
    """Microseconds since 1970, UTC."""
    sessions: frozenset[str] | None
    channel: str | None
    roles: frozenset[str] | None
    outside: frozenset[str]
    language: str | None

    @classmethod
    def checked(
        cls,
        query: str,
        limit: int = 10,
        since: date | datetime | None = None,
        sessions: Collection[str] | None = None,
        channel: str | None = None,
        roles: Collection[str] | None = None,
        outside: Collection[str] = (),
        language: str | None = None,
    ) -> "Search":
        """A search by these options.

        Raises:
            TypeError: The query is no text, ``since`` no date, or ``language`` no text.
            ValueError: ``limit`` is negative, ``since`` has no time zone, or a role is misspelt.
            ScopeError: An id among ``sessions`` is malformed.
        """
        for name, given in (("query", query), ("language", "" if language is None else language)):
            if not isinstance(given, str):
                raise TypeError(f"{name} must be a str, got {type(given).__name__}")
        return cls(
            query=query,
            limit=whole_number("limit", limit),
            since=_microseconds(since),
            sessions=_each(sessions, lambda name: checked_id("session_id", name)),
            channel=channel,
            roles=_each(roles, _role),
            outside=_every(outside, str),
            language=language,
        )


def _microseconds(since: date | datetime | None) -> int:
    if since is None:
        return 0
    if not isinstance(since, date):
        raise TypeError(
            f"since must be a date, or a datetime with a time zone, got {type(since).__name__}"
        )
    if not isinstance(since, datetime):
        since = datetime.combine(since, time(), UTC)
    if since.tzinfo is None:
        raise ValueError("since must have a time zone, as datetime.now(UTC) has, or be a date")
    return (since - EPOCH) // MICROSECOND


def _each(given: Collection[str] | None, make: Callable[[str], str]) -> frozenset[str] | None:
    return None if given is None else _every(given, make)


def _every(given: Collection[str], make: Callable[[str], str]) -> frozenset[str]:
    # A text is one name, not its letters.
    return frozenset(map(make, [given] if isinstance(given, str) else given))


def _role(role: str) -> str:
    """A role as messages have it; what no message class has is a `ChatMessage`'s own.

    Raises:
        TypeError: It is no text.
        ValueError: It is nearly one of the known ones.
    """
    if not isinstance(role, str):
        raise TypeError(f"A role must be a str, got {type(role).__name__}")
    if role in _KNOWN_ROLES:
        return _ROLES.get(role, role)
    if near := get_close_matches(role.casefold(), _KNOWN_ROLES, n=1, cutoff=0.7):
        raise ValueError(
            f'A role of {len(role)} characters is not known: did you mean "{near[0]}"? There are '
            f"{', '.join(_KNOWN_ROLES)}, and those that a ChatMessage gives itself."
        )
    return role
