"""Rules for chat sessions: how long they live, and how much is kept in and of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType

from langmem_isolated._runtime.arguments import mapping, time_to_live, whole_number
from langmem_isolated.scope import checked_id

_EXAMPLE = 'Write channel_limits={"general": 10, "ai": 20}.'


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRules:
    """What holds for every chat session of an application; by default nothing ever goes.

    >>> rules = SessionRules(channel_limits={"general": 2}, max_sessions=100)
    >>> kept = IsolatedMemory("sqlite://", root_key=root_key, session_rules=rules)
    >>> history = kept.scope(user_id="alice", module_id="tutor").chat_history("monday")
    >>> history.add_messages([HumanMessage(str(n)) for n in range(5)], channel="general")
    >>> [message.text for message in history.messages]
    ['3', '4']
    >>> kept.close()

    Args:
        idle: How long a session lives after the last message, a microsecond or more. It and
            ``absolute`` are noted in a session when it is made, and hold for that one.
        absolute: How long it lives after it was made, whatever is said in it.
        channel_limits: How many messages of each channel a session keeps, 1 or more; the oldest
            drop out with the message that is one too many. What is said without a channel, or in
            one that is not named here, stays. A session may have limits of its own.
        max_sessions: How many sessions a scope keeps, 1 or more. When another one is made, those
            drop out in which nothing was said for longest, except pinned ones.

    Raises:
        TypeError: A time is no `timedelta`, a number no whole number, ``channel_limits`` no dict.
        ValueError: A time is below a microsecond, or a number below 1.
        ScopeError: The name of a channel is malformed.
    """

    idle: timedelta | None = None
    absolute: timedelta | None = None
    channel_limits: Mapping[str, int] = field(default_factory=dict)
    max_sessions: int | None = None

    def __post_init__(self) -> None:
        time_to_live(self.idle, name="idle")
        time_to_live(self.absolute, name="absolute")
        limits = MappingProxyType(checked_channel_limits(self.channel_limits))
        object.__setattr__(self, "channel_limits", limits)
        if self.max_sessions is not None:
            whole_number("max_sessions", self.max_sessions, least=1, advice=_LEAVE_OUT)


_LEAVE_OUT = "Leave it out to keep all."
# What a column of the row takes.
_MOST = 2**63 - 1


def checked_channel_limits(limits: object) -> dict[str, int]:
    """How many messages of each channel are kept, as a dict of the callee's own.

    Raises:
        TypeError: It is no dict, or a number no whole number.
        ValueError: A number is below 1.
        ScopeError: The name of a channel is malformed.
    """
    return {
        checked_id("channel", channel): min(
            whole_number("a channel's limit", limit, least=1, advice=_LEAVE_OUT), _MOST
        )
        for channel, limit in mapping("channel_limits", limits, advice=_EXAMPLE).items()
    }


NO_RULES = SessionRules()
