"""The life of memory: what its owners and operators do with it over time."""

from langmem_isolated.lifecycle.of_memory import MemoryLifecycle
from langmem_isolated.lifecycle.of_scope import ScopeLifecycle
from langmem_isolated.lifecycle.profile import Profile
from langmem_isolated.lifecycle.verification import Verified, verified

__all__ = ["MemoryLifecycle", "Profile", "ScopeLifecycle", "Verified", "verified"]
