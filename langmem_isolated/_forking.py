"""Tells objects that they were carried into a forked child, where their locks may stay locked."""

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """What holds locks, sockets or threads that a child must not share with its parent."""

    def renew_after_fork(self) -> None:
        """Replace them; called in the child, before anything else runs there."""


_renewables: "weakref.WeakSet[Renewable]" = weakref.WeakSet()


def renew_in_children(target: Renewable) -> None:
    """Have ``target`` renewed in every child that is forked while it lives."""
    _renewables.add(target)


def _renew_all() -> None:
    for target in list(_renewables):
        target.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
