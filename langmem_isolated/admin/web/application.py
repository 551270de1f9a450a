"""Application: routes behind security headers, with the static files, to mount or to run."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount

from langmem_isolated.admin.web.failures import failure
from langmem_isolated.admin.web.security_headers import SecurityHeaders
from langmem_isolated.admin.web.templates import static_files


def application(routes: Sequence[BaseRoute], shown: Mapping[str, Any]) -> Starlette:
    """A Starlette application of these routes; it needs no lifespan, so it can be mounted."""

    def missing(request: Request, error: Exception) -> Response:
        return failure(request, error, shown)

    made = Starlette(
        routes=[*routes, Mount("/static", static_files(), name="static")],
        middleware=[Middleware(SecurityHeaders)],
        exception_handlers={HTTPException: missing},
    )
    # Its redirects go to whatever host the request names.
    made.router.redirect_slashes = False
    return made
