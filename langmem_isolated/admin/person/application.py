"""My-memory application: routes of the pages where users see and change what is remembered."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response

from langmem_isolated._runtime.arguments import callback
from langmem_isolated.admin.web.application import application
from langmem_isolated.admin.web.endpoints import Endpoints, Visit
from langmem_isolated.admin.web.signing import Signer
from langmem_isolated.memory import IsolatedMemory
from langmem_isolated.scope import Scope

ScopeOf = Callable[[Request], Scope | Awaitable[Scope | None] | None]
_EXAMPLE = "scope_of=lambda request: Scope(request.user.id, 'assistant')"


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
            the scope's.
        secret: 32 random bytes or more that sign forms and references, the same in every process
            that serves the page; by default drawn anew, enough for one process.

    Raises:
        TypeError: ``scope_of`` is no function, or ``secret`` no bytes.
        ValueError: ``secret`` is too short.
    """
    callback("scope_of", scope_of, example=_EXAMPLE)
    shown = {"application": "My memory"}
    pages = Endpoints(scope_of, _subject, Signer(secret), shown)

    def overview(visit: Visit[Scope]) -> Response:
        modules = memory.modules(visit.who.user_id, project_id=visit.who.project_id)
        return visit.page("person/overview.html", title="What is remembered", modules=modules)

    return application([pages.get("/", overview, "overview")], shown)


def _subject(scope: Scope) -> str:
    return json.dumps(["person", scope.project_id, scope.user_id])
