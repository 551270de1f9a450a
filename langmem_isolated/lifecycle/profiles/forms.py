"""Profile forms: between what callers have of a profile and its entries."""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from langmem_isolated._codecs.profiles import decode_profile_entry, encode_profile_entry, folded
from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.clock import EPOCH, MICROSECOND
from langmem_isolated._storage.entries import Entry
from langmem_isolated.errors import ProfileEntryNotFound, ValueNotStorable
from langmem_isolated.lifecycle.profiles.values import Fact, FactSource, Interest
from langmem_isolated.scope import checked_id

_MOST_SOURCES = 8
_TAG_BYTES = 16
ID_BYTES = 8
SUMMARY_KEY = b"summary"
_ID = re.compile(f"[0-9a-f]{{{2 * ID_BYTES}}}")


def checked_text(name: str, value: object) -> str:
    """``value``, if it is text with something in it.

    Raises:
        ValueNotStorable: It is no ``str``.
        ValueError: It has nothing but white space.
    """
    if type(value) is not str:
        raise ValueNotStorable(
            kind_of(value), f"a profile's {name}", cause="it must be a str", advice="Give its text."
        )
    if not value.strip():
        raise ValueError(
            f"A profile's {name} must have a character that is no white space, got "
            f"{len(value)} characters without. Nothing was written; remove() and its like remove."
        )
    return value


def checked_json(value: object) -> object:
    """``value``, if JSON has an equal form for it.

    Raises:
        ValueNotStorable: It has none: what is stored would come back as something else.
    """
    try:
        is_same = json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        is_same = False
    if not is_same:
        raise ValueNotStorable(
            kind_of(value), "a profile's attribute", cause="it is no JSON value",
            advice="Give text, numbers, true, false, null, and lists and dicts of them whose keys "
            "are text.",
        )  # fmt: skip
    return value


def fact_id(fact: object) -> str:
    """The id of a fact, or what may be one.

    Raises:
        TypeError: It is neither a fact nor text.
        ProfileEntryNotFound: No fact has such an id.
    """
    given = fact.id if isinstance(fact, Fact) else fact
    if not isinstance(given, str):
        several = ", each as an argument of its own" if isinstance(given, list | tuple) else ""
        raise TypeError(
            f"A fact is given as a Fact or its id, got {kind_of(fact)}. Give one of "
            f"profile().facts(){several}. Nothing was changed."
        )
    if not _ID.fullmatch(given):
        raise ProfileEntryNotFound.of("fact")
    return given


def as_microseconds(time: object) -> int:
    """A moment as the tables hold it.

    Raises:
        TypeError: It is no `datetime`.
        ValueError: It has no time zone, or is before 1970.
    """
    if not isinstance(time, datetime):
        raise TypeError(f"time must be a datetime, got {kind_of(time)}. Leave it out for now.")
    if time.tzinfo is None or time < EPOCH:
        raise ValueError(
            "time must have a time zone and be 1970 or later, got one without or earlier. Write "
            "datetime.now(UTC). Nothing was written."
        )
    return (time.astimezone(UTC) - EPOCH) // MICROSECOND


def source_of(
    kind: object, module_id: str, session_id: str | None, message_id: str | None, time: int
) -> FactSource:
    """Where a fact comes from, its parts checked.

    Raises:
        ScopeError: One is malformed.
    """
    return FactSource(
        checked_id("source", kind),
        _moment(time),
        module_id,
        None if session_id is None else checked_id("session_id", session_id),
        None if message_id is None else checked_id("message_id", message_id),
    )


def together(sources: Sequence[FactSource]) -> tuple[FactSource, ...]:
    """The first source and the newest others, each once."""
    ordered = sorted(dict.fromkeys(sources), key=lambda source: source.time)
    return (*ordered[:1], *ordered[1:][-(_MOST_SOURCES - 1) :])


def tag_of(text: str) -> bytes:
    """By which facts are found that say the same."""
    told = folded(text).encode(errors="surrogatepass")
    return hashlib.blake2b(told, digest_size=_TAG_BYTES).digest()


def fact_entry(fact: Fact) -> Entry:
    """A fact as an entry."""
    value = {
        "text": fact.text,
        "time": _microseconds(fact.time),
        "updated": _microseconds(fact.updated),
        "revision": fact.revision,
        "position": fact.position,
        "sources": [
            [s.kind, _microseconds(s.time), s.module_id, s.session_id, s.message_id]
            for s in fact.sources
        ],
    }
    return Entry(bytes.fromhex(fact.id), encode_profile_entry(value), tag_of(fact.text))


def fact_of(key: bytes, value: bytes) -> Fact:
    """The fact of an entry."""
    found = decode_profile_entry(value)
    return Fact(
        key.hex(),
        found["text"],
        _moment(found["time"]),
        _moment(found["updated"]),
        found["revision"],
        tuple(FactSource(kind, _moment(time), *ids) for kind, time, *ids in found["sources"]),
        found["position"],
    )


def interest_key(name: str) -> bytes:
    """The key under which an interest is kept."""
    return folded(name).encode(errors="surrogatepass")


def interest_entry(interest: Interest) -> Entry:
    """An interest as an entry."""
    value = {
        "name": interest.name,
        "mentions": interest.mentions,
        "since": _microseconds(interest.since),
        "last": _microseconds(interest.last),
    }
    return Entry(interest_key(interest.name), encode_profile_entry(value))


def interest_of(value: bytes) -> Interest:
    """The interest of an entry."""
    found = decode_profile_entry(value)
    since, last = _moment(found["since"]), _moment(found["last"])
    return Interest(found["name"], found["mentions"], since, last)


def value_entry(key: bytes, value: object) -> Entry:
    """An attribute, or the summary, as an entry."""
    return Entry(key, encode_profile_entry({"value": value}))


def value_of(value: bytes) -> Any:
    """The attribute, or the summary, of an entry."""
    return decode_profile_entry(value)["value"]


def _moment(microseconds: int) -> datetime:
    return EPOCH + microseconds * MICROSECOND


def _microseconds(moment: datetime) -> int:
    return (moment - EPOCH) // MICROSECOND
