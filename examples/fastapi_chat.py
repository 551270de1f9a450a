"""One agent for everybody behind FastAPI: authentication says who speaks, answers are streamed.

Run it with the root key in the environment::

    export LANGMEM_ISOLATED_ROOT_KEY=$(langmem-isolated keygen)
    uvicorn --factory examples.fastapi_chat:application
    curl -N localhost:8000/threads/1 -H "authorization: Bearer token of alice" --json '"Hello"'
"""

import itertools
import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Body, Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import HumanMessage
from langchain_core.runnables import RunnableConfig

from langmem_isolated import IsolatedMemory, ScopedMemory

# In place of your identity provider, and of your model.
USERS = {"Bearer token of alice": "alice", "Bearer token of bob": "bob"}
MODEL = GenericFakeChatModel(messages=itertools.repeat("I have noted that."))


def application(memory: IsolatedMemory | None = None, model: BaseChatModel = MODEL) -> FastAPI:
    """The application, with memory as the environment describes it unless another is given."""
    memory = memory or IsolatedMemory.from_environment()
    app = FastAPI()
    agent = create_agent(
        model, middleware=[memory.middleware()], checkpointer=memory.checkpointer()
    )

    def authenticated(authorization: Annotated[str, Header()] = "") -> ScopedMemory:
        """The memory of who calls; nothing else in a request names a user."""
        if authorization not in USERS:
            raise HTTPException(401)
        return memory.scope(user_id=USERS[authorization], module_id="chat")

    @app.post("/threads/{thread_id}")
    async def say(
        thread_id: str,
        text: Annotated[str, Body()],
        user: Annotated[ScopedMemory, Depends(authenticated)],
    ) -> StreamingResponse:
        config = config_of(user, thread_id)

        async def answer() -> AsyncIterator[str]:
            said = {"messages": [HumanMessage(text)]}
            async for part, _ in agent.astream(said, config, stream_mode="messages"):
                yield f"data: {json.dumps(part.text)}\n\n"

        return StreamingResponse(answer(), media_type="text/event-stream")

    @app.get("/threads/{thread_id}")
    async def read(
        thread_id: str, user: Annotated[ScopedMemory, Depends(authenticated)]
    ) -> list[str]:
        state = await agent.aget_state(config_of(user, thread_id))
        return [message.text for message in state.values.get("messages", [])]

    return app


def config_of(user: ScopedMemory, thread_id: str) -> RunnableConfig:
    """A run's config: the scope comes from authentication, the thread's id from the client."""
    scope = {"user_id": user.scope.user_id, "module_id": user.scope.module_id}
    return {"configurable": {**scope, "thread_id": thread_id}}
