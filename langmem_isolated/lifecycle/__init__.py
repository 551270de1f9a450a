"""The life of memory: what its owners and operators do with it over time."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langmem_isolated.lifecycle.of_memory import MemoryLifecycle
from langmem_isolated.lifecycle.of_scope import ScopeLifecycle
from langmem_isolated.lifecycle.verification import Verified, verified

if TYPE_CHECKING:
    from langmem_isolated._adapters.quota import Quota
    from langmem_isolated.lifecycle.holds import Hold
    from langmem_isolated.lifecycle.policies import Policy
    from langmem_isolated.lifecycle.quotas import Quotas
    from langmem_isolated.lifecycle.retention import Retention
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

__all__ = [
    "COUNTED",
    "NOT_COUNTED",
    "Day",
    "Hold",
    "MemoryLifecycle",
    "ModuleStats",
    "Policy",
    "Quota",
    "Quotas",
    "Retention",
    "ScopeLifecycle",
    "ScopeStats",
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
    "Hold": "lifecycle.holds",
    "Policy": "lifecycle.policies",
    "Quota": "_adapters.quota",
    "Quotas": "lifecycle.quotas",
    "Retention": "lifecycle.retention",
    "Swept": "lifecycle.sweeping",
    **dict.fromkeys(_STATISTICS, "lifecycle.statistics"),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"langmem_isolated.{_HOMES[name]}"), name)
