"""Logging in and out over HTTP, for the examples that are web applications."""

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Cookie, HTTPException, Request, Response
from fastapi.staticfiles import StaticFiles
from starlette.requests import HTTPConnection

from examples.logins.accounts import LOGIN_SECONDS, Accounts, NameTaken

# The script of the form, for the pages of both.
SCRIPTS = StaticFiles(directory=Path(__file__).with_name("static"))
# Pages load nothing from elsewhere, run no script but their own, and are in nobody's frame.
POLICY = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'"

Name = Annotated[str, Body(min_length=1, max_length=64, pattern=r"^[\w.-]+$")]
Password = Annotated[str, Body(min_length=8, max_length=200)]


def user_of(connection: HTTPConnection, accounts: Accounts) -> str | None:
    """Who asks, by the session cookie; nothing else in a request or a WebSocket names anybody."""
    return accounts.user_of(connection.cookies.get("session"))


def login_routes(accounts: Accounts) -> APIRouter:
    """Accounts, logins and logouts; `def`, because a hash takes its time in a thread."""
    routes = APIRouter()

    @routes.post("/register", status_code=201)
    def register(name: Name, password: Password, request: Request, response: Response) -> None:
        try:
            user_id = accounts.register(name, password)
        except NameTaken:
            raise HTTPException(409, "This name is taken.") from None
        _set_cookie(request, response, accounts.log_in(user_id))

    @routes.post("/login", status_code=204)
    def log_in(name: Name, password: Password, request: Request, response: Response) -> None:
        user_id = accounts.checked(name, password)
        if user_id is None:
            raise HTTPException(401, "Name or password is wrong.")
        _set_cookie(request, response, accounts.log_in(user_id))

    @routes.post("/logout", status_code=204)
    def log_out(response: Response, session: Annotated[str, Cookie()] = "") -> None:
        accounts.log_out(session)
        response.delete_cookie("session")

    @routes.get("/me")
    def me(request: Request) -> str:
        user_id = user_of(request, accounts)
        if user_id is None:
            raise HTTPException(401)
        return accounts.name_of(user_id) or ""

    return routes


async def with_policy(request: Request, call_next: Any) -> Response:
    """Every answer with the content security policy of the page, unless it has one of its own."""
    response: Response = await call_next(request)
    response.headers.setdefault("content-security-policy", POLICY)
    return response


def _set_cookie(request: Request, response: Response, token: str) -> None:
    """Hand a login to the browser: no script reads it, no other site sends it, HTTPS alone."""
    response.set_cookie(
        "session",
        token,
        max_age=LOGIN_SECONDS,
        httponly=True,
        samesite="strict",
        # But for a browser on the server's own machine, as when this is tried.
        secure=request.url.hostname not in {"localhost", "127.0.0.1"},
    )
