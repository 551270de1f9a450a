"""Contents: what a user's memory says, through break-glass alone: a reason, a time, an entry.

Even to read is a POST: it leaves an entry in the log, and nothing by GET changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from langchain_core.messages import BaseMessage
from starlette.exceptions import HTTPException
from starlette.responses import Response

from langmem_isolated.admin.operator.pages import (
    Action,
    Asked,
    Here,
    Page,
    as_input,
    number_of,
    required,
)
from langmem_isolated.admin.operator.users import digest_in_path, scopes_of, user_of
from langmem_isolated.admin.web.endpoints import Visit
from langmem_isolated.errors import ReasonRequired
from langmem_isolated.lifecycle import BreakGlass, UserName
from langmem_isolated.scoped_memory import ScopedMemory

_MINUTES = 15
_MESSAGES = 50
_OFF = (
    "The audit log is off: nobody would see that you read this, so it is not shown. Switch it on, "
    "on the page Audit log."
)
_NOT_PERMITTED = (
    "Nothing permits you to read what this user has. Give a reason on the user's page; the user "
    "can see it. Nothing was read."
)


def _minutes(visit: Visit[str]) -> int:
    return number_of(visit, "minutes") or _MINUTES


def _asks_to_open(here: Here, visit: Visit[str]) -> Asked:
    user_of(here, visit)
    required(visit, "reason")
    if not here.memory.audit.status().is_on:
        raise HTTPException(409, _OFF)
    return Asked(
        "Read what this user has?",
        [
            f"You may read it for {_minutes(visit)} minutes; then that ends by itself.",
            "Your name, your reason and what you look at are noted in the audit log.",
            "The user can see them.",
        ],
        "Permit it, and note it",
    )


def _opened(here: Here, visit: Visit[str]) -> Response:
    user = user_of(here, visit)
    with as_input():
        here.memory.audit.break_glass(
            user.user_id,
            reason=required(visit, "reason"),
            minutes=_minutes(visit),
            project_id=user.project_id,
        )
    return visit.back("user", digest=digest_in_path(visit))


def _ended(here: Here, visit: Visit[str]) -> Response:
    user = user_of(here, visit)
    # Where its time was over before, what was wanted is so.
    with suppress(ReasonRequired):
        here.memory.audit.end_break_glass(user.user_id, project_id=user.project_id)
    return visit.back("user", digest=digest_in_path(visit))


def _asks_to_end(here: Here, visit: Visit[str]) -> Asked:
    user_of(here, visit)
    return Asked("End reading?", ["To read again, give a reason again."], "End it")


@contextmanager
def _reading(here: Here, user: UserName, operation: str) -> Iterator[BreakGlass]:
    """Let what is permitted be read, and note it."""
    with ExitStack() as stack:
        try:
            permission = stack.enter_context(
                here.memory.audit.reading(user.user_id, operation, project_id=user.project_id)
            )
        except ReasonRequired:
            raise HTTPException(403, _NOT_PERMITTED) from None
        if permission is None:
            raise HTTPException(409, _OFF)
        yield permission


def _read(here: Here, visit: Visit[str]) -> Response:
    """What modules know of a user, side by side, and which sessions there are."""
    user = user_of(here, visit)
    with _reading(here, user, "sessions") as permission:
        compared = here.memory.compare_modules(user.user_id, project_id=user.project_id)
        listed = [
            (scope.scope.module_id, _sessions(visit, scope)) for scope in scopes_of(here, user)
        ]
    return visit.page(
        "operator/contents.html",
        title="What modules know of one user",
        current="users",
        digest=digest_in_path(visit),
        compared=compared,
        rows=compared.rows(),
        listed=listed,
        permission=permission,
    )


def _sessions(visit: Visit[str], scope: ScopedMemory) -> list[dict[str, Any]]:
    return [
        {
            "reference": visit.signer.reference(*_names(scope, one.id)),
            "title": one.title or one.id,
            "messages": one.messages,
            "last_activity": one.last_activity,
        }
        for one in scope.sessions(archived=None)
        if one.id is not None
    ]


def _names(scope: ScopedMemory, session_id: str) -> tuple[str, ...]:
    """What a session's reference stands for."""
    named = scope.scope
    return "session", named.project_id, named.user_id, named.module_id, session_id


def _session(here: Here, visit: Visit[str]) -> Response:
    user, before = user_of(here, visit), number_of(visit, "before")
    wanted = visit.request.path_params["session"]
    with _reading(here, user, "show") as permission:
        scope, session_id = _named(here, visit, user, wanted)
        page = scope.chat_history(session_id).page(before=before, limit=_MESSAGES)
    return visit.page(
        "operator/session.html",
        title="One session",
        current="users",
        digest=digest_in_path(visit),
        session=wanted,
        module=scope.scope.module_id,
        messages=[_message(message) for message in page.messages],
        before=page.before,
        permission=permission,
    )


def _named(
    here: Here, visit: Visit[str], user: UserName, reference: str
) -> tuple[ScopedMemory, str]:
    every = _every_session(scopes_of(here, user))
    found = visit.signer.named_by(reference, every, lambda one: _names(*one))
    if found is None:
        raise HTTPException(
            404, "There is no such session now: it was removed, or has another user."
        )
    return found


def _every_session(scopes: list[ScopedMemory]) -> Iterator[tuple[ScopedMemory, str]]:
    for scope in scopes:
        before = None
        while page := scope.sessions(archived=None, before=before):
            yield from ((scope, one.id) for one in page if one.id is not None)
            before = page[-1]


def _message(message: BaseMessage) -> dict[str, Any]:
    calls = getattr(message, "tool_calls", None) or []
    return {
        "who": message.name or message.type,
        "text": str(message.text),
        "calls": [call["name"] for call in calls],
    }


PAGES: Sequence[Page | Action] = (
    Action("/users/{digest}/break-glass", "break_glass", _opened, _asks_to_open),
    Action("/users/{digest}/break-glass/end", "end_break_glass", _ended, _asks_to_end),
    Action("/users/{digest}/read", "read", _read),
    Action("/users/{digest}/read/{session}", "read_session", _session),
)
