"""Options of a search, checked."""

from collections.abc import Callable, Collection
from datetime import UTC, date, datetime, time, timedelta
from difflib import get_close_matches
from typing import NamedTuple, TypedDict

from langmem_isolated._runtime.arguments import kind_of, whole_number
from langmem_isolated._runtime.clock import EPOCH, MICROSECOND
from langmem_isolated.scope import checked_id

# As the makers of models call them.
_ROLES = {"user": "human", "assistant": "ai"}
_KNOWN_ROLES = ("human", "ai", "system", "tool", "function", *_ROLES)
_EXAMPLES = {"sessions": '"monday"', "outside": '"monday"', "roles": '"human"'}


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


# What a caller may write; `outside` is for our own tools, whose present session is not searched.
_OPTIONS = (
    *(name for name in RecallOptions.__annotations__ if name != "outside"),
    *("embeddings", "embedding_name", "embedding_batch"),
)


class Part(NamedTuple):
    """What of a scope's conversations another may search; ``None`` for all of them."""

    sessions: frozenset[str] | None
    """Ids of chat sessions and threads."""
    channels: frozenset[str] | None
    """What was said elsewhere is not looked at, nor are titles of sessions held elsewhere."""

    def has_channel(self, channel: str | None) -> bool:
        """Whether what was said in a channel may be searched."""
        return self.channels is None or channel in self.channels


EVERYTHING = Part(None, None)


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
        **unknown: object,
    ) -> "Search":
        """A search by these options.

        Raises:
            TypeError: The query is no text, ``since`` no date, ``channel`` or ``language`` no text,
                ``sessions`` or ``roles`` no texts, or an option is unknown.
            ValueError: ``limit`` is negative, ``since`` has no time zone, or a role is misspelt.
            ScopeError: An id among ``sessions`` is malformed.
        """
        if unknown:
            raise TypeError(
                f"recall() got an unexpected keyword argument {next(iter(unknown))!r}; it takes "
                f"query, {', '.join(_OPTIONS)}. Nothing was read."
            )
        _check_text("query", query, "Write what to look for, as a few words.")
        if channel is not None:
            _check_text("channel", channel, "Write its name, or leave it out for all.")
        if language is not None:
            _check_text(
                "language", language, 'Write language="de", or leave it out to have it found.'
            )
        return cls(
            query=query,
            limit=whole_number("limit", limit),
            since=_microseconds(since),
            sessions=_each("sessions", sessions, lambda name: checked_id("session_id", name)),
            channel=channel,
            roles=_each("roles", roles, _role),
            outside=_each("outside", outside, str) or frozenset(),
            language=language,
        )


def _microseconds(since: date | datetime | None) -> int:
    if since is None:
        return 0
    if not isinstance(since, date):
        raise TypeError(
            "since must be a date, or a datetime with a time zone, got "
            f"{kind_of(since)}. {_advice_for(since)}"
        )
    if not isinstance(since, datetime):
        since = datetime.combine(since, time(), UTC)
    if since.tzinfo is None:
        raise ValueError(
            "since must have a time zone, as datetime.now(UTC) has, or be a date, got a datetime "
            "without. Write since.astimezone() if it is local time."
        )
    return (since - EPOCH) // MICROSECOND


def _advice_for(since: object) -> str:
    if isinstance(since, str):
        return "Write date.fromisoformat(text)."
    if isinstance(since, timedelta):
        return "Write datetime.now(UTC) - span."
    return "Write date(2026, 1, 31), or datetime.now(UTC) - timedelta(days=7)."


def _check_text(name: str, value: object, advice: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {kind_of(value)}. {advice} Nothing was read.")


def _each(
    name: str, given: Collection[str] | None, make: Callable[[str], str]
) -> frozenset[str] | None:
    if given is None:
        return None
    if not hasattr(given, "__iter__"):
        raise TypeError(
            f"{name} must be a list of str, got {kind_of(given)}. Write {name}=[{_EXAMPLES[name]}]."
        )
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
