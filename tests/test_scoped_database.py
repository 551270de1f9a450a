"""Keys that another process made newer, or a user's later life, behind what is cached here."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import KeyDestroyed, RecordDoesNotOpen
from tests.conftest import Attacker
from tests.test_keyring import ALICE, erase, opened_anew
from tests.threads import at, put, values_at

SAID = [HumanMessage(f"message {number} {'x' * 200}", id=str(number)) for number in range(5)]


def saver_of(memory: IsolatedMemory) -> IsolatedCheckpointSaver:
    return memory.scope(user_id="alice", module_id="tutor").checkpointer()


@pytest.fixture
def rotated(memory: IsolatedMemory, database_url: str) -> IsolatedMemory:
    """A memory with cached keys; what came last was sealed with a newer one, by another."""
    config = put(saver_of(memory), at("t"), {"messages": SAID[:2]})
    memory._keyring.rotate(ALICE)
    with opened_anew(database_url) as other:
        config = put(saver_of(other), config, {"messages": SAID[:4]}, run_id="run")
        saver_of(other).put_writes(config, [("__resume__", 1)], "task")
    return memory


USES: dict[str, Any] = {
    "get": lambda saver, _: values_at(saver, at("t")),
    "list": lambda saver, _: [*saver.list(at("t"))],
    "list all": lambda saver, _: [*saver.list(None)],
    "history": lambda saver, last: saver.get_delta_channel_history(config=last, channels=["a"]),
    "threads": lambda saver, _: saver.threads(),
    "verify": lambda saver, _: saver.verify_thread("t"),
    "put": lambda saver, last: put(saver, last, {"messages": SAID}),
    "put writes": lambda saver, last: saver.put_writes(last, [("__resume__", 2)], "task"),
    "prune": lambda saver, _: saver.prune(["t"]),
    "delete for runs": lambda saver, _: saver.delete_for_runs(["run"]),
    "copy": lambda saver, _: saver.copy_thread("t", "copy"),
}


@pytest.mark.parametrize("use", USES)
def test_keys_that_another_process_has_rotated_are_read_again_whatever_is_done_first(
    rotated: IsolatedMemory, database_url: str, use: str
):
    with opened_anew(database_url) as other:
        last = saver_of(other).get_tuple(at("t"))
    assert last is not None

    assert USES[use](saver_of(rotated), last.config) not in ([], {})

    assert saver_of(rotated).verify_thread("t") > 0


def test_threads_that_find_rotated_keys_together_all_open_what_they_read(rotated: IsolatedMemory):
    """One has read the keys again while another still held what it had found with the old ones."""
    barrier = threading.Barrier(8)

    def read(_: int) -> Any:
        barrier.wait()
        return values_at(saver_of(rotated), at("t"))

    with ThreadPoolExecutor(8) as threads:
        assert [*threads.map(read, range(8))] == [{"messages": SAID[:4]}] * 8


def test_a_key_that_nobody_has_is_tampering(memory: IsolatedMemory, attacker: Attacker):
    put(saver_of(memory), at("t"), {"messages": SAID})
    ((sealed,),) = attacker("SELECT sealed FROM records WHERE kind = ?", int(Kind.CHECKPOINT))
    changed = bytes([sealed[0]]) + bytes(16) + bytes(sealed[17:])

    attacker("UPDATE records SET sealed = ? WHERE kind = ?", changed, int(Kind.CHECKPOINT))

    for use in ("get", "list", "verify", "prune"):
        with pytest.raises(RecordDoesNotOpen, match="its key is not one of this owner's"):
            USES[use](saver_of(memory), at("t"))


def test_who_knows_a_users_former_life_opens_nothing_of_the_later_one(
    memory: IsolatedMemory, database_url: str
):
    old = memory.scope(user_id="alice", module_id="tutor").checkpointer()
    put(old, at("t"), {"n": 1})
    erase(database_url)
    with opened_anew(database_url) as other:
        put(saver_of(other), at("t"), {"n": 2})

    for _ in range(2):
        with pytest.raises(KeyDestroyed):
            list(old.list(None))

    assert values_at(saver_of(memory), at("t")) == {"n": 2}
