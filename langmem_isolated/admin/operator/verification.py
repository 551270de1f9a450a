"""Verification: what is stored, and PostgreSQL's row-level security."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from langmem_isolated.admin.operator.jobs import Job
from langmem_isolated.admin.operator.pages import Action, Asked, Here, Page, number_of
from langmem_isolated.admin.web.endpoints import Visit
from langmem_isolated.lifecycle import RowLevelSecurity

_KIND = "verify"


@dataclass(frozen=True, slots=True)
class Security:
    """How row-level security stands for the role of the memory's URL."""

    status: RowLevelSecurity
    is_in_force: bool
    fault: str | None
    """What is wrong; ``None`` where it is in force, or is not enabled."""


@dataclass(frozen=True, slots=True)
class Verification:
    """Row-level security, and the last verification that this process has made."""

    row_level_security: Security | None
    """``None`` on SQLite, which has none."""
    report: dict[str, Any] | None


def _verification(here: Here, _visit: Visit[str]) -> Verification:
    found = here.memory.row_level_security()
    security = None if found is None else Security(found, found.is_in_force, found.fault)
    last = next((job for job in here.jobs if _is_report(job)), None)
    return Verification(security, dict(last.outcome) if last and last.outcome else None)


def _is_report(job: Job) -> bool:
    return job.kind == _KIND and job.outcome is not None


def _is_read_only(visit: Visit[str]) -> bool:
    return visit.form.get("read_only") == "yes"


def _asks(_here: Here, visit: Visit[str]) -> Asked:
    sample = number_of(visit, "sample")
    which = "every scope" if sample is None else f"{sample:,} scopes, drawn at random,"
    return Asked(
        "Verify what is stored?",
        [
            f"Every record of {which} is opened, which takes a while.",
            "Nothing is written."
            if _is_read_only(visit)
            else "Canaries are written through every adapter, looked for, and removed.",
        ],
        "Verify",
    )


def _verify(here: Here, visit: Visit[str]) -> Response:
    memory, sample, read_only = here.memory, number_of(visit, "sample"), _is_read_only(visit)
    return here.begin(
        visit,
        _KIND,
        lambda progress: memory.verify(
            sample=sample, read_only=read_only, progress=progress
        ).as_dict(),
    )


PAGES: Sequence[Page | Action] = (
    Page("/verification", "verification", "Verification", _verification, Verification),
    Action("/verification/run", "verify", _verify, _asks),
)
