"""Erasures: those that are not finished, receipts, and how to go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from starlette.responses import Response

from langmem_isolated.admin.operator.pages import Action, Asked, Here, Page
from langmem_isolated.admin.web.endpoints import Visit
from langmem_isolated.lifecycle import UnfinishedErasure

# Each is 2 kB of a page.
_RECEIPTS = 100


@dataclass(frozen=True, slots=True)
class Unfinished:
    """An erasure that goes on; it names nobody."""

    principal: str
    what: str
    began_at: datetime
    counts: dict[str, int]
    participants: dict[str, str]
    participant_errors: dict[str, str]
    stores: tuple[str, ...]

    @classmethod
    def of(cls, one: UnfinishedErasure) -> Unfinished:
        """Without whose it is."""
        return cls(
            one.principal, one.what, one.began_at, one.counts, one.participants,
            one.participant_errors, one.stores,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Erasures:
    """What goes on, and what was done; nobody is named."""

    pending: list[Unfinished]
    receipts: list[dict[str, Any]]
    """The newest 100, the newest first, with what each does not prove."""
    finished: int
    """How many receipts there are."""


def _erasures(here: Here, _visit: Visit[str]) -> Erasures:
    erasure = here.memory.erasure
    receipts = erasure.receipts()
    return Erasures(
        [Unfinished.of(one) for one in erasure.pending()],
        [one.to_dict() for one in receipts[: -_RECEIPTS - 1 : -1]],
        len(receipts),
    )


def _asks_to_resume(here: Here, _visit: Visit[str]) -> Asked:
    count = len(here.memory.erasure.pending())
    return Asked(
        "Go on with what is not finished?",
        [
            f"Erasures that are not finished: {count:,}.",
            "Participants and third-party stores are asked again, those that this process knows.",
        ],
        "Go on",
    )


def _resume(here: Here, visit: Visit[str]) -> Response:
    erasure = here.memory.erasure
    return here.begin(
        visit,
        "go on with erasures",
        lambda _: {"receipts": [one.to_dict() for one in erasure.resume()]},
        can_stop=False,
    )


def _asks_to_finish(_here: Here, _visit: Visit[str]) -> Asked:
    return Asked(
        "Write the database's files anew?",
        [
            "SQLite: afterwards no byte of what was removed is left in them.",
            "Writers wait meanwhile: 0.7 s for 64 MiB.",
            "PostgreSQL decides itself when it writes over removed rows: nothing is done there.",
        ],
        "Write them anew",
    )


def _finish(here: Here, visit: Visit[str]) -> Response:
    memory = here.memory
    return here.begin(
        visit,
        "write files anew",
        lambda _: {"heap": memory.finish_erasure()},
        can_stop=False,
    )


PAGES: Sequence[Page | Action] = (
    Page("/erasures", "erasures", "Erasures", _erasures, Erasures),
    Action("/erasures/resume", "resume_erasures", _resume, _asks_to_resume),
    Action("/erasures/finish", "finish_erasure", _finish, _asks_to_finish),
)
