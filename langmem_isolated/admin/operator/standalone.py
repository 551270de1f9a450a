"""Standalone: the admin page as a server of its own, behind a token."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections.abc import Collection

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.admin.operator.application import HEALTH, operators_pages, subject_of
from langmem_isolated.admin.web.failures import failure, wants_json
from langmem_isolated.admin.web.forms import form_of, token_of
from langmem_isolated.admin.web.security_headers import SecurityHeaders
from langmem_isolated.admin.web.signing import FEWEST_BYTES, Signer
from langmem_isolated.admin.web.templates import rendered
from langmem_isolated.memory import IsolatedMemory

FEWEST_CHARACTERS = 32
"""Of a token: 32 hexadecimal digits at random are 128 bits."""
_COOKIE = "langmem_isolated_admin"
_SESSION_SECONDS = 12 * 3600
_MOST_SESSIONS = 100
# What a wrong token costs, and how many may wait for it at once, so that guesses hold no more than
# these connections open. What keeps them out is the token's length.
_PENALTY_SECONDS = 1.0
_MOST_WAITING = 4
_OPEN = (HEALTH, "/login")
_SHOWN = {"application": "Memory", "styles": "operator.css"}
_STRANGER = "You are not logged in. Give the token that the server printed when it began."
_BUSY = "Too many wrong tokens just now. Try again in a second."


def standalone_app(
    memory: IsolatedMemory,
    *,
    token: str,
    operator: str = "operator",
    allowed_hosts: Collection[str] = (),
) -> Starlette:
    """The admin page behind a token, as ``langmem-isolated serve`` runs it.

    Without the token every page is 401, but ``/health`` and style sheets. A browser gives it once,
    on the page that it is shown then, and has a cookie of 12 hours for it; a program sends
    ``Authorization: Bearer …``. For one process: who is logged in is known to it alone.

    Args:
        memory: Whose statistics, retention, keys and log are shown.
        token: At least 32 characters that nobody guesses, such as `secrets.token_urlsafe(32)`.
        operator: Who acts, for the audit log.
        allowed_hosts: Under which names it is asked, without the port; others are refused, so that
            no site of somebody else can pose as it. By default under any.

    Raises:
        TypeError: ``token`` is no text.
        ValueError: It is too short.
    """
    signer = Signer(secrets.token_bytes(FEWEST_BYTES))
    gate = _Gate(_checked(token), operator, signer)
    pages = operators_pages(memory, gate.operator_of, signer, {"can_log_out": True})
    routes = [
        Route("/login", gate.log_in, methods=["POST"]),
        Route("/logout", gate.log_out, methods=["POST"]),
        Mount("/", pages),
    ]
    guards = [Middleware(SecurityHeaders), Middleware(_HostCheck, hosts=frozenset(allowed_hosts))]
    made = Starlette(routes=routes, middleware=[*guards, Middleware(_Guard, gate=gate)])
    made.state.jobs = pages.state.jobs
    return made


class _BusyError(Exception):
    """As many wrong tokens wait as may: another one is not waited for."""


class _HostCheck:
    """ASGI middleware that refuses names of hosts that are not this server's (DNS rebinding)."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope) if scope["type"] == "http" and self._hosts else None
        # Who looks after containers asks by their addresses, and is told nothing.
        if request is not None and _own_path(request) != HEALTH:
            host = request.headers.get("host", "")
            name, _, port = host.rpartition(":")
            if (name if port.isdigit() else host).lower() not in self._hosts:
                told = "This server is not asked under that name. Use the address it printed."
                await JSONResponse({"error": told}, status_code=400)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class _Guard:
    """ASGI middleware that lets nobody in who has not given the token, whatever the path."""

    def __init__(self, app: ASGIApp, gate: _Gate) -> None:
        self._app, self._gate = app, gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Nothing here speaks WebSocket.
        if scope["type"] == "http" and (refusal := await self._refusal(Request(scope, receive))):
            await refusal(scope, receive, send)
        elif scope["type"] != "websocket":
            await self._app(scope, receive, send)

    async def _refusal(self, request: Request) -> Response | None:
        path = _own_path(request)
        if path in _OPEN or path.startswith("/static/"):
            return None
        try:
            return None if await self._gate.is_known(request) else _stranger(request, 401)
        except _BusyError:
            return _stranger(request, 429, _BUSY)


def _own_path(request: Request) -> str:
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", ""))


