"""A chat with accounts: one agent for everybody, answers streamed as server-sent events.

Run it from the root of the repository, as README.md in this folder says::

    uvicorn --factory examples.fastapi_sse.app:application
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, FastAPI, HTTPException, Request
from fastapi import Path as InPath
from fastapi.responses import StreamingResponse
from fastapi.staticfiles import StaticFiles
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from examples.fastapi_sse.answers import Answers, Busy
from examples.logins.accounts import Accounts
from examples.logins.routes import SCRIPTS, login_routes, user_of, with_policy
from examples.offline_model import model_of_environment
from langmem_isolated import IsolatedMemory, Scope, ScopedMemory
from langmem_isolated.admin import memory_app

MODULE = "chat"
PAGES = Path(__file__).with_name("static")

Text = Annotated[str, Body(embed=True, min_length=1, max_length=8_000)]
# ASCII: an id has at most 255 bytes, and of the spellings of Unicode one alone (NFC).
Conversation = Annotated[str, InPath(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]


def application(
    memory: IsolatedMemory | None = None,
    model: BaseChatModel | None = None,
    accounts: Accounts | None = None,
) -> FastAPI:
    """The application, as the environment describes it unless parts are given."""
    memory = memory or IsolatedMemory.from_environment()
    accounts = accounts or Accounts(os.environ.get("ACCOUNTS", "accounts.db"))
    answers = Answers()
    accounts.erase_with(memory)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await answers.finish()
        await memory.aclose()

    app = FastAPI(lifespan=lifespan)
    app.include_router(login_routes(accounts))
    app.include_router(conversations(memory, accounts, model or model_of_environment(), answers))
    app.mount("/memory", memory_app(memory, scope_of=partial(scope_of, accounts=accounts)))
    app.mount("/logins", SCRIPTS)
    app.mount("/", StaticFiles(directory=PAGES, html=True))
    app.middleware("http")(with_policy)
    return app


def scope_of(request: Request, accounts: Accounts) -> Scope | None:
    """Whose memory a request means: the session cookie says it, and nothing else does."""
    user_id = user_of(request, accounts)
    return None if user_id is None else Scope(user_id, MODULE)


def conversations(
    memory: IsolatedMemory, accounts: Accounts, model: BaseChatModel, answers: Answers
) -> APIRouter:
    """What a user sees, says and reads in their conversations."""
    routes = APIRouter(prefix="/conversations")
    # Compiled once. It has no memory of its own: `bind` gives each request its user's.
    agent = create_agent(
        model,
        tools=[memory.profile_tool()],
        middleware=[memory.middleware(recall=3, profile=True)],
    )

    def signed_in(request: Request) -> ScopedMemory:
        scope = scope_of(request, accounts)
        if scope is None:
            raise HTTPException(401)
        return memory.scope(scope)

    User = Annotated[ScopedMemory, Depends(signed_in)]  # noqa: N806 - a type

    @routes.get("")
    def listed(user: User) -> list[dict[str, Any]]:
        return [{"id": one.id, "title": one.title} for one in user.sessions(limit=100)]

    @routes.get("/{conversation}")
    def read(conversation: Conversation, user: User) -> list[dict[str, str]]:
        messages = user.chat_history(conversation).messages
        said = [one for one in messages if isinstance(one, HumanMessage | AIMessage) and one.text]
        return [{"role": one.type, "text": one.text} for one in said]

    @routes.post("/{conversation}")
    async def say(conversation: Conversation, text: Text, user: User) -> StreamingResponse:
        await user.sessions.acreate(conversation, title=text[:60])
        try:
            events = answers.begin((user.scope, conversation), parts(user, conversation, text))
        except Busy:
            raise HTTPException(409, "The answer before is still being written.") from None
        return StreamingResponse(events, media_type="text/event-stream")

    async def parts(user: ScopedMemory, conversation: str, text: str) -> AsyncIterator[str]:
        """The parts of an answer, as the model says them."""
        stream = user.bind(agent).astream(
            {"messages": [HumanMessage(text)]},
            config_of(user.scope, conversation),
            stream_mode="messages",
        )
        async for part, _ in stream:
            if isinstance(part, AIMessage) and part.text:
                yield part.text

    return routes


def config_of(scope: Scope, conversation: str) -> RunnableConfig:
    """A run's config: the scope comes from the session, the thread's id from the client.

    The bound graph checks that both mean the same user, and the agent's middleware and tools find
    the user here.
    """
    named = {"user_id": scope.user_id, "module_id": scope.module_id}
    return {"configurable": {**named, "thread_id": conversation}}
