"""Endpoints: who asks, what was sent, and one page or one action."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any, Generic, TypeVar

from markupsafe import escape
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from langmem_isolated.admin.web.failures import failure
from langmem_isolated.admin.web.forms import TOKEN_FIELD, form_of, token_of
from langmem_isolated.admin.web.signing import Signer
from langmem_isolated.admin.web.templates import rendered

Who = TypeVar("Who")

CONFIRMED = "confirmed"


@dataclass(frozen=True, slots=True)
class Visit(Generic[Who]):
    """A request of somebody who was authenticated; what was sent is not in the ``repr``."""

    request: Request = field(repr=False)
    who: Who = field(repr=False)
    subject: str = field(repr=False)
    """Who it is, for tokens; never in a page or a log."""
    signer: Signer = field(repr=False)
    shown: Mapping[str, Any] = field(repr=False)
    """What every template of this application gets."""
    form: Mapping[str, str] = field(repr=False)
    """What was sent by POST, empty by GET."""

    @property
    def is_confirmed(self) -> bool:
        """Whether the form came from a page that asked whether it is meant."""
        return self.form.get(CONFIRMED) == "yes"

    def path(self, name: str, **parts: Any) -> str:
        """The path of an endpoint of this application, wherever it is mounted."""
        # `url_for` asks the outermost application, whose endpoints may have the same names.
        base: str = self.request.scope.get("root_path", "")
        return base + str(self.request.app.url_path_for(name, **parts))

    def page(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """A page of HTML; ``values`` are what its template shows."""
        shown = {
            **self.shown,
            **values,
            "base": self.request.scope.get("root_path", ""),
            "path": self.path,
            "csrf_field": TOKEN_FIELD,
            "csrf_token": self.signer.csrf_token(self.subject),
        }
        return HTMLResponse(rendered(template, shown), status_code=status)

    def ask(
        self, title: str, *, consequences: list[str], button: str, cancel: str | None = None
    ) -> HTMLResponse:
        """A page that asks whether what was sent is meant, and sends the same again if so.

        Args:
            title: What is asked.
            consequences: What will be then, a sentence each.
            button: What to press if so.
            cancel: The path for whoever does not mean it; by default that of the first page.
        """
        sent = ((name, value) for name, value in self.form.items() if name != TOKEN_FIELD)
        # As markup: with its marks written out, as on a page, an id would be another.
        kept = {escape(name): escape(value) for name, value in sent}
        return self.page(
            "confirm.html", title=title, consequences=consequences, button=button, kept=kept,
            cancel=cancel,
        )  # fmt: skip

    def back(self, name: str, **parts: Any) -> RedirectResponse:
        """To another page by GET, so that to load it anew does nothing again (303)."""
        return RedirectResponse(self.path(name, **parts), status_code=303)


Handler = Callable[[Visit[Who]], Response]
Find = Callable[[Request], Who | Awaitable[Who | None] | None]


@dataclass(frozen=True, slots=True)
class Endpoints(Generic[Who]):
    """What turns handlers of pages into routes: authentication, CSRF check, errors.

    Handlers are synchronous and run in a thread; a POST reaches them only with a CSRF token that
    was made for whoever asks.

    Args:
        find: Who asks, by the request; ``None`` for nobody, which is answered with 401.
        subject_of: A text that is one person's alone, for tokens.
        signer: Makes and checks the tokens.
        shown: What every template gets.
    """

    find: Find[Who] = field(repr=False)
    subject_of: Callable[[Who], str] = field(repr=False)
    signer: Signer = field(repr=False)
    shown: Mapping[str, Any] = field(repr=False)

    def get(self, path: str, handler: Handler[Who], name: str) -> Route:
        """A page; asking for it changes nothing."""
        return Route(path, self._endpoint(handler), methods=["GET"], name=name)

    def post(self, path: str, handler: Handler[Who], name: str) -> Route:
        """An action."""
        return Route(path, self._endpoint(handler), methods=["POST"], name=name)

    def _endpoint(self, handler: Handler[Who]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                return await run_in_threadpool(handler, await self._visit(request))
            except Exception as error:  # noqa: BLE001 - past this servers log its text
                return failure(request, error, self.shown)

        return answer

    async def _visit(self, request: Request) -> Visit[Who]:
        who = await self._who(request)
        subject = self.subject_of(who)
        form: Mapping[str, str] = {}
        if request.method == "POST":
            form = await form_of(request)
            if not self.signer.is_csrf_token(subject, token_of(request, form)):
                raise HTTPException(
                    403, "This form is too old, or not from this page. Load the page anew."
                )
        return Visit(request, who, subject, self.signer, self.shown, form)

    async def _who(self, request: Request) -> Who:
        found = self.find(request)
        who = await found if isawaitable(found) else found
        if who is None:
            raise HTTPException(401, "You are not logged in.")
        return who
