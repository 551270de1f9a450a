"""The memory of somebody who has not logged in."""

from langmem_isolated.lifecycle import OneModule
from langmem_isolated.scope import AnonymousScope
from langmem_isolated.scoped_memory.memory import ScopedMemory


class AnonymousMemory(OneModule, ScopedMemory):
    """The memory of somebody who has not logged in, as ``memory.anonymous(…)`` gives it.

    All that a scope has of its own works on it. It raises `AnonymousNotFound` once it has expired
    or was claimed, whoever did that.
    """

    _scope: AnonymousScope
    _called = "An anonymous session"
    _another = "Begin one there: memory.anonymous(module_id=…)."
    _shared = ": a claim takes it along"

    @property
    def id(self) -> str:
        """128 random bits, 22 characters: who has them has this memory. Never log it."""
        return self._scope.guest
