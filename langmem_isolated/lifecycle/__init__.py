"""The life of memory: what its owners and operators do with it over time."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from langmem_isolated.lifecycle.of_memory import MemoryLifecycle
from langmem_isolated.lifecycle.of_scope import ScopeLifecycle
from langmem_isolated.lifecycle.verification import Verified, verified

if TYPE_CHECKING:
    from langmem_isolated.lifecycle.holds import Hold
    from langmem_isolated.lifecycle.policies import Policy
    from langmem_isolated.lifecycle.retention import Retention
    from langmem_isolated.lifecycle.sweeping import Swept

__all__ = [
    "Hold",
    "MemoryLifecycle",
    "Policy",
    "Retention",
    "ScopeLifecycle",
    "Swept",
    "Verified",
    "verified",
]

# What operators ask for is loaded when they do.
_HOMES = {"Hold": "holds", "Policy": "policies", "Retention": "retention", "Swept": "sweeping"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name)
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
