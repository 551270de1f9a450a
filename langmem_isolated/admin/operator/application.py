"""Admin application: routes of the operators' pages."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Sequence
from importlib.metadata import version
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from langmem_isolated._runtime.arguments import callback
from langmem_isolated.admin.operator import (
    audit,
    contents,
    erasures,
    job_pages,
    keys,
    retention,
    statistics,
    users,
    verification,
)
from langmem_isolated.admin.operator.jobs import Jobs
from langmem_isolated.admin.operator.openapi import described
from langmem_isolated.admin.operator.pages import API, Action, Here, Page, routes_of
from langmem_isolated.admin.web.application import application
from langmem_isolated.admin.web.endpoints import Endpoints, Visit
from langmem_isolated.admin.web.signing import Signer
from langmem_isolated.errors import LangmemIsolatedError
from langmem_isolated.memory import IsolatedMemory

Authorize = Callable[[Request], str | Awaitable[str | None] | None]
_EXAMPLE = "authorize=lambda request: request.user.name if request.user.is_admin else None"
TABLE: Sequence[Page | Action] = (
    *statistics.PAGES,
    *users.PAGES,
    *contents.PAGES,
    *retention.PAGES,
    *erasures.PAGES,
    *keys.PAGES,
    *verification.PAGES,
    *audit.PAGES,
    *job_pages.PAGES,
)
"""All pages and actions."""
# In the order of the navigation.
_NAVIGATION = (
    ("overview", "Overview"),
    ("projects", "Projects"),
    ("users", "Users"),
    ("retention", "Retention"),
    ("erasures", "Erasures"),
    ("keys", "Keys"),
    ("verification", "Verification"),
    ("audit", "Audit log"),
    ("jobs", "Jobs"),
)
HEALTH = "/health"


def admin_app(
    memory: IsolatedMemory, *, authorize: Authorize, secret: bytes | None = None
) -> Starlette:
    """The admin page for operators, as a Starlette application to mount or to run.

    ``app.mount("/admin", admin_app(memory, authorize=…))``; without ``authorize`` there is none.
    All that is done runs in the operator's name, for the audit log. What takes long runs in a
    thread of this process, and ends with it; to begin it again goes on.

    Only ``/health`` is answered to everybody: 200 where the database answers, otherwise 503.

    Args:
        memory: Whose statistics, retention, keys and log are shown. Where row-level security binds
            its role, it has a ``jobs_url``.
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
    return operators_pages(memory, authorize, Signer(secret), {})


def operators_pages(
    memory: IsolatedMemory, authorize: Authorize, signer: Signer, shown: dict[str, Any]
) -> Starlette:
    """The application; its jobs are in its ``state``."""
    jobs = Jobs()
    told = {
        "application": "Memory",
        "styles": "operator.css",
        "navigation": _NAVIGATION,
        "can_log_out": False,
        **shown,
    }
    pages = Endpoints(authorize, subject_of, signer, told)
    routes = [
        *routes_of(TABLE, pages, Here(memory, jobs)),
        pages.get(f"{API}/openapi.json", _description, "openapi"),
        Route(HEALTH, _health(memory), methods=["GET"], name="health"),
    ]
    made = application(routes, told)
    made.state.jobs = jobs
    return made


def subject_of(operator: str) -> str:
    """What tokens of forms are bound to."""
    return json.dumps(["operator", operator])


def _description(visit: Visit[str]) -> Response:
    told = described(TABLE, version("langmem-isolated"))
    return JSONResponse({**told, "servers": [{"url": visit.request.scope.get("root_path") or "/"}]})


def _health(memory: IsolatedMemory) -> Callable[[Request], Awaitable[Response]]:
    async def health(_request: Request) -> Response:
        try:
            await memory.aping()
        except LangmemIsolatedError:
            return PlainTextResponse("unavailable", status_code=503)
        return PlainTextResponse("ok")

    return health
