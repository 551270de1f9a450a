"""Users' own locks while several processes make, change, remove and lend them at once."""

from collections.abc import Iterator

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import MemoryLocked
from tests.locks import CHEAP, PASSPHRASE, lock, unlock

ANOTHER = "another battery staple"


@pytest.fixture
def locked(memory: IsolatedMemory) -> IsolatedMemory:
    """A memory in which Alice has said something, and locked it."""
    say(memory, "before")
    lock(memory)
    return memory


@pytest.fixture
def other(
    locked: IsolatedMemory, database_url: str, root_key: LocalRootKey
) -> Iterator[IsolatedMemory]:
    """What another process has."""
    with IsolatedMemory(database_url, root_key=root_key) as other:
        yield other


def say(memory: IsolatedMemory, text: str) -> None:
    memory.scope(user_id="alice", module_id="tutor").chat_history("monday").add_user_message(text)


def texts(memory: IsolatedMemory) -> list[str]:
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    return [str(message.content) for message in history.messages]


def lock_anew(memory: IsolatedMemory, passphrase: str = ANOTHER) -> None:
    """Remove Alice's lock, and make another."""
    memory.remove_lock("alice", passphrase=PASSPHRASE)
    memory.lock_with("alice", passphrase=passphrase, cost=CHEAP)


def test_no_key_is_made_under_a_lock_that_another_process_has_exchanged(
    locked: IsolatedMemory, other: IsolatedMemory
):
    unlock(locked)
    lock_anew(other)

    with pytest.raises(MemoryLocked):
        locked.rotate_keys("alice")

    other.unlock("alice", passphrase=ANOTHER, seconds=600)
    assert texts(other) == ["before"]


def test_who_was_lent_a_lock_that_was_exchanged_is_locked_and_told_of_no_damage(
    locked: IsolatedMemory, other: IsolatedMemory
):
    unlock(locked)
    lock_anew(other)

    with pytest.raises(MemoryLocked):
        texts(locked)
    assert locked.lock_state("alice").is_locked
    say(locked, "meanwhile")
    with pytest.raises(MemoryLocked):
        locked.collect_inbox("alice")

    other.unlock("alice", passphrase=ANOTHER, seconds=600)
    assert texts(other) == ["before", "meanwhile"]
