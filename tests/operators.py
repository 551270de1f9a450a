"""An operator at the admin page: forms with their tokens, what is asked, jobs until they end."""

from __future__ import annotations

import re
import time
from typing import Any

from httpx import Response
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated.admin import admin_app

_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_LONGEST_JOB_SECONDS = 60


class Operator:
    """Somebody who uses the page as a browser without JavaScript does."""

    def __init__(self, app: Starlette, base: str = "") -> None:
        self.app = app
        self._base = base
        self.client = TestClient(app, follow_redirects=False, raise_server_exceptions=True)

    def get(self, path: str) -> Response:
        """A page."""
        return self.client.get(self._base + path)

    def token(self) -> str:
        """One for forms."""
        found = _TOKEN.search(self.get("/users").text)
        assert found
        return found[1]

    def post(self, path: str, **form: Any) -> Response:
        """Send a form."""
        return self.client.post(self._base + path, data={"csrf_token": self.token(), **form})

    def do(self, path: str, **form: Any) -> Response:
        """Send a form, be asked, and mean it."""
        asked = self.post(path, **form)
        assert asked.status_code == 200, asked.text
        assert 'name="confirmed" value="yes"' in asked.text
        return self.post(path, **form, confirmed="yes")

    def job(self, path: str, **form: Any) -> dict[str, Any]:
        """Begin a job, and what it says when it has ended."""
        begun = self.do(path, **form)
        assert begun.status_code == 303, begun.text
        return self.ended(begun.headers["location"].removeprefix(self._base))

    def ended(self, path: str) -> dict[str, Any]:
        """What a job says when it has ended."""
        end = time.monotonic() + _LONGEST_JOB_SECONDS
        while (told := self.get(f"/api{path}").json())["state"] == "running":
            assert time.monotonic() < end
            time.sleep(0.01)
        return dict(told)


def operator_of(memory: IsolatedMemory, name: str = "carol", **options: Any) -> Operator:
    """Somebody who may see the page."""
    return Operator(admin_app(memory, authorize=lambda _: name, **options))


def tutor_of(memory: IsolatedMemory, user: str = "alice", project: str = "default") -> ScopedMemory:
    """A user's memory in one module, with a message."""
    scope = memory.scope(user_id=user, module_id="tutor", project_id=project)
    scope.chat_history("monday").add_user_message("What is 6 times 7?")
    return scope


def paths(app: Starlette, method: str) -> list[str]:
    """The paths of all endpoints that take a method."""
    return [
        route.path
        for route in app.routes
        if isinstance(route, Route) and method in (route.methods or ())
    ]
