"""Importers: move what other stores have into scopes, verified, and undone by one command."""

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

__all__ = [
    "ChatHistorySource",
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
    "Target",
    "Unmapped",
    "detect_source",
    "openai_message",
    "source_specs",
]
