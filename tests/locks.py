"""Locks that tests make: of a passphrase that costs next to nothing to stretch."""

from langmem_isolated import IsolatedMemory
from langmem_isolated.lifecycle import Lent, NewLock, PassphraseCost

PASSPHRASE = "correct horse battery"
CHEAP = PassphraseCost(memory=64, iterations=1, lanes=1)


def lock(memory: IsolatedMemory, user_id: str = "alice") -> NewLock:
    return memory.lock_with(user_id, passphrase=PASSPHRASE, cost=CHEAP)


def unlock(memory: IsolatedMemory, user_id: str = "alice", seconds: float = 600) -> Lent:
    return memory.unlock(user_id, passphrase=PASSPHRASE, seconds=seconds)