def _stranger(request: Request, status: int, text: str = _STRANGER) -> Response:
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}  # noqa: PLR2004 - HTTP
    if wants_json(request):
        return JSONResponse({"error": text}, status_code=status, headers=headers)
    base = request.scope.get("root_path", "")
    values = {**_SHOWN, "base": base, "title": "Log in", "text": text}
    return HTMLResponse(rendered("operator/login.html", values), status, headers)


class _Gate:
    """Who has given the token: sessions of browsers, kept as digests; nothing has a ``repr``."""

    def __init__(self, token: str, operator: str, signer: Signer) -> None:
        self._token, self._operator, self._signer = token.encode(), operator, signer
        # Browsers send a host's cookies to all of its ports: each server has a name of its own.
        self._cookie = f"{_COOKIE}_{signer.reference('cookie')}"
        self._sessions: dict[bytes, float] = {}
        self._waiting = 0

    def operator_of(self, request: Request) -> str | None:
        """Who acts: the guard before it has let nobody else through."""
        del request
        return self._operator

    async def is_known(self, request: Request) -> bool:
        """Whether a request has the token, or the cookie that was given for it."""
        kind, _, told = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return await self._is_token(told.strip())
        ends = self._sessions.get(self._session_of(request))
        return ends is not None and time.monotonic() < ends

    async def _is_token(self, told: str) -> bool:
        """Whether it is the token; a wrong one waits, and few may wait at once.

        The right one never does: else whoever guesses without a break would keep it out.

        Raises:
            _BusyError: It is wrong, and as many wait as may.
        """
        if hmac.compare_digest(told.encode(errors="replace"), self._token):
            return True
        if self._waiting >= _MOST_WAITING:
            raise _BusyError
        self._waiting += 1
        try:
            await asyncio.sleep(_PENALTY_SECONDS)
        finally:
            self._waiting -= 1
        return False

    async def log_in(self, request: Request) -> Response:
        """Give a cookie for the token."""
        try:
            form = await form_of(request)
        except HTTPException as error:
            return failure(request, error, _SHOWN)
        try:
            is_token = await self._is_token(form.get("token", "").strip())
        except _BusyError:
            return _stranger(request, 429, _BUSY)
        if not is_token:
            return _stranger(request, 401, "That is not the token of this server.")
        session = secrets.token_urlsafe(FEWEST_BYTES)
        self._remember(_digest(session))
        answer = _to_overview(request)
        answer.set_cookie(
            self._cookie, session, max_age=_SESSION_SECONDS, path=_path_of(request), httponly=True,
            samesite="strict", secure=request.url.scheme == "https",
        )  # fmt: skip
        return answer

    def _session_of(self, request: Request) -> bytes:
        return _digest(request.cookies.get(self._cookie, ""))

    def _remember(self, digest: bytes) -> None:
        moment = time.monotonic()
        living = [(one, ends) for one, ends in self._sessions.items() if ends > moment]
        self._sessions = dict(living[-(_MOST_SESSIONS - 1) :])
        self._sessions[digest] = moment + _SESSION_SECONDS

    async def log_out(self, request: Request) -> Response:
        """Forget the session of a browser."""
        try:
            token = token_of(request, await form_of(request))
        except HTTPException as error:
            return failure(request, error, _SHOWN)
        if not self._signer.is_csrf_token(subject_of(self._operator), token):
            return failure(request, HTTPException(403, "This form is not from this page."), _SHOWN)
        self._sessions.pop(self._session_of(request), None)
        answer = _to_overview(request)
        answer.delete_cookie(self._cookie, path=_path_of(request))
        return answer


def _to_overview(request: Request) -> RedirectResponse:
    return RedirectResponse(_path_of(request), status_code=303)


def _path_of(request: Request) -> str:
    return f"{request.scope.get('root_path', '')}/"


def _digest(session: str) -> bytes:
    return hashlib.sha256(session.encode(errors="replace")).digest()


def _checked(token: object) -> str:
    advice = "Leave --token-file out to have one made, or write secrets.token_urlsafe(32)."
    if not isinstance(token, str):
        raise TypeError(f"token must be a text, got {kind_of(token)}. {advice}")
    if len(token) < FEWEST_CHARACTERS:
        raise ValueError(
            f"token must have {FEWEST_CHARACTERS} characters or more, got {len(token)}. {advice}"
        )
    return token
