"""Arguments: refused where they are given, by type or length, with what to write instead."""

import math
from collections.abc import Mapping
from datetime import timedelta
from inspect import iscoroutinefunction
from operator import index
from typing import Any, SupportsIndex

_MICROSECOND = timedelta(microseconds=1)


def kind_of(value: object) -> str:
    """What a message says of a value: its type, and never what it holds."""
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__


def whole_number(name: str, value: object, *, least: int = 0, advice: str = "") -> int:
    """``value`` as an ``int``, of ``least`` or more.

    Args:
        name: What the argument is called, for the message.
        value: What was given. A ``bool`` is refused: it answers no question for a number.
        least: The smallest number that has a meaning.
        advice: What to write instead.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is below ``least``.
    """
    # The protocol takes 5 µs to look for, and nearly all numbers are of this very type.
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, SupportsIndex)):
        raise TypeError(
            f"{name} must be a whole number of {least} or more, got {kind_of(value)}. "
            f"{advice or 'Give an int.'}"
        )
    number = index(value)
    if number < least:
        raise ValueError(
            f"{name} must be {least} or more, got {number}. {advice or 'Give a larger number.'}"
        )
    return number


def true_or_false(name: str, value: object) -> bool:
    """``value``, if it is ``True`` or ``False``: ``"no"`` would count as true, ``None`` as false.

    Raises:
        TypeError: It is neither.
    """
    if type(value) is not bool:
        raise TypeError(
            f"{name} must be True or False, got {kind_of(value)}. Write {name}=True. Nothing was "
            "read or written."
        )
    return value


def callback(name: str, value: object, *, example: str, is_awaited: bool = False) -> None:
    """Refuse what cannot be called, before it would be.

    Args:
        name: What the argument is called, for the message.
        value: What was given.
        example: What to write instead.
        is_awaited: Whether it may be a coroutine function, too.

    Raises:
        TypeError: It cannot, or is a coroutine function, whose answer nobody would await.
    """
    is_unfit = iscoroutinefunction(value) and not is_awaited
    if not callable(value) or is_unfit:
        got = "a coroutine function" if is_unfit else kind_of(value)
        wanted = "a function" if is_awaited else "a function, called without await"
        raise TypeError(
            f"{name} must be {wanted}, got {got}. Write {example}. Nothing was read or written."
        )


def seconds(name: str, value: object, *, or_none: bool = False, advice: str = "") -> float:
    """``value`` as seconds, above 0 and finite; or of 0 or more, where that means none at all.

    Raises:
        TypeError: It is no number.
        ValueError: It is out of this range.
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        wanted = f"{name}=span.total_seconds()" if isinstance(value, timedelta) else "a number"
        raise TypeError(
            f"{name} must be seconds as an int or float, got {kind_of(value)}. "
            f"{advice or f'Give {wanted}.'}"
        )
    if not (value >= 0 if or_none else 0 < value < math.inf):
        wanted = "0 or more" if or_none else "above 0 and finite"
        raise ValueError(f"{name} must be {wanted}, got {value}. {advice or 'Give seconds.'}")
    return value


def time_to_live(value: object, *, name: str = "ttl") -> timedelta | None:
    """``value`` as the time that something is kept, a microsecond or more; ``None`` is for ever.

    Raises:
        TypeError: It is no `timedelta`.
        ValueError: It is shorter.
    """
    if value is not None and not isinstance(value, timedelta):
        raise TypeError(
            f"{name} must be a timedelta or None (for ever), got {kind_of(value)}. "
            f"Write {name}=timedelta(seconds=3600) for an hour."
        )
    if value is not None and value < _MICROSECOND:
        raise ValueError(
            f"{name} must be a microsecond or more, got a timedelta of 0 or below. "
            f"Leave {name} out to keep it for ever."
        )
    return value


def mapping(name: str, value: object, *, advice: str) -> Mapping[Any, Any]:
    """``value``, if it is a mapping.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, got {kind_of(value)}. {advice}")
    return value


def refuse_single(name: str, value: object, singles: tuple[type, ...], *, example: str) -> None:
    """Refuse one thing where a list of such things is asked for; a text would be its letters.

    Args:
        name: What the argument is called, for the message.
        value: What was given.
        singles: Types of which one was given in place of a list of them.
        example: What to write instead.

    Raises:
        TypeError: It is one of these, or nothing that has elements.
    """
    if isinstance(value, (*singles, str, bytes, Mapping)) or not hasattr(value, "__iter__"):
        raise TypeError(
            f"{name} must be a list, got one {kind_of(value)}. Write {example}. "
            "Nothing was read or written."
        )


def checked_embeddings(value: object) -> None:
    """Refuse what cannot embed texts as LangChain's `Embeddings` do.

    Raises:
        TypeError: It is a class, or has no ``embed_documents`` and ``embed_query``.
    """
    embeds = hasattr(value, "embed_documents") and hasattr(value, "embed_query")
    if isinstance(value, type) or not embeds:
        advice = f"Make an instance: {value.__name__}(…)." if isinstance(value, type) else _MAKE
        raise TypeError(
            f"embeddings must be an object with embed_documents and embed_query, as LangChain's "
            f"Embeddings have them, got {kind_of(value)}. {advice}"
        )


_MAKE = (
    'Make one with your provider\'s package, such as OpenAIEmbeddings(model="…"); a vector store '
    "of another package is given as wrapping=…"
)
