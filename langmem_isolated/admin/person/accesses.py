"""Accesses: who looked at one's memory or changed it, and why."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.responses import Response
from starlette.routing import Route

from langmem_isolated.admin.person.pages import THE_USER, Mine, Pages
from langmem_isolated.lifecycle import AuditEntry

_PAGE = 100
_OPERATIONS = {
    "break_glass": "May read your memory",
    "break_glass_ended": "May read your memory no longer",
    "clear": "Removed all of a module",
    "compare_modules": "Compared modules",
    "erase_user": "Erased your memory",
    "export": "Took a copy",
    "grant": "Shared between modules",
    "hold": "Placed a legal hold",
    "hold_released": "Ended a legal hold",
    "import": "Brought data in",
    "lock_with": "Locked your memory",
    "merge": "Merged modules",
    "policy": "Changed how long it is kept",
    "policy_removed": "Changed how long it is kept",
    "profile_show": "Read what is known about you",
    "read": "Read",
    "recall": "Told a model of it",
    "remove_lock": "Removed the lock",
    "revoke": "Ended a sharing",
    "sessions": "Read the list of chats",
    "show": "Read a conversation",
    "threads": "Read the list of threads",
    "unlock": "Unlocked your memory",
    "verify": "Checked that it is whole",
}


def routes(pages: Pages) -> list[Route]:
    """The log, newest first."""
    return [pages.get("/accesses", _list, "accesses")]


def _list(mine: Mine) -> Response:
    before = _moment(mine.visit.request.query_params.get("before", ""))
    entries = _entries(mine, before)
    return mine.page(
        "accesses",
        "Who looked, and why",
        current="accesses",
        is_on=mine.memory.audit.status().is_on,
        entries=[(one, _who(one), operation_of(one), one.outcome or "") for one in entries],
        # Its end by the clock, to the microsecond: the next page begins before it.
        more=_microseconds(entries[-1].time) if len(entries) == _PAGE else None,
    )


def _entries(mine: Mine, before: datetime | None) -> list[AuditEntry]:
    """Of all modules, each once: what is about all of them, every one of them tells."""
    found = {
        (entry.shard, entry.sequence): entry
        for scoped in (mine.memory.scope(mine.visit.who), *(m.scoped for m in mine.modules()))
        for entry in scoped.audit_log(limit=_PAGE, before=before)
    }
    return sorted(found.values(), key=lambda entry: entry.time, reverse=True)[:_PAGE]


def _who(entry: AuditEntry) -> str:
    if entry.actor == THE_USER:
        return "You, on these pages"
    return entry.actor or "The application"


def operation_of(entry: AuditEntry) -> str:
    """What was done, in words, where they are known."""
    name = entry.operation or ""
    return _OPERATIONS.get(name, name.replace("_", " "))


def _microseconds(moment: datetime) -> int:
    return int(moment.timestamp()) * 10**6 + moment.microsecond


def _moment(given: str) -> datetime | None:
    """A time of the address; none for what is none."""
    if not (given.isascii() and given.isdigit() and len(given) <= 16):  # noqa: PLR2004 - to 2286
        return None
    seconds, microseconds = divmod(int(given), 10**6)
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=microseconds)
