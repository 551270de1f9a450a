"""Fork hooks: renews locks, sockets and threads that a child process must not share."""

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """What holds locks, sockets or threads that a child must not share with its parent."""

    def renew_after_fork(self) -> None:
        """Replace them; called in the child, before anything else runs there."""


class Pausable(Protocol):
    """What must not be carried into a child in the middle of something."""

    def pause_before_fork(self) -> None:
        """Finish what runs and begin nothing; called in the parent before it forks."""

    def resume_after_fork(self) -> None:
        """Go on; called in the parent."""


_pausables: "weakref.WeakSet[Pausable]" = weakref.WeakSet()
_renewables: "weakref.WeakSet[Renewable]" = weakref.WeakSet()


def renew_in_children(target: Renewable) -> None:
    """Have ``target`` renewed in every child that is forked while it lives."""
    _renewables.add(target)


def pause_for_forks(target: Pausable) -> None:
    """Have ``target`` paused during every fork while it lives."""
    _pausables.add(target)


def _pause_all() -> None:
    for target in list(_pausables):
        target.pause_before_fork()


def _resume_all() -> None:
    for target in list(_pausables):
        target.resume_after_fork()


def _renew_all() -> None:
    for target in list(_renewables):
        target.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pause_all, after_in_parent=_resume_all, after_in_child=_renew_all)
