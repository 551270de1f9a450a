"""The clock: no time is given twice, and what a clock cannot show is no moment."""

import threading
from datetime import UTC, datetime, timedelta

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._runtime import clock


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
