"""Importers: move what other stores have into scopes, verified, and undone by one command."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langmem_isolated.importers.adoption import (
        Adopted,
        Adoption,
        AdoptionUndone,
        roll_back_adoption,
    )
    from langmem_isolated.importers.catalogue import (
        detect_source,
        source_specs,
    )
    from langmem_isolated.importers.dual_writing import (
        Difference,
        DualWriteReport,
        dual_write,
    )
    from langmem_isolated.importers.engine import (
        Import,
        Step,
    )
    from langmem_isolated.importers.langchain.chat_histories import (
        ChatHistorySource,
    )
    from langmem_isolated.importers.langgraph.checkpointer import (
        CheckpointerSource,
    )
    from langmem_isolated.importers.langgraph.store import (
        StoreSource,
    )
    from langmem_isolated.importers.mapping import (
        Field,
        Mapping,
        Owner,
        Target,
        Unmapped,
    )
    from langmem_isolated.importers.moving_out import (
        MovedOut,
        amove_out,
        move_out,
    )
    from langmem_isolated.importers.named_stores import (
        named_store,
    )
    from langmem_isolated.importers.people.openai_messages import (
        openai_message,
    )
    from langmem_isolated.importers.plan import (
        ImportPlan,
    )
    from langmem_isolated.importers.receipts import (
        ImportReceipt,
        ModuleCount,
    )
    from langmem_isolated.importers.registry import (
        SourceOption,
        SourceSpec,
    )
    from langmem_isolated.importers.source import (
        Source,
    )
    from langmem_isolated.importers.vector_stores import (
        VectorStoreSource,
    )
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
    "Adopted",
    "Adoption",
    "AdoptionUndone",
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
    "MovedOut",
    "Owner",
    "Rejected",
    "Source",
    "SourceOption",
    "SourceSpec",
    "Step",
    "StoreSource",
    "Target",
    "Unmapped",
    "VectorStoreSource",
    "amove_out",
    "detect_source",
    "dual_write",
    "move_out",
    "named_store",
    "openai_message",
    "roll_back_adoption",
    "source_specs",
]

# Loaded when they are asked for: the command line names every source and opens one.
_NAMES = {
    "importers.adoption": (
        "Adopted",
        "Adoption",
        "AdoptionUndone",
        "roll_back_adoption",
    ),
    "importers.catalogue": (
        "detect_source",
        "source_specs",
    ),
    "importers.dual_writing": (
        "Difference",
        "DualWriteReport",
        "dual_write",
    ),
    "importers.moving_out": (
        "MovedOut",
        "amove_out",
        "move_out",
    ),
    "importers.engine": (
        "Import",
        "Step",
    ),
    "importers.langchain.chat_histories": ("ChatHistorySource",),
    "importers.langgraph.checkpointer": ("CheckpointerSource",),
    "importers.langgraph.store": ("StoreSource",),
    "importers.mapping": (
        "Field",
        "Mapping",
        "Owner",
        "Target",
        "Unmapped",
    ),
    "importers.people.openai_messages": ("openai_message",),
    "importers.named_stores": ("named_store",),
    "importers.plan": ("ImportPlan",),
    "importers.receipts": (
        "ImportReceipt",
        "ModuleCount",
    ),
    "importers.registry": (
        "SourceOption",
        "SourceSpec",
    ),
    "importers.source": ("Source",),
    "importers.vector_stores": ("VectorStoreSource",),
    "lifecycle": (
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
    ),
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"langmem_isolated.{_HOMES[name]}"), name)
