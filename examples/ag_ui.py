"""One graph for everybody behind AG-UI's adapter: authentication says whose memory a run has.

Run it from the root of the repository::

    langmem-isolated keygen --file root.key
    LANGMEM_ISOLATED_ROOT_KEY_FILE=root.key uvicorn --factory examples.ag_ui:application
"""

import itertools
from collections.abc import AsyncIterator
from typing import Annotated

from ag_ui.core import RunAgentInput
from ag_ui.encoder import EventEncoder
from ag_ui_langgraph import LangGraphAgent
from fastapi import Depends, FastAPI, Header, HTTPException
from fastapi.responses import StreamingResponse
from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel

from langmem_isolated import IsolatedMemory

# In place of your identity provider, and of your model.
USERS = {"Bearer token of alice": "alice", "Bearer token of bob": "bob"}
MODEL = GenericFakeChatModel(messages=itertools.repeat("I have noted that."))


def application(memory: IsolatedMemory | None = None, model: BaseChatModel = MODEL) -> FastAPI:
    """The application, with memory as the environment describes it unless another is given."""
    memory = memory or IsolatedMemory.from_environment()
    app = FastAPI()
    graph = create_agent(
        model, middleware=[memory.middleware()], checkpointer=memory.checkpointer()
    )

    def authenticated(authorization: Annotated[str, Header()] = "") -> dict[str, str]:
        """What names the memory of who calls; nothing else in a request does."""
        if authorization not in USERS:
            raise HTTPException(401)
        return {"user_id": USERS[authorization], "module_id": "chat"}

    @app.post("/")
    async def run(
        asked: RunAgentInput, scope: Annotated[dict[str, str], Depends(authenticated)]
    ) -> StreamingResponse:
        # The adapter keeps the state of its run: one for each request, around the one graph.
        agent = LangGraphAgent(name="chat", graph=graph, config={"configurable": scope})
        encoder = EventEncoder()

        async def events() -> AsyncIterator[str]:
            async for event in agent.run(asked):
                yield encoder.encode(event)

        return StreamingResponse(events(), media_type=encoder.get_content_type())

    return app
