"""A chat before the login: a cookie holds the guest, and the user says whether it was them.

Run it from the root of the repository, behind HTTPS (the cookies are `Secure`)::

    langmem-isolated keygen --file root.key
    LANGMEM_ISOLATED_ROOT_KEY_FILE=root.key uvicorn --factory examples.anonymous_chat:application

Logging in claims nothing. A link that logs a visitor into the account of whoever planted it would
else collect what the visitor said before; so the page asks "Was this you?" and sends the answer to
`/claim`, where cookie of the guest, cookie of the login and the answer come in one request. The
cookies are `SameSite=Strict`: no other site can send that request.
"""

import itertools
import secrets
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Body, Cookie, Depends, FastAPI, HTTPException, Response
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, Scope, ScopedMemory
from langmem_isolated.errors import AnonymousNotFound

# In place of your identity provider, and of your model.
PASSWORDS = {"alice": "wonderland", "bob": "builder"}
MODEL = GenericFakeChatModel(messages=itertools.repeat("I have noted that."))

MODULE, THREAD = "chat", {"configurable": {"thread_id": "chat"}}
IDLE = timedelta(days=7)
# The id of a guest is as good as a password: no script and no other site gets it, nor plain HTTP.
COOKIE: dict[str, Any] = {"httponly": True, "secure": True, "samesite": "strict", "path": "/"}
Kept = Annotated[str | None, Cookie()]


class Logins:
    """Who is logged in, by a random cookie; a request names nobody by itself."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def begin(self, name: str, password: str) -> str:
        """The cookie of who has the password, or 401."""
        known = PASSWORDS.get(name)
        if known is None or not secrets.compare_digest(known.encode(), password.encode()):
            raise HTTPException(401)
        login = secrets.token_urlsafe(16)
        self._names[login] = name
        return login

    def end(self, login: str | None) -> None:
        """Let a cookie stand for nobody."""
        self._names.pop(login or "", None)

    def __call__(self, login: Kept = None) -> Scope | None:
        """The scope of who is logged in, as a dependency."""
        name = self._names.get(login or "")
        return None if name is None else Scope(name, MODULE)


def application(memory: IsolatedMemory | None = None, model: BaseChatModel = MODEL) -> FastAPI:
    """The application, with memory as the environment describes it unless another is given."""
    memory = memory or IsolatedMemory.from_environment()
    app, logins = FastAPI(), Logins()
    app.include_router(talks(memory, logins, model))
    app.include_router(logging_in(memory, logins))
    app.include_router(claims(memory, logins))
    return app


def talks(memory: IsolatedMemory, logins: Logins, model: BaseChatModel) -> APIRouter:
    """What a user and a guest may do alike."""
    routes, agent = APIRouter(), create_agent(model)

    async def who_talks(
        scope: Annotated[Scope | None, Depends(logins)], response: Response, guest: Kept = None
    ) -> ScopedMemory:
        """The user's memory, or the guest's, who is made where there is none or it is over."""
        if scope is not None:
            return memory.scope(scope)
        try:
            return await memory.arecover(guest or "")
        except AnonymousNotFound:
            made = await memory.aanonymous(module_id=MODULE, idle=IDLE)
            response.set_cookie("guest", made.id, max_age=int(IDLE.total_seconds()), **COOKIE)
            return made

    @routes.post("/chat")
    async def say(
        text: Annotated[str, Body(embed=True)], who: Annotated[ScopedMemory, Depends(who_talks)]
    ) -> str:
        state = await who.bind(agent).ainvoke({"messages": [HumanMessage(text)]}, THREAD)
        return str(state["messages"][-1].text)

    @routes.get("/chat")
    async def read(who: Annotated[ScopedMemory, Depends(who_talks)]) -> list[str]:
        state = await who.bind(agent).aget_state(THREAD)
        return [message.text for message in state.values.get("messages", [])]

    return routes


def logging_in(memory: IsolatedMemory, logins: Logins) -> APIRouter:
    """Login and logout; neither claims anything."""
    routes = APIRouter()

    @routes.post("/login")
    async def log_in(
        name: Annotated[str, Body()],
        password: Annotated[str, Body()],
        response: Response,
        guest: Kept = None,
    ) -> dict[str, bool]:
        response.set_cookie("login", logins.begin(name, password), **COOKIE)
        try:
            await memory.arecover(guest or "")
        except AnonymousNotFound:
            return {"ask_whose_it_is": False}
        return {"ask_whose_it_is": True}

    @routes.post("/logout")
    async def log_out(response: Response, login: Kept = None) -> None:
        logins.end(login)
        response.delete_cookie("login", **COOKIE)

    return routes


def claims(memory: IsolatedMemory, logins: Logins) -> APIRouter:
    """The user's answer to "Was this you?"."""
    routes = APIRouter()

    @routes.post("/claim")
    async def claim(
        was_me: Annotated[bool, Body(embed=True)],
        scope: Annotated[Scope | None, Depends(logins)],
        response: Response,
        guest: Kept = None,
    ) -> dict[str, int]:
        if scope is None:
            raise HTTPException(401)
        response.delete_cookie("guest", **COOKIE)
        if not was_me:
            return {}
        try:
            claimed = await memory.aclaim(guest or "", scope, confirmed=True)
        except AnonymousNotFound:
            raise HTTPException(404) from None
        return dict(claimed.counts)

    return routes
