"""One module: memory that is of one module alone, and refuses what leads to others."""

from __future__ import annotations

from typing import ClassVar, NoReturn

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import ScopeError


class OneModule:
    """A memory of one module: what stood elsewhere would be lost when it is claimed or kept."""

    _called: ClassVar[str]
    """What it is, as a message begins with."""
    _another: ClassVar[str]
    """How one of another module is had."""
    _shared: ClassVar[str]
    """What to write instead of what all modules share."""

    def module(self, module_id: str) -> NoReturn:
        """Refuse: this memory is of one module.

        Raises:
            ScopeError: Always.
        """
        raise ScopeError(
            f"{self._called} has one module, got {kind_of(module_id)} for another. {self._another}"
        )

    def cross_module(self) -> NoReturn:
        """Refuse: the notebook of all modules would be lost with this memory.

        Raises:
            ScopeError: Always.
        """
        raise ScopeError(
            f"{self._called} has one module, and no notebook of all. Nothing was read or written. "
            f"Write to its profile(), which goes where it goes{self._shared}."
        )

    def shared_from(self, module_id: str) -> NoReturn:
        """Refuse: modules share with a user's module, which this is not.

        Raises:
            ScopeError: Always.
        """
        raise ScopeError(
            f"{self._called} has one module, got {kind_of(module_id)} for one that shares. Nothing "
            "was read. Only memory.scope(user_id=…, module_id=…).shared_from(…) reads by a grant."
        )
