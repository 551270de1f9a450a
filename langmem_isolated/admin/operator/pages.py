"""Pages and actions: one table of them makes the routes, the JSON beside each page, and OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from datetime import date, timedelta
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from langmem_isolated.admin.operator.jobs import Jobs, Work
from langmem_isolated.admin.web.endpoints import Endpoints, Handler, Visit
from langmem_isolated.errors import LangmemIsolatedError
from langmem_isolated.memory import IsolatedMemory

API = "/api"


@dataclass(frozen=True, slots=True)
class Here:
    """What every page stands on."""

    memory: IsolatedMemory
    jobs: Jobs

    def begin(
        self, visit: Visit[str], kind: str, work: Work, *, can_stop: bool = True
    ) -> RedirectResponse:
        """Begin a job in the name of who asks, and go to its page."""
        reason = visit.form.get("reason", "").strip() or None

        def named(progress: Callable[[int], None]) -> Any:
            with self.memory.audit.acting_as(visit.who, reason):
                return work(progress)

        job = self.jobs.start(kind, visit.who, named, can_stop=can_stop)
        return visit.back("job", job=job.id)


@dataclass(frozen=True, slots=True)
class Page:
    """A page that is read, and the same as JSON.

    Args:
        path: Below the application; in braces what stands for something.
        name: Of its route; that of the JSON is ``api_…``.
        title: What it is called.
        found: What it shows, of the type that ``shown`` names.
        shown: A dataclass; its fields are the JSON, and described in OpenAPI.
        api: The path of the JSON below ``/api``, where it is another.
    """

    path: str
    name: str
    title: str
    found: Callable[[Here, Visit[str]], Any]
    shown: type
    api: str = ""

    @property
    def api_path(self) -> str:
        """The path of its JSON."""
        return API + (self.api or self.path)

    @property
    def template(self) -> str:
        """The template of its HTML."""
        return f"operator/{self.name}.html"

    def routes(self, pages: Endpoints[str], here: Here) -> Iterator[Route]:
        """Its route and that of its JSON."""

        def page(visit: Visit[str]) -> Response:
            it = self.found(here, visit)
            return visit.page(self.template, title=self.title, current=self.name, it=it)

        def answer(visit: Visit[str]) -> Response:
            return as_json(self.found(here, visit))

        yield pages.get(self.path, acting(here, page), self.name)
        yield pages.get(self.api_path, acting(here, answer), f"api_{self.name}")


@dataclass(frozen=True, slots=True)
class Asked:
    """What an action asks before it is done."""

    title: str
    consequences: list[str]
    button: str


@dataclass(frozen=True, slots=True)
class Action:
    """Something that is done by POST; one with ``asks`` asks first whether it is meant.

    Without ``asks`` are a search, and reading what a permission is there for.
    """

    path: str
    name: str
    done: Callable[[Here, Visit[str]], Response]
    asks: Callable[[Here, Visit[str]], Asked] | None = None

    def routes(self, pages: Endpoints[str], here: Here) -> Iterator[Route]:
        """Its route."""

        def act(visit: Visit[str]) -> Response:
            if self.asks is not None and not visit.is_confirmed:
                asked = self.asks(here, visit)
                return visit.ask(
                    asked.title, consequences=asked.consequences, button=asked.button,
                    cancel=self._page_before(visit),
                )  # fmt: skip
            return self.done(here, visit)

        yield pages.post(self.path, acting(here, act), self.name)

    def _page_before(self, visit: Visit[str]) -> str:
        """The path of the page that has the form: of the one user, or of all of a kind."""
        parts = self.path.split("/")[: 3 if "{" in self.path else 2]
        base: str = visit.request.scope.get("root_path", "")
        return base + "/".join(parts).format_map(visit.request.path_params)


def routes_of(table: Sequence[Page | Action], pages: Endpoints[str], here: Here) -> Iterator[Route]:
    """The routes of all of them."""
    for one in table:
        yield from one.routes(pages, here)


def acting(here: Here, handler: Handler[str]) -> Handler[str]:
    """The same, in the name of who asks, for the audit log."""

    def named(visit: Visit[str]) -> Response:
        reason = visit.form.get("reason", "").strip() or None
        with ExitStack() as stack:
            with as_input():
                stack.enter_context(here.memory.audit.acting_as(visit.who, reason))
            return handler(visit)

    return named


@contextmanager
def as_input() -> Iterator[None]:
    """Answers what a form says and cannot be meant with 400, and why.

    Only around calls that check what they are given: their messages have no content.
    """
    try:
        yield
    except LangmemIsolatedError:
        raise
    except (TypeError, ValueError) as error:
        raise HTTPException(400, str(error)) from None


def text_of(visit: Visit[str], name: str) -> str | None:
    """A field of a form without the spaces around it; ``None`` where it is empty."""
    return visit.form.get(name, "").strip() or None


def required(visit: Visit[str], name: str) -> str:
    """A field that must be there.

    Raises:
        HTTPException: 400 where it is empty.
    """
    found = text_of(visit, name)
    if found is None:
        raise HTTPException(400, f"{name} is empty. Nothing was done.")
    return found


def number_of(visit: Visit[str], name: str) -> int | None:
    """A field that is a whole number of 1 or more; ``None`` where it is empty.

    Raises:
        HTTPException: 400 where it is another, or none.
    """
    found = text_of(visit, name)
    if found is None:
        return None
    is_digits = found.isascii() and found.isdigit() and len(found) <= 10  # noqa: PLR2004 - any int
    if not is_digits or int(found) < 1:
        raise HTTPException(
            400,
            f"{name} must be a whole number of 1 or more, got {len(found)} characters that are "
            "none. Nothing was done.",
        )
    return int(found)


def as_json(value: Any) -> Response:
    """A dataclass as JSON, with times in UTC as ISO 8601."""
    text = json.dumps(plain(value), default=_plain)
    return Response(text, media_type="application/json")


def plain(value: Any) -> Any:
    """Dataclasses as dicts."""
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value


def _plain(value: object) -> Any:
    if isinstance(value, date):
        return value.isoformat().replace("+00:00", "Z")
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)
