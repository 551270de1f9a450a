"""Memory for LangChain and LangGraph that cannot leak between users: scoped and encrypted."""

from importlib.metadata import version

from langmem_isolated.caches import IsolatedByteStore, IsolatedLLMCache
from langmem_isolated.callbacks import IsolatedCallbackHandler
from langmem_isolated.chat_history import IsolatedChatMessageHistory, Page
from langmem_isolated.checkpointer import IsolatedCheckpointSaver, Thread
from langmem_isolated.errors import LangmemIsolatedError
from langmem_isolated.indexing import IsolatedRecordManager
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

__version__ = version("langmem-isolated")

__all__ = [
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
    "LocalRootKey",
    "Page",
    "Publisher",
    "Recalled",
    "RootKey",
    "Scope",
    "ScopedMemory",
    "Session",
    "Sessions",
    "Thread",
]
