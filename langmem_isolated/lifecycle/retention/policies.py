"""Retention policies: how long memory of a kind is kept, and where.

A policy is an entry of kind *policy*: one of a project or module under the project's owner, one of
a user under the user's own, so that it goes with the user. The narrowest that reaches a scope
counts there, alone: one of the user before one of the module, of a channel before one of all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import timedelta

from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._runtime.arguments import kind_of, whole_number
from langmem_isolated._runtime.clock import MICROSECOND
from langmem_isolated.scope import checked_id

SPACE = (b"retention",)
# What a policy of each kind may say.
_LIMITS = {
    "message": ("age", "keep_latest"),
    "session": ("age", "idle"),
    "thread": ("age", "idle"),
    "checkpoint": ("age", "idle", "keep_latest"),
    "item": ("age",),
    "document": ("age",),
    "entry": ("age",),
    "receipt": ("age",),
}
KINDS = tuple(_LIMITS)
_SPANS = ("age", "idle")
_MOST_DAYS, _MOST_ROWS = 365_000, 10**9


@dataclass(frozen=True, slots=True, repr=False)
class Policy:
    """How long memory of a kind is kept, and where; ids are left out of the ``repr``.

    >>> memory.retention.keep("message", module_id="tutor", days=90)
    Policy(message, age=90 days, 0:00:00)
    """

    kind: str
    """``"message"``, ``"session"``, ``"thread"``, ``"checkpoint"``, ``"item"``, ``"document"``,
    ``"entry"`` (of caches, byte stores and indexes) or ``"receipt"``."""
    project_id: str = "default"
    module_id: str | None = None
    """Only in this module; ``None`` for all."""
    channel: str | None = None
    """Only messages of this channel."""
    user_id: str | None = None
    """Only of this user."""
    age: timedelta | None = None
    """What is older goes: messages and checkpoints since they were stored, sessions and threads
    since they began, items, documents and entries since they were last put."""
    idle: timedelta | None = None
    """Sessions and threads go in which nothing was done for so long; of such threads all
    checkpoints but the newest."""
    keep_latest: int | None = None
    """So many of the newest stay: messages of a session, checkpoints of a thread's namespace."""

    def __repr__(self) -> str:
        limits = {name: getattr(self, name) for name in (*_SPANS, "keep_latest")}
        told = [f"{name}={value}" for name, value in limits.items() if value is not None]
        return f"Policy({', '.join((self.kind, *told))})"

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """Orders policies from the widest to the narrowest."""
        return self.user_id is not None, self.module_id is not None, self.channel is not None

    @property
    def owner(self) -> Owner:
        """Under whose keys it is kept."""
        if self.user_id is None:
            return Owner(Level.PROJECT, self.project_id)
        return Owner(Level.USER, self.project_id, self.user_id)

    @property
    def key(self) -> bytes:
        """Under which key of its space it is kept: what it is about and where."""
        return json.dumps([self.kind, self.module_id, self.channel]).encode()

    def encoded(self) -> bytes:
        """What is sealed of it: spans in µs."""
        told = asdict(self)
        for name in _SPANS:
            if told[name] is not None:
                told[name] //= MICROSECOND
        return json.dumps(
            {name: value for name, value in told.items() if value is not None}
        ).encode()

    @classmethod
    def decoded(cls, plaintext: bytes) -> Policy:
        """What :meth:`encoded` was given; fields that a later version added are left out."""
        known = {field.name for field in fields(cls)}
        told = {name: value for name, value in json.loads(plaintext).items() if name in known}
        for name in _SPANS:
            if name in told:
                told[name] *= MICROSECOND
        return cls(**told)

    def reaches(self, owner: Owner) -> bool:
        """Whether it is about what an owner has."""
        return (
            self.project_id == owner.project
            and self.user_id in (None, owner.user)
            and self.module_id in (None, owner.module)
        )


def checked(
    kind: object,
    *,
    module_id: object,
    channel: object,
    user_id: object,
    project_id: object,
    days: object,
    age: object,
    idle: object,
    keep_latest: object,
) -> Policy:
    """A policy of these arguments.

    Raises:
        ScopeError: An id is malformed.
        TypeError: A limit has another type.
        ValueError: The kind is not known, has not this limit, or has none.
    """
    policy = address(kind, module_id, channel, user_id, project_id)
    if days is not None and age is not None:
        raise ValueError("days and age are the same: give one of them. Nothing was changed.")
    if days is not None:
        age = timedelta(days=_most("days", days, _MOST_DAYS, "Give whole days, or age=."))
    most = None if keep_latest is None else _most("keep_latest", keep_latest, _MOST_ROWS)
    spans = _span("age", age), _span("idle", idle)
    policy = replace(policy, age=spans[0], idle=spans[1], keep_latest=most)
    _check_limits(policy)
    return policy


def address(
    kind: object, module_id: object, channel: object, user_id: object, project_id: object
) -> Policy:
    """A policy without limits: what it is about and where.

    Raises:
        ScopeError: An id is malformed.
        ValueError: The kind is not known, or has no channels.
    """
    if not isinstance(kind, str) or kind not in KINDS:
        got = f"{kind_of(kind)}" if not isinstance(kind, str) else "another"
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {got}. Nothing was changed.")
    if channel is not None and kind != "message":
        raise ValueError(
            f"Only messages have a channel, and this policy is about kind {kind!r}. Leave channel "
            'out, or write keep("message", …). Nothing was changed.'
        )
    return Policy(
        kind,
        checked_id("project_id", project_id),
        None if module_id is None else checked_id("module_id", module_id),
        None if channel is None else checked_id("channel", channel),
        None if user_id is None else checked_id("user_id", user_id),
    )


def _most(name: str, value: object, most: int, advice: str = "") -> int:
    number = whole_number(name, value, least=1, advice=advice)
    if number > most:
        # A sweep would fail by it, and it is stored: every sweep of every process.
        raise ValueError(
            f"{name} must be {most:,} or less, got more. What has no policy is kept for ever. "
            "Nothing was changed."
        )
    return number


def _span(name: str, value: object) -> timedelta | None:
    if value is None:
        return None
    if not isinstance(value, timedelta):
        raise TypeError(
            f"{name} must be a timedelta, got {kind_of(value)}. Write {name}=timedelta(days=90). "
            "Nothing was changed."
        )
    if value < MICROSECOND:
        raise ValueError(
            f"{name} must be above 0, got a timedelta of 0 or below. To remove all there is, write "
            "scope.clear(). Nothing was changed."
        )
    return value


def _check_limits(policy: Policy) -> None:
    allowed = _LIMITS[policy.kind]
    given = [name for name in (*_SPANS, "keep_latest") if getattr(policy, name) is not None]
    if not given or set(given) - set(allowed):
        raise ValueError(
            f"A policy of kind {policy.kind!r} takes {', '.join(allowed)} (days= is age in days), "
            f"got {', '.join(given) or 'none of them'}. Nothing was changed."
        )
    if policy.channel is not None and policy.keep_latest is not None:
        raise ValueError(
            "keep_latest is of a session's messages of all channels. Give age=… for a channel; how "
            "many a channel keeps is a limit of channels. Nothing was changed."
        )


def narrowest(
    policies: Iterable[Policy], kind: str, owner: Owner, channel: str | None = None
) -> Policy | None:
    """The policy that counts for what an owner has of a kind, and of messages in a channel."""
    reaching = (
        policy
        for policy in policies
        if policy.kind == kind and policy.channel in (None, channel) and policy.reaches(owner)
    )
    return max(reaching, key=lambda policy: policy.rank, default=None)
