"""Owners and principals: level, project, user and module that a record belongs to."""

from dataclasses import dataclass
from enum import IntEnum

from langmem_isolated._crypto.sealing import framed
from langmem_isolated.scope import Scope


class Level(IntEnum):
    """How far an owner reaches; numbers are stored and never change."""

    PRIVATE = 1
    USER = 2
    MODULE = 3
    PROJECT = 4
    ANONYMOUS = 5


@dataclass(frozen=True, slots=True, repr=False)
class Owner:
    """Who a record belongs to; ``user`` or ``module`` is ``None`` where the level has none."""

    level: Level
    project: str
    user: str | None = None
    module: str | None = None

    @classmethod
    def private(cls, scope: Scope) -> "Owner":
        """The owner that a scope names: this user in this module."""
        return cls.at(Level.PRIVATE, scope)

    @classmethod
    def at(cls, level: Level, scope: Scope) -> "Owner":
        """The owner of what a scope reads at a level."""
        user = scope.user_id if level in (Level.PRIVATE, Level.USER) else None
        module = scope.module_id if level in (Level.PRIVATE, Level.MODULE) else None
        return cls(level, scope.project_id, user, module)

    def framed(self) -> bytes:
        """Level and ids, each with its length."""
        return framed(
            bytes([self.level]),
            self.project.encode(),
            None if self.user is None else self.user.encode(),
            None if self.module is None else self.module.encode(),
        )

    def principal(self) -> bytes:
        """Whose keys seal this owner's records, framed: all modules of a user share the user's."""
        if self.level is Level.PRIVATE:
            return Owner(Level.USER, self.project, self.user).framed()
        return self.framed()
