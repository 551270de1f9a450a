"""Watcher: who is told of what is read, so that an audit log may have it."""

from typing import Protocol

from langmem_isolated._crypto.owners import Owner


class Watcher(Protocol):
    """Notes what is read, without any I/O but to begin."""

    def begin(self) -> None:
        """Make it ready, with I/O, before the first thing is done; outside of transactions."""

    def was_read(self, owner: Owner) -> None:
        """Note that an owner's memory was read."""

    def recalled(self, owner: Owner, count: int) -> None:
        """Note that so many of an owner's records went into a prompt."""
