"""Importers: move what other stores have into scopes, verified, and undone by one command."""

from langmem_isolated.importers.langchain.chat_histories import ChatHistorySource
from langmem_isolated.importers.mapping import Field, Mapping, Owner, Target, Unmapped
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
    "Mapping",
    "Owner",
    "Rejected",
    "Source",
    "SourceOption",
    "SourceSpec",
    "Target",
    "Unmapped",
]
