"""Importers: move what other stores have into scopes, verified, and undone by one command."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

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

__all__ = [
    "Difference",
    "DualWriteReport",
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
    "dual_write",
]

# Loaded when they are asked for: what names sources alone is to be cheap.
_HOMES = {
    "Difference": "dual_writing",
    "DualWriteReport": "dual_writing",
    "dual_write": "dual_writing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
