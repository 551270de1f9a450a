"""Importers: move what other stores have into scopes, verified, and undone by one command."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langmem_isolated.importers.catalogue import detect_source, source_specs
from langmem_isolated.importers.engine import Import, Step
from langmem_isolated.importers.langchain.chat_histories import ChatHistorySource
from langmem_isolated.importers.mapping import Field, Mapping, Owner, Target, Unmapped
from langmem_isolated.importers.people.openai_messages import openai_message
from langmem_isolated.importers.plan import ImportPlan
from langmem_isolated.importers.receipts import ImportReceipt, ModuleCount
from langmem_isolated.importers.registry import SourceOption, SourceSpec
from langmem_isolated.importers.source import Source
from langmem_isolated.lifecycle import (
    ForeignCheckpoint,
    ForeignDocument,
    ForeignFact,
    ForeignItem,
    ForeignMessage,
    ForeignProfile,
    ForeignSession,
    ForeignThread,
    ForeignUnit,
    ForeignWrite,
    Rejected,
)

if TYPE_CHECKING:
    from langmem_isolated.importers.dual_writing import Difference, DualWriteReport, dual_write
    from langmem_isolated.importers.langgraph.checkpointer import CheckpointerSource
    from langmem_isolated.importers.langgraph.store import StoreSource

__all__ = [
    "ChatHistorySource",
    "CheckpointerSource",
    "Difference",
    "DualWriteReport",
    "Field",
    "ForeignCheckpoint",
    "ForeignDocument",
    "ForeignFact",
    "ForeignItem",
    "ForeignMessage",
    "ForeignProfile",
    "ForeignSession",
    "ForeignThread",
    "ForeignUnit",
    "ForeignWrite",
    "Import",
    "ImportPlan",
    "ImportReceipt",
    "Mapping",
    "ModuleCount",
    "Owner",
    "Rejected",
    "Source",
    "SourceOption",
    "SourceSpec",
    "Step",
    "StoreSource",
    "Target",
    "Unmapped",
    "detect_source",
    "dual_write",
    "openai_message",
    "source_specs",
]

# Loaded when they are asked for: what names sources alone is to be cheap.
_HOMES = {
    "CheckpointerSource": "langgraph.checkpointer",
    "StoreSource": "langgraph.store",
    "Difference": "dual_writing",
    "DualWriteReport": "dual_writing",
    "dual_write": "dual_writing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
