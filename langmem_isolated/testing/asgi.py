"""ASGI applications (FastAPI, Starlette, Django and others), called in this process."""

import asyncio
import json
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote, urlencode

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.testing.applications import Application, Way
from langmem_isolated.testing.sightings import Eye, Turn

_FAILED = 400
"""The lowest status of a response that says no."""


@dataclass(frozen=True)
class Request:
    """An HTTP request that a test makes of who speaks, where and what.

    Args:
        method: As ``"POST"``.
        path: From the root, as ``"/threads/1"``; what is no ASCII is encoded.
        json: Any value that JSON has, for the body; or
        body: the body itself.
        headers: By name.
        query: Fields of the query.

    >>> Request("POST", "/chat", json={"text": "Hi"}).content
    b'{"text": "Hi"}'

    Raises:
        ValueError: The path begins with no slash, or has a query; or there are two bodies.
    """

    method: str
    path: str
    json: Any = None
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or "?" in self.path:
            raise ValueError(
                f"path must begin with a slash and have no query, got {len(self.path)} characters. "
                'Write Request("GET", "/chat", query={"page": "1"}).'
            )
        if self.json is not None and self.body:
            raise ValueError("A request has one body, got json and body. Give one of them.")

    @property
    def content(self) -> bytes:
        """The bytes of the body."""
        return self.body if self.json is None else json.dumps(self.json).encode()

    def sent(self, cookies: Mapping[str, str]) -> dict[str, Any]:
        """The ``scope`` of ASGI's specification, version 3.0 with HTTP 2.3."""
        headers = {"host": "testserver"}
        if self.json is not None:
            headers["content-type"] = "application/json"
        headers |= {name.lower(): value for name, value in self.headers.items()}
        if cookies:
            headers["cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method.upper(),
            "scheme": "https",
            "path": self.path,
            "raw_path": quote(self.path).encode(),
            "root_path": "",
            "query_string": urlencode(self.query).encode(),
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 50000),
            "server": ("testserver", 443),
            "state": {},
        }


class Refused(Exception):
    """The application answered with a status of 400 or more."""


class AsgiApplication(Application):
    """An ASGI application, asked by browsers that keep cookies, one for each user."""

    def __init__(
        self,
        app: Callable[..., Any],
        *,
        request: Callable[[str, str, str], Request | Sequence[Request]],
        state: Callable[[str, str], Request] | None,
    ) -> None:
        self._app, self._request, self._state = app, request, state
        self._cookies: dict[str, dict[str, str]] = {}
        self._lifespan: _Lifespan | None = None

    @property
    def ways(self) -> tuple[Way, ...]:
        """Asked, and asked by who hangs up at the first part of the answer."""
        return (Way("request", in_task=self._ask), Way("request cut off", in_task=self._hang_up))

    @property
    def has_state(self) -> bool:
        """Whether the test said how to ask for it."""
        return self._state is not None

    async def start(self) -> None:
        """The application's startup."""
        self._lifespan = _Lifespan(self._app)
        await self._lifespan.start()

    async def stop(self) -> None:
        """The application's shutdown."""
        if self._lifespan:
            await self._lifespan.stop()

    async def _ask(self, turn: Turn, eye: Eye) -> None:
        asked = self._request(turn.user, turn.session, turn.text)
        for request in [asked] if isinstance(asked, Request) else asked:
            await self._exchange(request, turn, eye)

    async def _hang_up(self, turn: Turn, eye: Eye) -> None:
        asked = self._request(turn.user, turn.session, turn.text)
        for request in [asked] if isinstance(asked, Request) else asked:
            await self._exchange(request, turn, eye, hangs_up=True)

    async def look_at_state(self, turn: Turn, eye: Eye) -> None:
        """Ask for it."""
        if self._state:
            await self._exchange(self._state(turn.user, turn.session), turn, eye)

    async def _exchange(
        self, request: Request, turn: Turn, eye: Eye, *, hangs_up: bool = False
    ) -> None:
        if not isinstance(request, Request):
            raise TypeError(
                f"request must give a Request or several, got {kind_of(request)}. Write lambda "
                'user, session, text: Request("POST", "/chat", json={"text": text}, headers=…).'
            )
        jar = self._cookies.setdefault(turn.user, {})
        exchange = _Exchange(request.content, eye, jar, hangs_up=hangs_up)
        await self._app(request.sent(jar), exchange.receive, exchange.send)
        if exchange.status >= _FAILED:
            raise Refused(f"{request.method} was answered with status {exchange.status}.")


class _Exchange:
    """One request's body in, one response out, seen as it comes."""

    def __init__(self, body: bytes, eye: Eye, jar: dict[str, str], *, hangs_up: bool) -> None:
        self._body: bytes | None = body
        self._eye, self._jar, self._hangs_up = eye, jar, hangs_up
        self._is_over = asyncio.Event()
        self.status = 0

    async def receive(self) -> dict[str, Any]:
        if self._body is None:
            # Who is there until the end hears of it then; who hangs up does so at the first part.
            await self._is_over.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            for name, value in message.get("headers", ()):
                self._eye.sees(f"response header {name.decode('latin-1')}", bytes(value))
                self._keep(bytes(name), bytes(value))
        elif message["type"] == "http.response.body":
            self._eye.streams("response body", bytes(message.get("body", b"")))
            if self._hangs_up or not message.get("more_body", False):
                self._is_over.set()

    def _keep(self, name: bytes, value: bytes) -> None:
        if name.lower() != b"set-cookie":
            return
        try:
            cookies = SimpleCookie(value.decode("latin-1"))
        except CookieError:
            return
        for morsel in cookies.values():
            self._jar[morsel.key] = morsel.value
            if morsel["max-age"] == "0" or not morsel.value:
                del self._jar[morsel.key]


class _Lifespan:
    """The application's startup and shutdown, where it has them."""

    def __init__(self, app: Callable[..., Any]) -> None:
        self._app = app
        self._to_app: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._from_app: asyncio.Queue[MutableMapping[str, Any] | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._task = asyncio.create_task(self._run())
        await self._say("startup")

    async def stop(self) -> None:
        if self._task and not self._task.done():
            await self._say("shutdown")
            await self._task

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        # An application without a lifespan raises here, says ASGI, and is asked all the same.
        with suppress(Exception):
            await self._app(scope, self._to_app.get, self._from_app.put)
        self._from_app.put_nowait(None)

    async def _say(self, what: str) -> None:
        self._to_app.put_nowait({"type": f"lifespan.{what}"})
        answer = await self._from_app.get()
        if answer is not None and answer["type"] == f"lifespan.{what}.failed":
            raise RuntimeError(f"The application's {what} failed. Nothing was asked of it.")
