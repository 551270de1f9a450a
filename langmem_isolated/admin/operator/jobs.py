"""Jobs: what operators began that takes longer than a page, in threads of this process.

They end with the process. Nothing is lost then: each of them works in batches, and to begin it
again goes on.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from starlette.exceptions import HTTPException

from langmem_isolated.errors import LangmemIsolatedError

_log = logging.getLogger("langmem_isolated.admin")
# Each holds a connection of the memory's pool, of 8 by default: pages need some, too.
MOST_RUNNING = 3
MOST_KEPT = 50
State = Literal["running", "done", "failed", "stopped"]
Progress = Callable[[int], None]
Work = Callable[[Progress], Mapping[str, Any]]


class _Stopped(Exception):
    """Ends a job between two batches."""


@dataclass(slots=True)
class Job:
    """Something that runs, or ran, and what came of it; why is not in the ``repr``."""

    id: str
    """Random: it stands in the path of its page."""
    kind: str
    by: str = field(repr=False)
    began: datetime
    can_stop: bool
    """Whether it looks between batches whether it is to end."""
    state: State = "running"
    count: int = 0
    """How many records, users or scopes are done."""
    ended: datetime | None = None
    outcome: Mapping[str, Any] | None = field(default=None, repr=False)
    """What it tells when it is done, such as a receipt."""
    error: str | None = None
    _stop: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def is_running(self) -> bool:
        """Whether it goes on."""
        return self.state == "running"

    def progress(self, count: int) -> None:
        """Note how far it is, and end it if that was asked for."""
        self.count = count
        if self._stop.is_set():
            raise _Stopped

    def stop(self) -> None:
        """Ask it to end between two batches."""
        self._stop.set()

    def run(self, work: Work) -> None:
        """Do the work, and keep what came of it; nothing is raised."""
        try:
            self.outcome = work(self.progress)
            self._end("done")
        except _Stopped:
            self._end("stopped")
        except LangmemIsolatedError as error:
            # Messages of this library have no content and no ids.
            self._end("failed", str(error))
        except Exception as error:  # noqa: BLE001 - of a thread nobody sees what it raises
            _log.error("a job failed: %s", type(error).__name__)
            self._end("failed", f"It failed: {type(error).__name__}. The log says no more.")

    def _end(self, state: State, error: str | None = None) -> None:
        self.error, self.ended, self.state = error, datetime.now(UTC), state


class Jobs:
    """The jobs of this process, the newest first; the last 50 are kept."""

    def __init__(self) -> None:
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._threads: dict[str, threading.Thread] = {}

    def __iter__(self) -> Iterator[Job]:
        with self._lock:
            return reversed([*self._jobs.values()])

    def get(self, job_id: str) -> Job:
        """One of them.

        Raises:
            HTTPException: 404 where there is none.
        """
        with self._lock:
            found = self._jobs.get(job_id)
        if found is None:
            raise HTTPException(
                404, "There is no such job in this process: they are forgotten when it ends."
            )
        return found

    def start(self, kind: str, by: str, work: Work, *, can_stop: bool = True) -> Job:
        """Begin one in a thread of its own, which does not keep the process alive.

        Args:
            kind: What it is called.
            by: Who began it.
            work: Does it; is given what to tell how far it is.
            can_stop: Whether ``work`` tells that between batches.

        Raises:
            HTTPException: 409 while three others run.
        """
        job = Job(secrets.token_urlsafe(16), kind, by, datetime.now(UTC), can_stop)
        thread = threading.Thread(
            target=job.run, args=(work,), name="langmem_isolated_admin_job", daemon=True
        )
        with self._lock:
            if sum(one.is_running for one in self._jobs.values()) >= MOST_RUNNING:
                raise HTTPException(
                    409, f"{MOST_RUNNING} jobs run. Wait for one, or stop one. Nothing was begun."
                )
            self._forget_oldest()
            # First: one that the system refuses takes no place, and `stop` waits for none unbegun.
            thread.start()
            self._jobs[job.id], self._threads[job.id] = job, thread
        return job

    def _forget_oldest(self) -> None:
        for job_id in [one.id for one in self._jobs.values() if not one.is_running]:
            if len(self._jobs) < MOST_KEPT:
                break
            del self._jobs[job_id], self._threads[job_id]

    def stop(self, seconds: float) -> None:
        """Ask all to end, and wait so long for all of them together."""
        for job in self:
            job.stop()
        end = time.monotonic() + seconds
        for thread in [*self._threads.values()]:
            thread.join(max(0.0, end - time.monotonic()))
