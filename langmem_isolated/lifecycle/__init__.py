"""The life of memory: what its owners and operators do with it over time."""

from langmem_isolated.lifecycle.comparison import (
    ComparedRow,
    ModuleComparison,
    ModuleKnowledge,
    SessionSummary,
)
from langmem_isolated.lifecycle.ephemeral import EphemeralContext, EphemeralLife
from langmem_isolated.lifecycle.grants import Grant, Grants
from langmem_isolated.lifecycle.merge_values import (
    MergeConflicts,
    MergePlan,
    MergeReceipt,
    Named,
    ReceiptNotFound,
    Undone,
)
from langmem_isolated.lifecycle.of_guests import AnonymousSessions
from langmem_isolated.lifecycle.of_memory import MemoryLifecycle
from langmem_isolated.lifecycle.of_scope import ScopeLifecycle
from langmem_isolated.lifecycle.overview import Overview
from langmem_isolated.lifecycle.profile import Profile
from langmem_isolated.lifecycle.profile_reader import ProfileReader
from langmem_isolated.lifecycle.profile_values import (
    Fact,
    FactSource,
    Interest,
    ProfileCleared,
    ProfileContents,
    ProfileEntryChanged,
    ProfileEntryNotFound,
)
from langmem_isolated.lifecycle.shared_memory import SharedMemory
from langmem_isolated.lifecycle.terms import NotShared, SharedFields, SharedKind
from langmem_isolated.lifecycle.transferred import NewName, Transferred
from langmem_isolated.lifecycle.verification import Verified, verified

__all__ = [
    "AnonymousSessions",
    "ComparedRow",
    "EphemeralContext",
    "EphemeralLife",
    "Fact",
    "FactSource",
    "Grant",
    "Grants",
    "Interest",
    "MemoryLifecycle",
    "MergeConflicts",
    "MergePlan",
    "MergeReceipt",
    "ModuleComparison",
    "ModuleKnowledge",
    "Named",
    "NewName",
    "NotShared",
    "Overview",
    "Profile",
    "ProfileCleared",
    "ProfileContents",
    "ProfileEntryChanged",
    "ProfileEntryNotFound",
    "ProfileReader",
    "ReceiptNotFound",
    "ScopeLifecycle",
    "SessionSummary",
    "SharedFields",
    "SharedKind",
    "SharedMemory",
    "Transferred",
    "Undone",
    "Verified",
    "verified",
]
