"""Audit options: what goes into an installation's audit log, and how long it stays."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from langmem_isolated._runtime.arguments import callback, refuse_single, true_or_false, whole_number

_VERSION = 1
_DAYS = "Leave it out to keep all."


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditOptions:
    """What an audit log holds beside what operators do; see ``memory.audit``.

    Exports, erasures, grants, claims, merges, imports, policies, holds, keys, refused calls and
    what operators read by the command line are always in it.

    >>> AuditOptions(audit_days=400)
    AuditOptions(recalls=True, reads=False, audit_days=400)

    Args:
        recalls: What is recalled into prompts: by the middleware, by the recall tool, from
            profiles. Noted within a second, a line for each user, module and actor: a process that
            is killed loses the last second of these.
        reads: What applications read for the users themselves, in the same way.
        audit_days: How many days an entry stays, 1 or more: sweeps remove what is older. By default
            all stay.
        logged: Whether each entry is also a log record of ``langmem_isolated.audit``, without ids,
            names and reasons. Of this process alone.
        anchor_to: Where each sweep of this process leaves an anchor: `AnchorFile`, `TimeStamps`, or
            any function of an `Anchor`.

    Raises:
        TypeError: An argument has another type.
        ValueError: ``audit_days`` is below 1.
    """

    recalls: bool = True
    reads: bool = False
    audit_days: int | None = None
    logged: bool = True
    anchor_to: tuple[Callable[[Any], object], ...] = ()

    def __post_init__(self) -> None:
        for name in ("recalls", "reads", "logged"):
            true_or_false(name, getattr(self, name))
        if self.audit_days is not None:
            whole_number("audit_days", self.audit_days, least=1, advice=_DAYS)
        example = 'anchor_to=[AnchorFile("anchors.jsonl")]'
        refuse_single("anchor_to", self.anchor_to, (), example=example)
        object.__setattr__(self, "anchor_to", tuple(self.anchor_to))
        for sink in self.anchor_to:
            callback("an anchor's sink", sink, example=example)

    def __repr__(self) -> str:
        stored = (f"{name}={getattr(self, name)!r}" for name in _STORED)
        return f"AuditOptions({', '.join(stored)})"

    @property
    def settings(self) -> "AuditSettings":
        """What of it holds for every process."""
        return AuditSettings(True, *(getattr(self, name) for name in _STORED))


_STORED = ("recalls", "reads", "audit_days")


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """What an installation says of its audit log, to every process that opens it."""

    is_on: bool
    recalls: bool
    reads: bool
    audit_days: int | None

    def encoded(self) -> bytes:
        """As the database has it: JSON in ASCII, its names sorted, without spaces."""
        told = {
            "days": self.audit_days,
            "on": self.is_on,
            "reads": self.reads,
            "recalls": self.recalls,
            "v": _VERSION,
        }
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def decoded(cls, stored: bytes) -> Self:
        """What :meth:`encoded` gave, which was authenticated.

        Raises:
            ValueError: A later version of this package wrote it.
        """
        told = json.loads(stored)
        if told["v"] != _VERSION:
            raise ValueError("a later version of this package wrote the settings of the audit log")
        return cls(told["on"], told["recalls"], told["reads"], told["days"])


OFF = AuditSettings(False, False, False, None)
