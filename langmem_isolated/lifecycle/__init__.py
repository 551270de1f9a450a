"""The life of memory: what its owners and operators do with it over time."""

from langmem_isolated.lifecycle.grants import Grant, Grants
from langmem_isolated.lifecycle.of_memory import MemoryLifecycle
from langmem_isolated.lifecycle.of_scope import ScopeLifecycle
from langmem_isolated.lifecycle.profile import Profile
from langmem_isolated.lifecycle.shared_memory import SharedMemory
from langmem_isolated.lifecycle.terms import SharedFields, SharedKind
from langmem_isolated.lifecycle.verification import Verified, verified

__all__ = [
    "Grant",
    "Grants",
    "MemoryLifecycle",
    "Profile",
    "ScopeLifecycle",
    "SharedFields",
    "SharedKind",
    "SharedMemory",
    "Verified",
    "verified",
]
