"""Memory for LangChain and LangGraph that cannot leak between users: scoped and encrypted.

Make a root key once, outside the database; without it nothing can be read::

    langmem-isolated keygen --file root.key
    export LANGMEM_ISOLATED_ROOT_KEY_FILE=$PWD/root.key

Then one memory for the application, and a scope for each request. Everything made from a scope
reads and writes that user's memory in that module, and no other:

>>> from langgraph.graph import START, MessagesState, StateGraph
>>> from langmem_isolated import IsolatedMemory
>>> def answer(state):
...     heard = [message.text for message in state["messages"] if message.type == "human"]
...     return {"messages": [("ai", f"I have heard: {heard}")]}
>>> builder = StateGraph(MessagesState).add_node("answer", answer).add_edge(START, "answer")
>>> memory = IsolatedMemory("sqlite:///memory.db")  # or postgresql://user:password@host/name
>>> tutor = memory.scope(user_id="alice", module_id="tutor")
>>> config = {"configurable": {"thread_id": "chat-1"}}
>>> state = tutor.bind(builder.compile()).invoke({"messages": [("human", "Hi")]}, config)
>>> state["messages"][-1].text
"I have heard: ['Hi']"
>>> tutor.chat_history("monday").add_user_message("What is 6 times 7?")
>>> [said.text for said in tutor.recall("6 times what?", limit=1)]
['What is 6 times 7?']
>>> tutor.store().put(("facts",), "school", {"level": 3})
>>> memory.close()

Where one graph serves everybody, `memory.checkpointer()` and its like find the scope of each call.
What a scope makes is in `help(ScopedMemory)`, what a memory makes in `help(IsolatedMemory)`; guide,
operations and threat model are in the repository's ``docs/``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langmem_isolated._runtime.audit_options import AuditOptions
    from langmem_isolated._runtime.limits import Limits
    from langmem_isolated._runtime.session_rules import SessionRules
    from langmem_isolated.caches import IsolatedByteStore, IsolatedLLMCache
    from langmem_isolated.callbacks import IsolatedCallbackHandler
    from langmem_isolated.chat_history import IsolatedChatMessageHistory, Page
    from langmem_isolated.checkpointer import IsolatedCheckpointSaver, Thread
    from langmem_isolated.errors import LangmemIsolatedError
    from langmem_isolated.indexing import IsolatedRecordManager
    from langmem_isolated.lifecycle import AnchorFile, Fact, Overview, Profile, ProfileContents
    from langmem_isolated.memory import IsolatedMemory
    from langmem_isolated.publisher import Publisher
    from langmem_isolated.recall import Recalled
    from langmem_isolated.retriever import IsolatedBM25Retriever, IsolatedRetriever
    from langmem_isolated.root_keys import LocalRootKey, RootKey
    from langmem_isolated.scope import Scope
    from langmem_isolated.scoped_memory import ScopedMemory
    from langmem_isolated.sessions import Session, Sessions
    from langmem_isolated.store import IsolatedStore
    from langmem_isolated.vector_store import IsolatedVectorStore

__version__: str
"""The version that is installed."""

__all__ = [
    "AnchorFile",
    "AuditOptions",
    "Fact",
    "IsolatedBM25Retriever",
    "IsolatedByteStore",
    "IsolatedCallbackHandler",
    "IsolatedChatMessageHistory",
    "IsolatedCheckpointSaver",
    "IsolatedLLMCache",
    "IsolatedMemory",
    "IsolatedRecordManager",
    "IsolatedRetriever",
    "IsolatedStore",
    "IsolatedVectorStore",
    "LangmemIsolatedError",
    "Limits",
    "LocalRootKey",
    "Overview",
    "Page",
    "Profile",
    "ProfileContents",
    "Publisher",
    "Recalled",
    "RootKey",
    "Scope",
    "ScopedMemory",
    "Session",
    "SessionRules",
    "Sessions",
    "Thread",
    "__version__",
]

# Where each public name is had from, when it is first asked for (PEP 562).
_HOMES = {
    "_runtime.audit_options": ("AuditOptions",),
    "_runtime.limits": ("Limits",),
    "_runtime.session_rules": ("SessionRules",),
    "caches": (
        "IsolatedByteStore",
        "IsolatedLLMCache",
    ),
    "callbacks": ("IsolatedCallbackHandler",),
    "chat_history": (
        "IsolatedChatMessageHistory",
        "Page",
    ),
    "checkpointer": (
        "IsolatedCheckpointSaver",
        "Thread",
    ),
    "errors": ("LangmemIsolatedError",),
    "indexing": ("IsolatedRecordManager",),
    "lifecycle": (
        "AnchorFile",
        "Fact",
        "Overview",
        "Profile",
        "ProfileContents",
    ),
    "memory": ("IsolatedMemory",),
    "publisher": ("Publisher",),
    "recall": ("Recalled",),
    "retriever": (
        "IsolatedBM25Retriever",
        "IsolatedRetriever",
    ),
    "root_keys": (
        "LocalRootKey",
        "RootKey",
    ),
    "scope": ("Scope",),
    "scoped_memory": ("ScopedMemory",),
    "sessions": (
        "Session",
        "Sessions",
    ),
    "store": ("IsolatedStore",),
    "vector_store": ("IsolatedVectorStore",),
}
_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("langmem-isolated")
    if name not in _MODULE_OF:
        raise AttributeError(
            f"module {__name__!r} has no attribute {name!r}. {_nearest(name)}", name=name
        )
    found = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    globals()[name] = found
    return found


def _nearest(name: str) -> str:
    """What is there instead of a name that is not."""
    from difflib import get_close_matches

    if name.startswith("_"):
        return ""
    near = get_close_matches(name, __all__, n=2, cutoff=0.5)
    expected = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{expected}All public names are in langmem_isolated.__all__."


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
