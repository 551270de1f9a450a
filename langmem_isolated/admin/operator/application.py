"""Admin application: routes of the operators' pages."""

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

Authorize = Callable[[Request], str | Awaitable[str | None] | None]
_EXAMPLE = "authorize=lambda request: request.user.name if request.user.is_admin else None"


def admin_app(
    memory: IsolatedMemory, *, authorize: Authorize, secret: bytes | None = None
) -> Starlette:
    """The admin page for operators, as a Starlette application to mount or to run.

    ``app.mount("/admin", admin_app(memory, authorize=…))``; without ``authorize`` there is none.

    Args:
        memory: Whose statistics, retention, keys and log are shown.
        authorize: The name of the operator who asks, by the request, for the audit log; ``None``
            for whoever may not see the page, which is answered with 401. It may be a coroutine
            function.
        secret: 32 random bytes or more that sign the forms, the same in every process that serves
            the page; by default drawn anew, enough for one process.

    Raises:
        TypeError: ``authorize`` is no function, or ``secret`` no bytes.
        ValueError: ``secret`` is too short.
    """
    callback("authorize", authorize, example=_EXAMPLE, is_awaited=True)
    shown = {"application": "Memory"}
    pages = Endpoints(authorize, _subject, Signer(secret), shown)

    def overview(visit: Visit[str]) -> Response:
        return visit.page("operator/overview.html", title="Overview", stats=memory.stats())

    return application([pages.get("/", overview, "overview")], shown)


def _subject(operator: str) -> str:
    return json.dumps(["operator", operator])
