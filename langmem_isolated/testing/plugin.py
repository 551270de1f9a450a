"""Plugin of pytest: fixtures for applications' tests, which come with the package.

Importing it brings pytest and nothing else; a fixture imports what it needs when it is asked for.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from langmem_isolated import IsolatedMemory, ScopedMemory
    from langmem_isolated.testing import Canary, FakeClock


@pytest.fixture
def isolated_memory(tmp_path: Path) -> "Iterator[IsolatedMemory]":
    """A memory in ``tmp_path / "memory.db"``, with a root key of its own.

    Without ``fsync`` at each commit, which takes most of the time: a test needs no power failure.
    """
    from langmem_isolated import IsolatedMemory, LocalRootKey

    key = LocalRootKey(os.urandom(32))
    url = f"sqlite:///{tmp_path}/memory.db"
    with IsolatedMemory(url, root_key=key, synchronous="NORMAL") as memory:
        yield memory


@pytest.fixture
def isolated_users(isolated_memory: "IsolatedMemory") -> "tuple[ScopedMemory, ScopedMemory]":
    """The memories of two users, alice and bob, in one module of ``isolated_memory``.

    Whatever ids a client may choose, give both the same.
    """
    alice, bob = (
        isolated_memory.scope(user_id=user, module_id="chat") for user in ("alice", "bob")
    )
    return alice, bob


@pytest.fixture
def canary() -> "Callable[[str], Canary]":
    """``canary("alice's PIN").text``: a text that stands nowhere else; see :class:`Canary`."""
    from langmem_isolated.testing import Canary

    return Canary.of


@pytest.fixture
def fake_clock() -> "Iterator[FakeClock]":
    """A clock for the library that stands until the test advances it; see :class:`FakeClock`."""
    from langmem_isolated.testing import FakeClock

    with FakeClock().installed() as clock:
        yield clock
