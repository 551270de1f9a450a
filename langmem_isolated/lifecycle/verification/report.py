"""Report: what a verification looked at and found, for people and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal

from langmem_isolated.lifecycle.verification.checks import CHECKS, KIND_OF
from langmem_isolated.lifecycle.verification.confidence import Coverage

MOST_FINDINGS = 100
"""Of each check so many are told one by one; all are counted."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be. It names nobody: digests, and never content."""

    problem: str
    scope: str = ""
    """By which tables and logs know the scope, in 32 hexadecimal digits."""
    place: str = ""
    """Where in it: an address, a table, an adapter or a store."""


@dataclass(frozen=True, slots=True)
class Check:
    """What one check looked at."""

    name: str
    examined: int
    found: int = 0
    findings: tuple[Finding, ...] = ()
    """The first 100."""
    not_checked: str | None = None
    """Why it was left out, or what of it."""

    @property
    def what(self) -> str:
        """What holds if it found nothing."""
        return KIND_OF[self.name].what

    @property
    def state(self) -> Literal["ok", "found", "not checked"]:
        """``"not checked"`` where it looked at nothing, for a reason that it gives."""
        if self.found:
            return "found"
        return "not checked" if self.not_checked and not self.examined else "ok"


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What `memory.verify` found.

    >>> report = memory.verify()
    >>> report.is_clean, report.found
    (True, 0)
    """

    subject: Literal["installation", "user"]
    began_at: datetime
    finished_at: datetime
    scopes: int
    """How many were there, of all or of the user."""
    verified: int
    """Of how many every record was opened."""
    locked: int
    """Of how many the user holds the keys: rows and counts checked, contents not."""
    ended: int
    """How many were erased meanwhile, or are being erased."""
    coverage: Coverage | None
    """What a sample proves; ``None`` where every scope was verified."""
    counts: Mapping[str, int]
    """Records that opened, by kind."""
    cross_opening_attempts: int
    checks: tuple[Check, ...] = field(default=())

    @property
    def found(self) -> int:
        """How many findings there are."""
        return sum(check.found for check in self.checks)

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found; what was not checked is told by the checks."""
        return self.found == 0

    def check(self, name: str) -> Check:
        """One check, by its name.

        Raises:
            KeyError: There is none of that name.
        """
        return next(check for check in self.checks if check.name == KIND_OF[name].name)

    def as_dict(self) -> dict[str, Any]:
        """As one value of JSON: whole numbers, texts, ``None``, lists and dicts."""
        return {
            "subject": self.subject,
            "began_at": _iso(self.began_at),
            "finished_at": _iso(self.finished_at),
            "is_clean": self.is_clean,
            "found": self.found,
            "scopes": self.scopes,
            "verified": self.verified,
            "locked": self.locked,
            "ended": self.ended,
            "coverage": None if self.coverage is None else self.coverage.as_dict(),
            "counts": dict(self.counts),
            "cross_opening_attempts": self.cross_opening_attempts,
            "checks": [_check_as_dict(check) for check in self.checks],
        }


def _check_as_dict(check: Check) -> dict[str, Any]:
    return {
        "check": check.name,
        "what": check.what,
        "state": check.state,
        "examined": check.examined,
        "found": check.found,
        "findings": [asdict(one) for one in check.findings],
        "not_checked": check.not_checked,
    }


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


class Tally:
    """One check while it is being made."""

    def __init__(self) -> None:
        self.examined = 0
        self.found = 0
        self._findings: list[Finding] = []
        self.not_checked: str | None = None

    def add(self, problem: str, scope: str = "", place: str = "", *, count: int = 1) -> None:
        """Note a finding, or ``count`` that are alike."""
        self.found += count
        if len(self._findings) < MOST_FINDINGS:
            self._findings.append(Finding(problem, scope, place))

    def as_check(self, name: str) -> Check:
        """What it looked at, by now."""
        findings = tuple(self._findings)
        return Check(name, self.examined, self.found, findings, self.not_checked)


class Tallies(dict[str, Tally]):
    """Every check, by its name."""

    def __init__(self) -> None:
        super().__init__({kind.name: Tally() for kind in CHECKS})

    def as_checks(self) -> tuple[Check, ...]:
        """All of them, in their order."""
        return tuple(self[kind.name].as_check(kind.name) for kind in CHECKS)
