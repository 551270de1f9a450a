"""The life of memory: what its owners and operators do with it over time."""

from langmem_isolated.lifecycle.ephemeral import EphemeralContext, EphemeralLife
from langmem_isolated.lifecycle.of_guests import AnonymousSessions
from langmem_isolated.lifecycle.of_memory import MemoryLifecycle
from langmem_isolated.lifecycle.of_scope import ScopeLifecycle
from langmem_isolated.lifecycle.transferred import NewName, Transferred
from langmem_isolated.lifecycle.verification import Verified, verified

__all__ = [
    "AnonymousSessions",
    "EphemeralContext",
    "EphemeralLife",
    "MemoryLifecycle",
    "NewName",
    "ScopeLifecycle",
    "Transferred",
    "Verified",
    "verified",
]
