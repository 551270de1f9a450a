"""A LangGraph server for everybody: each user's threads and store are theirs, and sealed.

Run it in this folder, with a root key as `langmem-isolated keygen --file` makes it::

    LANGMEM_ISOLATED_ROOT_KEY_FILE=../../root.key langgraph dev --no-browser

The server runs this file once for each name in langgraph.json; all of them share the database.
"""

import itertools
import os
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import GenericFakeChatModel
from langgraph_sdk import Auth

from langmem_isolated import IsolatedMemory
from langmem_isolated.langgraph_server import scope_of_user

# In place of your identity provider.
USERS = {"token of alice": "alice", "token of bob": "bob"}

auth = Auth()


@auth.authenticate
async def authenticate(authorization: str | None) -> Auth.types.MinimalUserDict:
    """Who calls; everything below stands on it."""
    user = USERS.get((authorization or "").removeprefix("Bearer "))
    if user is None:
        raise Auth.exceptions.HTTPException(status_code=401, detail="Who are you?")
    return {"identity": user, "display_name": user.title()}


@auth.on.threads
async def own_threads(ctx: Auth.types.AuthContext, value: dict[str, Any]) -> Auth.types.FilterType:
    """Filter for the server's own tables: it keeps each thread's last values there, for anybody."""
    owner = {"owner": ctx.user.identity}
    value.setdefault("metadata", {}).update(owner)
    return owner


memory = IsolatedMemory(
    os.environ.get("LANGMEM_ISOLATED_DATABASE", "sqlite:///memory.db"),
    # `user_id` is the server's: it puts the display name there when a thread is updated.
    config_keys={"user_id": "memory_user_id"},
)
scope_of = scope_of_user("assistant")
saver = memory.checkpointer(scope_resolver=scope_of)
store = memory.store(scope_resolver=scope_of)

graph = create_agent(
    # In place of your model.
    GenericFakeChatModel(messages=itertools.repeat("I have noted that.")),
    middleware=[memory.middleware(scope_resolver=scope_of)],
)
