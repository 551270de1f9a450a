"""Participants: what keeps something of people outside of this memory, and is asked to erase it.

Of each a job says when it was asked, before it is, and when it confirmed that nothing is left. So
whoever goes on after a crash knows whom to ask again.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from inspect import isawaitable, iscoroutine, iscoroutinefunction
from typing import NamedTuple

from langmem_isolated._crypto.owners import Owner
from langmem_isolated._runtime.arguments import callback, kind_of
from langmem_isolated._runtime.clock import EPOCH, as_moment, now
from langmem_isolated._storage.erased import Asked
from langmem_isolated._storage.erasure_jobs import ErasureJob, ErasureJobs

_LONGEST_NAME = 100
_EXAMPLE = 'memory.erasure.register("crm", crm.erase, crm.is_empty)'


@dataclass(frozen=True, slots=True, repr=False)
class ErasureSubject:
    """Whose memory is erased, as participants are told; ids are left out of the ``repr``."""

    project_id: str
    began_at: datetime
    """When the erasure began, UTC: what is newer may be of the same user, who came back."""
    user_id: str | None = None
    """The user; ``None`` where it is a guest, a whole module or a whole project."""
    anonymous_id: str | None = None
    """The guest."""
    module_id: str | None = None
    """The module, of which everybody's memory is erased."""

    @classmethod
    def of(cls, owner: Owner, began_at: int) -> ErasureSubject:
        """That of the owner of an erasure that began at ``began_at``, in µs."""
        moment = as_moment(began_at) or EPOCH
        return cls(owner.project, moment, owner.user, owner.guest, owner.module)

    def __repr__(self) -> str:
        ids = ("user_id", "anonymous_id", "module_id")
        given = [name for name in ids if getattr(self, name) is not None]
        return f"ErasureSubject({', '.join(given) or 'project_id'})"


Erase = Callable[[ErasureSubject], object]
Verify = Callable[[ErasureSubject], bool]


class Participant(NamedTuple):
    """One of them."""

    erase: Erase
    verify: Verify

    def outcome(self, subject: ErasureSubject, asked: Asked, *, is_asked: bool = True) -> Asked:
        """Ask it, or only whether nothing is left; what it raises is told by its class alone."""
        try:
            if is_asked:
                _refuse_awaitable("erase", self.erase(subject))
            found = self.verify(subject)
            _refuse_awaitable("verify", found)
        # Whatever it raises, our own rows go.
        except (Exception, CancelledError) as error:  # noqa: BLE001
            return asked._replace(confirmed_at=None, error=type(error).__name__)
        return asked._replace(confirmed_at=now() if found is True else None, error=None)


def _refuse_awaitable(name: str, answer: object) -> None:
    """Refuse an answer that nobody would await.

    Raises:
        TypeError: It is one.
    """
    if isawaitable(answer):
        if iscoroutine(answer):
            answer.close()
        raise TypeError(f"{name} gave {kind_of(answer)}, which nobody awaits")


class Participants:
    """Those that this memory knows, by their names."""

    def __init__(self) -> None:
        self._all: dict[str, Participant] = {}

    def register(self, name: object, erase: Erase, verify: Verify) -> None:
        """See :meth:`ErasureRegistry.register`."""
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, got {kind_of(name)}. Write {_EXAMPLE}.")
        if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
            raise ValueError(
                f"name must have 1 to {_LONGEST_NAME} printable characters, got {len(name):,}. It "
                "is stored and stands in receipts: name the participant, and no person."
            )
        for argument, function in (("erase", erase), ("verify", verify)):
            _check_callable(argument, function)
        self._all[name] = Participant(erase, verify)

    def __len__(self) -> int:
        return len(self._all)

    def ask(self, jobs: ErasureJobs, job: ErasureJob, subject: ErasureSubject) -> ErasureJob:
        """Ask those that have not confirmed; that they are is stored before."""
        for name, participant in [*self._all.items()]:
            asked = job.erased.participants.get(name) or Asked(now())
            if asked.confirmed_at is None:
                job = _noted(jobs, job, name, asked)
                job = _noted(jobs, job, name, participant.outcome(subject, asked))
        return job

    def verify(self, jobs: ErasureJobs, job: ErasureJob, subject: ErasureSubject) -> ErasureJob:
        """Ask those that confirmed whether still nothing is left: something may have come since."""
        for name, participant in [*self._all.items()]:
            asked = job.erased.participants.get(name)
            if asked and asked.confirmed_at is not None:
                found = participant.outcome(subject, asked, is_asked=False)
                if found.confirmed_at is None:
                    job = _noted(jobs, job, name, found)
        return job


def _noted(jobs: ErasureJobs, job: ErasureJob, name: str, asked: Asked) -> ErasureJob:
    return jobs.change(job, lambda erased: erased.with_asked(name, asked))


def _check_callable(name: str, function: object) -> None:
    callback(name, function, example=_EXAMPLE)
    call = vars(type(function)).get("__call__")
    if iscoroutinefunction(call):
        raise TypeError(
            f"{name} must be a function, called without await, got {kind_of(function)}, whose "
            f"calls are coroutines. Write {_EXAMPLE}. Nothing was registered."
        )


def states(asked: Mapping[str, Asked]) -> dict[str, str]:
    """By their names, whether they confirmed or were only requested to erase."""
    return {
        name: "requested" if one.confirmed_at is None else "confirmed"
        for name, one in sorted(asked.items())
    }


def errors(asked: Mapping[str, Asked]) -> dict[str, str]:
    """By their names, the class of what those raised that did not confirm."""
    return {name: one.error for name, one in sorted(asked.items()) if one.error is not None}
