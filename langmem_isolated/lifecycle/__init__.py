"""The life of memory: what its owners and operators do with it over time."""

from langmem_isolated._adapters.quota import Quota
from langmem_isolated.lifecycle.isolation import ModuleIsolation
from langmem_isolated.lifecycle.of_memory import MemoryLifecycle
from langmem_isolated.lifecycle.of_scope import ScopeLifecycle
from langmem_isolated.lifecycle.quotas import Quotas
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
from langmem_isolated.lifecycle.verification import Verified, verified

__all__ = [
    "COUNTED",
    "NOT_COUNTED",
    "Day",
    "MemoryLifecycle",
    "ModuleIsolation",
    "ModuleStats",
    "Quota",
    "Quotas",
    "ScopeLifecycle",
    "ScopeStats",
    "Stats",
    "Tokens",
    "Totals",
    "Verified",
    "digest_of",
    "verified",
]
