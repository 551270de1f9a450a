"""Acting for somebody: who does what the block around does, and why, for the audit log."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from langmem_isolated._runtime.arguments import kind_of

MOST_CHARACTERS = 1_000


class Actor(NamedTuple):
    """Who acts, and why."""

    name: str | None
    reason: str | None


_NOBODY = Actor(None, None)
_acting: ContextVar[Actor] = ContextVar("langmem_isolated_actor", default=_NOBODY)


def current_actor() -> Actor:
    """Who acts here: in this context, and in worker threads that it hands a call to."""
    return _acting.get()


@contextmanager
def acting_as(name: str, reason: str | None = None) -> Iterator[Actor]:
    """Have somebody act within the block.

    Raises:
        TypeError: ``name`` or ``reason`` is no text.
        ValueError: One is empty, or has more than 1,000 characters.
    """
    checked_text("actor", name)
    if reason is not None:
        checked_text("reason", reason)
    token = _acting.set(Actor(name, reason))
    try:
        yield _acting.get()
    finally:
        _acting.reset(token)


def checked_text(name: str, value: object) -> str:
    """``value``, a text of 1 to 1,000 characters.

    Raises:
        TypeError: It is no text.
        ValueError: It is empty or longer.
    """
    if not isinstance(value, str):
        raise TypeError(
            f'{name} must be a text, got {kind_of(value)}. Write {name}="…". Nothing was done.'
        )
    if not 0 < len(value.strip()) <= len(value) <= MOST_CHARACTERS:
        raise ValueError(
            f"{name} must have 1 to {MOST_CHARACTERS:,} characters, got {len(value):,}. Nothing "
            "was done."
        )
    return value
