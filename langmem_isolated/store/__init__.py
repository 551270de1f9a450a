"""Store of LangGraph: long-term memory of one scope, isolated and encrypted."""

from langmem_isolated.store.batch import Namespace
from langmem_isolated.store.semantic_index import StoreIndexConfig
from langmem_isolated.store.store import IsolatedStore

__all__ = ["IsolatedStore", "Namespace", "StoreIndexConfig"]
