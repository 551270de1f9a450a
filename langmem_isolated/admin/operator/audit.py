"""Audit log: who did and read what, and why; its switch, and its verification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.exceptions import HTTPException
from starlette.responses import Response

from langmem_isolated.admin.operator.pages import (
    Action,
    Asked,
    Here,
    Page,
    as_input,
    plain,
    required,
)
from langmem_isolated.admin.web.endpoints import Visit
from langmem_isolated.errors import AuditIsOff
from langmem_isolated.lifecycle import AuditEntry, AuditStatus

_PAGE = 100


@dataclass(frozen=True, slots=True)
class Audited:
    """Whether the log is on, and a page of it, the newest first."""

    status: AuditStatus
    entries: list[AuditEntry]
    next: str | None
    """``before`` of the next page; ``None`` on the last."""


def _audited(here: Here, visit: Visit[str]) -> Audited:
    before, log = _before(visit), here.memory.audit
    status = log.status()
    try:
        entries = log.entries(limit=_PAGE, before=before)
    except AuditIsOff:
        entries = []
    # In microseconds since 1970: nothing in it has to be escaped.
    last = entries[-1].time.timestamp() if len(entries) == _PAGE else None
    return Audited(status, entries, None if last is None else f"{last:.6f}")


def _before(visit: Visit[str]) -> datetime | None:
    told = visit.request.query_params.get("before")
    if told is None:
        return None
    try:
        return datetime.fromtimestamp(float(told), UTC)
    except (ValueError, OverflowError, OSError):
        raise HTTPException(400, "before must be seconds since 1970, as a page gives it.") from None


def _asks_to_switch_on(_here: Here, _visit: Visit[str]) -> Asked:
    return Asked(
        "Switch the audit log on?",
        [
            "What operators do and read, and what is recalled into prompts, is noted.",
            "Every process knows of it within a minute.",
            "Users can see what is about them.",
        ],
        "Switch it on",
    )


def _switch_on(here: Here, visit: Visit[str]) -> Response:
    here.memory.audit.switch_on()
    return visit.back("audit")


def _asks_to_switch_off(_here: Here, visit: Visit[str]) -> Asked:
    required(visit, "reason")
    return Asked(
        "Switch the audit log off?",
        [
            "Nothing is noted any more; this itself is, with your name and your reason.",
            "What is there stays. This page shows no content then.",
        ],
        "Switch it off",
    )


def _switch_off(here: Here, visit: Visit[str]) -> Response:
    with as_input():
        here.memory.audit.switch_off(reason=required(visit, "reason"))
    return visit.back("audit")


def _asks_to_verify(_here: Here, _visit: Visit[str]) -> Asked:
    return Asked(
        "Verify the audit log?",
        ["Every entry is looked at, from the beginning to the end. Nothing is written."],
        "Verify",
    )


def _verify(here: Here, visit: Visit[str]) -> Response:
    log = here.memory.audit
    return here.begin(
        visit, "verify the audit log", lambda progress: plain(log.verify(progress=progress))
    )


PAGES: Sequence[Page | Action] = (
    Page("/audit", "audit", "Audit log", _audited, Audited),
    Action("/audit/on", "audit_on", _switch_on, _asks_to_switch_on),
    Action("/audit/off", "audit_off", _switch_off, _asks_to_switch_off),
    Action("/audit/verify", "verify_audit", _verify, _asks_to_verify),
)
