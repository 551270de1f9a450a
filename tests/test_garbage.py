"""The garbage collector is paused while many objects are made, and goes on behind it."""

import gc
import threading
import time
from collections.abc import Iterator

import pytest
from langchain_core.messages import AIMessage

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._runtime.garbage import CollectionPause
from tests.processes import in_child
from tests.threads import at, put


@pytest.fixture
def pause() -> Iterator[CollectionPause]:
    assert gc.isenabled()
    yield CollectionPause(longest=60)
    gc.enable()


def test_it_goes_on_when_the_last_pause_ends(pause: CollectionPause):
    with pause:
        with pause:
            assert not gc.isenabled()
        assert not gc.isenabled()

    assert gc.isenabled()


def test_it_goes_on_behind_what_failed(pause: CollectionPause):
    with pytest.raises(ValueError, match="failed"), pause:
        raise ValueError("failed")

    assert gc.isenabled()


def test_it_goes_on_after_a_while_under_pauses_that_leave_no_gap():
    assert gc.isenabled()
    pause = CollectionPause(longest=0.01)
    with pause:
        assert not gc.isenabled()
        time.sleep(0.02)
        with pause:
            assert gc.isenabled()
        assert gc.isenabled()

    with pause:
        assert not gc.isenabled()
    assert gc.isenabled()


def test_where_it_is_off_it_stays_off(pause: CollectionPause):
    gc.disable()
    with pause:
        pass

    assert not gc.isenabled()


def test_threads_that_pause_it_at_once_leave_it_on(pause: CollectionPause):
    def often() -> None:
        for _ in range(500):
            with pause:
                assert not gc.isenabled()

    threads = [threading.Thread(target=often) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert gc.isenabled()


def test_it_is_on_in_a_child_that_is_forked_during_a_pause(pause: CollectionPause):
    def paused_again() -> tuple[bool, bool, bool]:
        before = gc.isenabled()
        with pause:
            during = gc.isenabled()
        return before, during, gc.isenabled()

    with pause:
        assert in_child(paused_again) == (True, False, True)
    assert gc.isenabled()


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generations that were collected, oldest first."""
    seen: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            seen.append(info["generation"])

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


@pytest.mark.parametrize("read", ["messages", "timed"])
def test_it_is_paused_while_the_messages_of_a_long_session_are_rebuilt(
    memory: IsolatedMemory, collections: list[int], read: str
):
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    history.add_messages([AIMessage(str(number)) for number in range(2_000)])
    collections.clear()

    found = history.messages if read == "messages" else history.timed()

    assert len(found) == 2_000
    # Rows as they are read make it look up to 5 times; the messages made it look 25 to 36 times.
    assert len(collections) < 12
    assert gc.isenabled()


def test_calls_of_a_checkpointer_leave_nothing_for_it(sqlite_url: str, root_key: LocalRootKey):
    """A cycle keeps what it holds, a scope's records among it, until it is collected."""
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        saver = memory.scope(user_id="alice", module_id="tutor").checkpointer()

        def turn(thread_id: str) -> None:
            config = put(saver, at(thread_id), {"messages": [AIMessage("a", id="a")]})
            saver.put_writes(config, [("messages", AIMessage("b"))], "task")
            assert saver.get_tuple(at(thread_id))

        turn("first")
        gc.collect()
        gc.disable()
        try:
            turn("t")
            turn("t")
            left = gc.collect()
        finally:
            gc.enable()

    assert left == 0
