"""Importers: move what other stores have into scopes, verified, and undone by one command."""

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
    "Rejected",
    "Source",
    "SourceOption",
    "SourceSpec",
]
