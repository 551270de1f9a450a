"""The cache of opened data gives out what is current, and lets go of the rest."""

import os
import threading
from typing import Any

import pytest

from langmem_isolated._runtime.plaintext_cache import PlaintextCache

ALICE = (b"alice", 1, "messages")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> PlaintextCache:
    return PlaintextCache(seconds=60, entries=3, size=100, clock=clock)


def test_what_was_put_is_given_out_under_its_token(cache: PlaintextCache):
    cache.put(ALICE, "token", value := ["opened"], 10)

    assert cache.get(ALICE, "token") is value


@pytest.mark.parametrize(
    "other", [(b"bob", 1, "messages"), (b"alice", 2, "messages"), (b"alice", 1, "vectors")]
)
def test_another_scope_incarnation_or_thing_gets_nothing(cache: PlaintextCache, other: Any):
    cache.put(ALICE, "token", ["opened"], 10)

    assert cache.get(other, "token") is None


def test_a_value_with_another_token_is_never_given_out_again(cache: PlaintextCache):
    cache.put(ALICE, "old", ["opened"], 10)

    assert cache.get(ALICE, "new") is None
    assert cache.get(ALICE, "old") is None


def test_a_value_leaves_memory_when_its_time_is_over_whoever_asks_next(
    cache: PlaintextCache, clock: Clock
):
    cache.put(ALICE, "token", ["opened"], 10)
    clock.now = 60

    assert cache.get((b"bob", 1, "messages"), "token") is None
    assert not cache._entries
    assert cache._entries.size == 0


def test_use_does_not_prolong_a_values_time(cache: PlaintextCache, clock: Clock):
    cache.put(ALICE, "token", ["opened"], 10)
    clock.now = 59
    assert cache.get(ALICE, "token")
    clock.now = 60

    assert cache.get(ALICE, "token") is None


def test_of_too_many_values_the_one_used_longest_ago_goes(cache: PlaintextCache):
    for what in "abc":
        cache.put((b"alice", 1, what), "token", [what], 10)
    cache.get((b"alice", 1, "a"), "token")
    cache.put((b"alice", 1, "d"), "token", ["d"], 10)

    kept = [what for what in "abcd" if cache.get((b"alice", 1, what), "token")]
    assert kept == ["a", "c", "d"]


def test_of_too_many_bytes_the_value_used_longest_ago_goes(cache: PlaintextCache):
    cache.put((b"alice", 1, "a"), "token", ["a"], 60)
    cache.put((b"alice", 1, "b"), "token", ["b"], 60)

    kept = [what for what in "ab" if cache.get((b"alice", 1, what), "token")]
    assert kept == ["b"]


def test_a_value_beyond_the_bound_is_not_kept_and_crowds_nobody_out(cache: PlaintextCache):
    cache.put(ALICE, "token", ["opened"], 10)
    cache.put((b"bob", 1, "messages"), "token", ["opened"], 101)

    assert cache.get(ALICE, "token")
    assert cache.get((b"bob", 1, "messages"), "token") is None


def test_a_value_put_again_counts_once(cache: PlaintextCache):
    for token in range(50):
        cache.put(ALICE, token, ["opened"], 40)

    assert cache.get(ALICE, 49)
    assert cache._entries.size == 40


def test_clearing_lets_go_of_everything(cache: PlaintextCache):
    cache.put(ALICE, "token", ["opened"], 10)
    cache.clear()

    assert cache.get(ALICE, "token") is None
    assert cache._entries.size == 0


@pytest.mark.parametrize("bound", ["seconds", "entries", "size"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_bound_must_be_above_zero(bound: str, value: float):
    with pytest.raises(ValueError, match=f"{bound} must be above 0"):
        PlaintextCache(**{"seconds": 60, bound: value})  # type: ignore[arg-type]


def test_threads_that_use_it_at_once_keep_its_bounds(cache: PlaintextCache):
    wrong: list[Any] = []

    def use(name: int) -> None:
        for number in range(300):
            key = (b"scope", name, number % 5)
            cache.put(key, number, (name, number), 30)
            found = cache.get(key, number)
            if found not in (None, (name, number)):
                wrong.append(found)

    threads = [threading.Thread(target=use, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert (
        cache._entries.size == sum(entry.size for entry in cache._entries._values.values()) <= 100
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_begins_with_nothing_and_a_free_lock(cache: PlaintextCache):
    cache.put(ALICE, "token", ["opened"], 10)
    with cache._entries._lock:
        child = os.fork()
        if child == 0:
            os._exit(0 if cache.get(ALICE, "token") is None else 1)
        assert os.waitpid(child, 0)[1] == 0

    assert cache.get(ALICE, "token")


PARTS = {1: (b"a" * 10, 10), 2: (b"b" * 10, 10)}


@pytest.fixture
def roomy(clock: Clock) -> PlaintextCache:
    return PlaintextCache(seconds=60, entries=3, size=1_000, clock=clock)


def test_parts_are_kept_beside_each_other_and_counted_once(roomy: PlaintextCache):
    roomy.merge(ALICE, "token", PARTS, roomy.epoch)
    roomy.merge(ALICE, "token", {2: (b"b" * 10, 10)}, roomy.epoch)
    assert roomy._entries.size == 20

    roomy.merge(ALICE, "token", {3: (b"c" * 10, 10)}, roomy.epoch)

    assert roomy.get(ALICE, "token") == {1: b"a" * 10, 2: b"b" * 10, 3: b"c" * 10}
    assert roomy._entries.size == 30


def test_parts_under_another_token_take_the_place_of_all(roomy: PlaintextCache):
    roomy.merge(ALICE, "old", PARTS, roomy.epoch)
    roomy.merge(ALICE, "new", {1: (b"new", 3)}, roomy.epoch)

    assert roomy.get(ALICE, "new") == {1: b"new"}
    assert roomy.get(ALICE, "old") is None


def test_parts_that_are_added_do_not_prolong_the_time_of_the_first(
    roomy: PlaintextCache, clock: Clock
):
    roomy.merge(ALICE, "token", {1: (b"first", 5)}, roomy.epoch)
    clock.now = 30
    roomy.put((b"bob", 1, "messages"), "token", ["later"], 10)
    clock.now = 59
    roomy.merge(ALICE, "token", {2: (b"second", 6)}, roomy.epoch)
    clock.now = 60

    assert roomy.get(ALICE, "token") is None
    assert roomy.get((b"bob", 1, "messages"), "token") == ["later"]


def test_parts_that_outgrow_the_bound_go_and_crowd_nobody_out(roomy: PlaintextCache):
    roomy.put((b"bob", 1, "messages"), "token", ["small"], 10)
    roomy.merge(ALICE, "token", PARTS, roomy.epoch)
    roomy.merge(ALICE, "token", {3: (b"c" * 900, 990)}, roomy.epoch)

    assert roomy.get(ALICE, "token") is None
    assert roomy.get((b"bob", 1, "messages"), "token") == ["small"]
    assert roomy._entries.size == 10


@pytest.mark.parametrize(
    "let_go",
    [
        lambda cache: cache.clear(),
        lambda cache: cache.forget(b"alice"),
        lambda cache: cache.drop(ALICE),
    ],
)
def test_what_was_read_before_something_was_let_go_of_is_not_kept_behind_it(
    roomy: PlaintextCache, let_go: Any
):
    epoch = roomy.epoch
    roomy.merge(ALICE, "token", PARTS, epoch)
    let_go(roomy)

    roomy.merge(ALICE, "token", PARTS, epoch)

    assert roomy.get(ALICE, "token") is None
    assert not len(roomy._entries)
