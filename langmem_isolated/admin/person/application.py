"""My-memory application: routes of the pages where users see and change what is remembered."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from itertools import chain

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request

from langmem_isolated._runtime.arguments import callback, kind_of
from langmem_isolated.admin.person import (
    accesses,
    conversations,
    documents,
    forgetting,
    items,
    locks,
    overview,
    profile,
    sharing,
    taking_along,
)
from langmem_isolated.admin.person.pages import Pages
from langmem_isolated.admin.web.application import application
from langmem_isolated.admin.web.endpoints import Endpoints
from langmem_isolated.admin.web.signing import Signer
from langmem_isolated.memory import IsolatedMemory
from langmem_isolated.scope import Scope

ScopeOf = Callable[[Request], Scope | Awaitable[Scope | None] | None]
_log = logging.getLogger("langmem_isolated.admin")
_EXAMPLE = "scope_of=lambda request: Scope(request.user.id, 'assistant')"
_NOUNS = (
    *(overview, profile, conversations, items, documents, sharing, accesses),
    *(taking_along, forgetting, locks),
)


def memory_app(
    memory: IsolatedMemory, *, scope_of: ScopeOf, secret: bytes | None = None
) -> Starlette:
    """The page where users see and change what is remembered, as a Starlette application.

    ``app.mount("/memory", memory_app(memory, scope_of=…))``; no path or form names a user.

    Args:
        memory: Where it is.
        scope_of: Whose memory is shown, by the request as your authentication knows it: the one
            place that says so. ``None`` for whoever is not logged in, which is answered with 401.
            It may be a coroutine function. The page shows all modules of the user, and begins with
            the scope's. What it raises is answered with 500, an `HTTPException` with its status.
        secret: 32 random bytes or more that sign forms and references, the same in every process
            that serves the page; by default drawn anew, enough for one process.

    Raises:
        TypeError: ``scope_of`` is no function, or ``secret`` no bytes.
        ValueError: ``secret`` is too short.
    """
    callback("scope_of", scope_of, example=_EXAMPLE, is_awaited=True)
    shown = {"application": "My memory", "styles": "person.css"}
    pages = Pages(memory, Endpoints(_checked(scope_of), _subject, Signer(secret), shown))
    return application([*chain.from_iterable(noun.routes(pages) for noun in _NOUNS)], shown)


def _checked(scope_of: ScopeOf) -> Callable[[Request], Awaitable[Scope | None]]:
    async def find(request: Request) -> Scope | None:
        found = scope_of(request)
        scope = await found if isawaitable(found) else found
        # A subclass could be a guest's, or compare as it likes.
        if scope is not None and type(scope) is not Scope:
            told = f"scope_of must return a Scope or None, got {kind_of(scope)}."
            _log.error("%s Write %s.", told, _EXAMPLE)
            raise HTTPException(500, f"{told} Nothing was shown.")
        return scope

    return find


def _subject(scope: Scope) -> str:
    return json.dumps(["person", scope.project_id, scope.user_id])
