"""Wraps third-party vector stores, so that scopes can share one and none sees another's."""

from langmem_isolated._adapters.vector_store_base import Found
from langmem_isolated.wrapping.adapters import (
    Hit,
    PostFilterAdapter,
    StandardAdapter,
    Stored,
    VectorRows,
    VectorStoreAdapter,
)
from langmem_isolated.wrapping.clearing import all_owned, any_adapter, clear_owner
from langmem_isolated.wrapping.filter_conditions import AnyOf, Condition, OneOf, Within, conditions
from langmem_isolated.wrapping.unowned import Unowned
from langmem_isolated.wrapping.vector_store import WrappedVectorStore

__all__ = [
    "AnyOf",
    "Condition",
    "Found",
    "Hit",
    "OneOf",
    "PostFilterAdapter",
    "StandardAdapter",
    "Stored",
    "Unowned",
    "VectorRows",
    "VectorStoreAdapter",
    "Within",
    "WrappedVectorStore",
    "all_owned",
    "any_adapter",
    "clear_owner",
    "conditions",
]
