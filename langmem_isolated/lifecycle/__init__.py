"""The life of memory: what its owners and operators do with it over time."""

from langmem_isolated.lifecycle.comparison import (
    ComparedRow,
    ModuleComparison,
    ModuleKnowledge,
    SessionSummary,
)
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
    ProfileFull,
)
from langmem_isolated.lifecycle.verification import Verified, verified

__all__ = [
    "ComparedRow",
    "Fact",
    "FactSource",
    "Interest",
    "MemoryLifecycle",
    "ModuleComparison",
    "ModuleKnowledge",
    "Overview",
    "Profile",
    "ProfileCleared",
    "ProfileContents",
    "ProfileEntryChanged",
    "ProfileEntryNotFound",
    "ProfileFull",
    "ProfileReader",
    "ScopeLifecycle",
    "SessionSummary",
    "Verified",
    "verified",
]
