"""Owners and principals: level, project, user and module that a record belongs to."""

from dataclasses import dataclass
from enum import IntEnum

from langmem_isolated._crypto.sealing import framed
from langmem_isolated.scope import AnonymousScope, Scope, checked_id


class Level(IntEnum):
    """How far an owner reaches; numbers are stored and never change."""

    PRIVATE = 1
    USER = 2
    MODULE = 3
    PROJECT = 4
    ANONYMOUS = 5


# Which ids an owner has beside the project; first those that it must have.
_NAMES = ("user", "module", "guest")
_GIVEN: dict[Level, tuple[tuple[bool, bool, bool], ...]] = {
    Level.PRIVATE: ((True, True, False),),
    Level.USER: ((True, False, False),),
    Level.MODULE: ((False, True, False),),
    Level.PROJECT: ((False, False, False),),
    Level.ANONYMOUS: ((False, False, True), (False, True, True)),
}


@dataclass(frozen=True, slots=True, repr=False)
class Owner:
    """Who a record belongs to.

    Args:
        level: How far it reaches.
        project: Which application.
        user: Whose, where the level has one user.
        module: Which part of the application, where the level has one.
        guest: Who an anonymous owner is: a random id of its own, possession of which is the only
            access. It has keys of its own, so two of one project are as far apart as two users.

    Raises:
        ValueError: The level wants an id that is missing, or has no place for one that is given.
    """

    level: Level
    project: str
    user: str | None = None
    module: str | None = None
    guest: str | None = None

    def __post_init__(self) -> None:
        # One is made at each call of a saver: of what is right no set is made.
        given = self.user is not None, self.module is not None, self.guest is not None
        if given in _GIVEN[self.level]:
            return
        has = [name for name, is_given in zip(_NAMES, given, strict=True) if is_given]
        must = [
            name for name, is_given in zip(_NAMES, _GIVEN[self.level][0], strict=True) if is_given
        ]
        raise ValueError(
            f"an owner of level {self.level.name} has {', '.join(sorted(must)) or 'no other id'} "
            f"beside the project, got {', '.join(sorted(has)) or 'none'}"
        )

    @classmethod
    def private(cls, scope: Scope) -> "Owner":
        """The owner that a scope names: this user in this module."""
        return cls.at(Level.PRIVATE, scope)

    @classmethod
    def at(cls, level: Level, scope: Scope) -> "Owner":
        """The owner of what a scope reads at a level."""
        if isinstance(scope, AnonymousScope):
            return cls._of_guest(level, scope)
        user = scope.user_id if level in (Level.PRIVATE, Level.USER) else None
        module = scope.module_id if level in (Level.PRIVATE, Level.MODULE) else None
        return cls(level, scope.project_id, user, module)

    @classmethod
    def _of_guest(cls, level: Level, scope: AnonymousScope) -> "Owner":
        module = scope.module_id if level in (Level.PRIVATE, Level.MODULE) else None
        if level in (Level.PRIVATE, Level.USER):
            return cls.anonymous(scope.guest, module=module, project=scope.project_id)
        return cls(level, scope.project_id, module=module)

    @classmethod
    def anonymous(cls, guest: str, *, module: str | None = None, project: str) -> "Owner":
        """The owner that whoever has the id ``guest`` is, in one module or in all.

        Raises:
            ScopeError: An id is malformed.
        """
        if module is not None:
            checked_id("module_id", module)
        return cls(
            Level.ANONYMOUS, checked_id("project_id", project),
            module=module, guest=checked_id("guest", guest),
        )  # fmt: skip

    def framed(self) -> bytes:
        """Level, project, user, module and guest, each with its length."""
        ids = (self.project, self.user, self.module, self.guest)
        return framed(
            bytes([self.level]), *(None if name is None else name.encode() for name in ids)
        )

    def places(self) -> list["Owner"]:
        """The project that the owner's memory is in, and the module."""
        project = Owner(Level.PROJECT, self.project)
        if self.module is None:
            return [project]
        return [project, Owner(Level.MODULE, self.project, module=self.module)]

    def principal(self) -> bytes:
        """Whose keys seal this owner's records, framed: all modules of a user share the user's.

        And all modules of a guest the guest's.
        """
        if self.level is Level.PRIVATE:
            return Owner(Level.USER, self.project, self.user).framed()
        if self.level is Level.ANONYMOUS:
            return Owner(Level.ANONYMOUS, self.project, guest=self.guest).framed()
        return self.framed()
