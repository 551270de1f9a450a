"""Pages of jobs: what runs, how far it is, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.responses import Response

from langmem_isolated.admin.operator.jobs import Job, State
from langmem_isolated.admin.operator.pages import Action, Asked, Here, Page
from langmem_isolated.admin.web.endpoints import Visit


@dataclass(frozen=True, slots=True)
class JobShown:
    """Something that runs, or ran."""

    id: str
    kind: str
    by: str
    began: datetime
    ended: datetime | None
    state: State
    can_stop: bool
    count: int
    outcome: dict[str, Any] | None
    error: str | None

    @classmethod
    def of(cls, job: Job) -> JobShown:
        """How it is now."""
        # What it tells is there before it says that it is done.
        state = job.state
        outcome = None if job.outcome is None else dict(job.outcome)
        return cls(
            job.id, job.kind, job.by, job.began, job.ended, state, job.can_stop, job.count,
            outcome, job.error,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class JobsShown:
    """Jobs of this process, the newest first."""

    jobs: list[JobShown]


def _jobs(here: Here, _visit: Visit[str]) -> JobsShown:
    return JobsShown([JobShown.of(job) for job in here.jobs])


def _chosen(here: Here, visit: Visit[str]) -> Job:
    return here.jobs.get(visit.request.path_params["job"])


def _job(here: Here, visit: Visit[str]) -> JobShown:
    return JobShown.of(_chosen(here, visit))


def _asks(here: Here, visit: Visit[str]) -> Asked:
    job = _chosen(here, visit)
    return Asked(
        f"Stop: {job.kind}?",
        ["It ends behind the batch that runs. What is done is done.",
         "To begin it again goes on with the rest."],
        "Stop it",
    )  # fmt: skip


def _stop(here: Here, visit: Visit[str]) -> Response:
    job = _chosen(here, visit)
    job.stop()
    return visit.back("job", job=job.id)


PAGES: Sequence[Page | Action] = (
    Page("/jobs", "jobs", "Jobs", _jobs, JobsShown),
    Page("/jobs/{job}", "job", "A job", _job, JobShown),
    Action("/jobs/{job}/stop", "stop_job", _stop, _asks),
)
