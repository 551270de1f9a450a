"""Failures: a page, or JSON, that says what to do; what nobody expected shows nothing of itself."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from langmem_isolated.admin.web.templates import rendered
from langmem_isolated.errors import DatabaseError, LangmemIsolatedError

_log = logging.getLogger("langmem_isolated.admin")
_TITLES = {
    400: "That is not as expected",
    401: "Not logged in",
    403: "Not permitted",
    404: "Not here",
    405: "Not like this",
    409: "Not done",
    413: "Too long",
    503: "Not now",
}
# What Starlette says by itself.
_UNTOLD = {
    HTTPStatus.NOT_FOUND.phrase: "There is no such page. Nothing was done.",
    HTTPStatus.METHOD_NOT_ALLOWED.phrase: (
        "This address is not asked in this way: pages are loaded, forms are sent. Nothing was done."
    ),
}


def failure(request: Request, error: Exception, shown: Mapping[str, Any]) -> Response:
    """What is answered to an error; one that nobody expected is logged by its type alone."""
    if isinstance(error, HTTPException):
        status, text = error.status_code, _UNTOLD.get(error.detail, error.detail)
    elif isinstance(error, LangmemIsolatedError):
        # Messages of this library have no content and no ids.
        status, text = 503 if isinstance(error, DatabaseError) else 409, str(error)
    else:
        # Its text may have either.
        _log.error("a page failed: %s", type(error).__name__)
        status, text = 500, "This page failed. The log says of what type the error was."
    response = _told(request, status, text, shown)
    response.headers.update(getattr(error, "headers", None) or {})
    return response


def wants_json(request: Request) -> bool:
    """Whether the answer is for a program."""
    own = request.url.path.removeprefix(request.scope.get("root_path", ""))
    return own.startswith("/api/") or request.headers.get("accept") == "application/json"


def _told(request: Request, status: int, text: str, shown: Mapping[str, Any]) -> Response:
    if wants_json(request):
        return JSONResponse({"error": text}, status_code=status)
    values = {
        **shown,
        "base": request.scope.get("root_path", ""),
        "title": _TITLES.get(status, "This page failed"),
        "text": text,
    }
    return HTMLResponse(rendered("error.html", values), status_code=status)
