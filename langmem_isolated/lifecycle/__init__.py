"""The life of memory: what its owners and operators do with it over time."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langmem_isolated.lifecycle.of_memory import MemoryLifecycle
from langmem_isolated.lifecycle.of_scope import ScopeLifecycle
from langmem_isolated.lifecycle.verification import Verified, verified

if TYPE_CHECKING:
    from langmem_isolated._adapters.quota import Quota
    from langmem_isolated.lifecycle.grants import Grant, Grants
    from langmem_isolated.lifecycle.holds import Hold
    from langmem_isolated.lifecycle.policies import Policy
    from langmem_isolated.lifecycle.profile import Profile
    from langmem_isolated.lifecycle.quotas import Quotas
    from langmem_isolated.lifecycle.retention import Retention
    from langmem_isolated.lifecycle.shared_memory import SharedMemory
    from langmem_isolated.lifecycle.statistics import (
        COUNTED,
        NOT_COUNTED,
        Day,
        ModuleStats,
        ScopeStats,
        Stats,
        Tokens,
        Totals,
        digest_of,
    )
    from langmem_isolated.lifecycle.sweeping import Swept
    from langmem_isolated.lifecycle.terms import SharedFields, SharedKind

__all__ = [
    "COUNTED",
    "NOT_COUNTED",
    "Day",
    "Grant",
    "Grants",
    "Hold",
    "MemoryLifecycle",
    "ModuleStats",
    "Policy",
    "Profile",
    "Quota",
    "Quotas",
    "Retention",
    "ScopeLifecycle",
    "ScopeStats",
    "SharedFields",
    "SharedKind",
    "SharedMemory",
    "Stats",
    "Swept",
    "Tokens",
    "Totals",
    "Verified",
    "digest_of",
    "verified",
]

# What operators ask for is loaded when they do.
_STATISTICS = ("COUNTED", "NOT_COUNTED", "Day", "ModuleStats", "ScopeStats", "Stats", "Tokens",
               "Totals", "digest_of")  # fmt: skip
_HOMES = {
    "Grant": "lifecycle.grants",
    "Grants": "lifecycle.grants",
    "Hold": "lifecycle.holds",
    "Policy": "lifecycle.policies",
    "Profile": "lifecycle.profile",
    "Quota": "_adapters.quota",
    "Quotas": "lifecycle.quotas",
    "Retention": "lifecycle.retention",
    "SharedFields": "lifecycle.terms",
    "SharedKind": "lifecycle.terms",
    "SharedMemory": "lifecycle.shared_memory",
    "Swept": "lifecycle.sweeping",
    **dict.fromkeys(_STATISTICS, "lifecycle.statistics"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"langmem_isolated.{_HOMES[name]}"), name)
