"""The clock: no time is given twice, and what a clock cannot show is no moment."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from time import time_ns

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._runtime import clock
from tests.conftest import ROOT_KEY
from tests.processes import Child


def test_no_time_is_given_twice_however_many_threads_ask():
    given: list[int] = []
    threads = [
        threading.Thread(target=lambda: given.extend(clock.now() for _ in range(2_000)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(given)) == len(given) == 16_000


def test_a_clock_that_stands_or_goes_back_a_little_gives_later_times_and_one_set_back_is_believed():
    ticking = clock._Clock()

    assert [ticking.tick(t) for t in (5_000_000, 5_000_000, 4_500_000)] == [
        5_000_000, 5_000_001, 5_000_002,
    ]  # fmt: skip
    assert ticking.tick(1_000_000) == 1_000_000


@pytest.mark.parametrize("odd", [2**63, -(2**63), b"7", None])
def test_what_no_clock_shows_is_no_moment(odd: int):
    assert clock.as_moment(odd) is None


def test_a_moment_is_exact_to_the_microsecond():
    moment = datetime(2026, 11, 28, 1, 2, 3, 456789, UTC)

    assert clock.as_moment((moment - clock.EPOCH) // clock.MICROSECOND) == moment


def test_the_longest_time_to_live_fits_a_column():
    assert clock.now() + (clock.lifetime(timedelta.max) or 0) < 2**63


def test_what_was_written_in_turn_is_listed_in_turn(database_url: str, root_key: LocalRootKey):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        alice = memory.scope(user_id="alice", module_id="tutor")
        names = [f"s{number}" for number in range(50)]
        for name in names:
            alice.chat_history(name).add_user_message("a zebra")

        assert [session.id for session in alice.sessions(limit=50)] == names[::-1]
        assert [one.source_id for one in alice.recall("zebra", limit=50)] == names[::-1]


def test_what_another_machine_wrote_is_before_what_follows_it_and_a_wrong_clock_is_not_believed():
    ticking, wall = clock._Clock(), 5_000_000

    ticking.witness(wall + 300_000, wall)
    assert ticking.tick(wall + 10) == wall + 300_001
    ticking.witness(wall + 10, wall)
    assert ticking.tick(wall + 20) == wall + 300_002

    ticking.witness(wall + clock.SECOND, wall)
    assert ticking.tick(wall + 30) == wall + 300_003


def on_a_slow_machine(url: str, *answers: tuple[str, str]) -> None:
    """Read each session and answer in another, with a clock that is 300 ms behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "_clock", clock._Clock())
        patch.setattr(clock.time, "time_ns", lambda: time_ns() - 300_000_000)
        with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
            alice = memory.scope(user_id="alice", module_id="tutor")
            for read, written in answers:
                assert alice.chat_history(read).messages
                alice.chat_history(written).add_messages([AIMessage("answer")], channel="ai")


def test_an_answer_comes_after_its_question_though_the_clock_of_its_machine_is_behind(
    database_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        alice = memory.scope(user_id="alice", module_id="tutor")
        expected = []
        for number in range(3):
            alice.chat_history("room").add_messages([HumanMessage(f"{number}?")], channel="room")
            Child(on_a_slow_machine, database_url, ("room", "room"), ("room", "agent")).result()
            expected += [f"{number}?", "answer", "answer"]

        assert [m.content for m in alice.recent({"room": 9, "ai": 9})] == expected
        assert [session.id for session in alice.sessions()] == ["agent", "room"]
        assert alice.verify()


def blindly_on_a_slow_machine(url: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clock, "_clock", clock._Clock())
        patch.setattr(clock.time, "time_ns", lambda: time_ns() - 300_000_000)
        with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
            history = memory.scope(user_id="alice", module_id="tutor").chat_history("room")
            history.add_messages([AIMessage("answer")], channel="room")


def test_a_session_has_its_order_whoever_writes_to_it_without_having_read_it(
    database_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        alice = memory.scope(user_id="alice", module_id="tutor")
        room = alice.chat_history("room")
        room.add_messages([HumanMessage("?")], channel="room")
        Child(blindly_on_a_slow_machine, database_url).result()
        room.add_messages([HumanMessage("thanks")], channel="room")

        assert [m.content for m in alice.recent({"room": 9})] == ["?", "answer", "thanks"]
        times = [line.said_at for line in room.timed()]
        assert times == sorted(set(times))


def test_threads_that_wait_for_one_session_keep_its_order(
    database_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        alice = memory.scope(user_id="alice", module_id="tutor")

        def say(number: int) -> None:
            history = alice.chat_history("room", channel="room")
            for turn in range(5):
                history.add_user_message(f"{number}/{turn}")

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(say, range(8)))

        said = alice.chat_history("room").messages
        assert len(said) == 40
        assert alice.recent({"room": 40}) == said
        alice.verify()
