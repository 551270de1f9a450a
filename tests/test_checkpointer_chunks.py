"""A long list whose elements have numbers in no order is stored in chunks: bodies stay small."""

import random
from collections.abc import Callable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AnyMessage, HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated._codecs.checkpoints.chunks import (
    decode_chunk,
    encode_chunk,
    is_fragmented,
    stretches,
)
from langmem_isolated._codecs.checkpoints.stored_bodies import Body
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import RecordDoesNotOpen
from tests.conftest import Attacker, Door
from tests.threads import at, count, put, values_at

ALICE = Scope("alice", "tutor")
CHUNK = "03960302fc01cd012a01"
BODY = "0193920002c40178920701"


@pytest.fixture
def saver(memory: IsolatedMemory) -> IsolatedCheckpointSaver:
    return memory.scope(ALICE).checkpointer()


def said(numbers: range) -> list[AnyMessage]:
    return [HumanMessage(f"{number:06}", id=str(number)) for number in numbers]


def in_no_order(messages: list[AnyMessage]) -> list[AnyMessage]:
    """As tasks that run at once leave them: each group of five in another order than it came."""
    order = random.Random(1)
    groups = (messages[start : start + 5] for start in range(0, len(messages), 5))
    return list(chain.from_iterable(order.sample(group, len(group)) for group in groups))


def stored(saver: IsolatedCheckpointSaver, thread: str, length: int) -> list[AnyMessage]:
    """Store a list in order, and then in none."""
    messages = said(range(length))
    config = put(saver, at(thread), {"messages": messages})
    shuffled = in_no_order(messages)
    put(saver, config, {"messages": shuffled})
    return shuffled


def newest_body(attacker: Attacker) -> int:
    [(size,)] = attacker(
        "SELECT size FROM records WHERE kind = ? ORDER BY key DESC LIMIT 1", int(Kind.CHECKPOINT)
    )
    return int(size)


async def test_what_was_put_comes_back_and_the_thread_is_sound(
    saver: IsolatedCheckpointSaver, door: Door, attacker: Attacker
):
    messages = stored(saver, "t", 600)

    assert count(attacker) > 600
    found = await door(saver, "get_tuple", at("t"))
    assert found.checkpoint["channel_values"] == {"messages": messages}
    assert await door(saver, "verify_thread", "t") == 2


@pytest.mark.parametrize(
    "between",
    [
        lambda first, second: {"a": first, "text": "\ud800", "b": second},
        lambda first, second: {"a": {"\ud800": first}, "b": second},
        lambda first, second: {"a": {"first": first, "text": "\ud800", "second": second}},
    ],
    ids=["text", "key", "text inside"],
)
def test_two_long_lists_stay_apart_where_text_that_msgpack_lacks_has_them_encoded_again(
    saver: IsolatedCheckpointSaver,
    between: Callable[[list[AnyMessage], list[AnyMessage]], dict[str, Any]],
):
    first, second = said(range(600)), said(range(600, 1200))
    config = put(saver, at("t"), {"a": first, "b": second})
    values = between(in_no_order(first), in_no_order(second))
    put(saver, config, values)

    assert values_at(saver, at("t")) == values


def test_a_body_hardly_grows_with_its_list(saver: IsolatedCheckpointSaver, attacker: Attacker):
    sizes = []
    for length in (500, 1000, 2000):
        stored(saver, str(length), length)
        sizes.append(newest_body(attacker))

    # Five bytes for each stretch of 64; written out it would be 2 for each of 1,600 runs.
    assert sizes[2] - sizes[1] < 1000 / 64 * 8
    assert sizes[2] < 700


def test_a_list_that_goes_on_keeps_its_chunks(saver: IsolatedCheckpointSaver, attacker: Attacker):
    messages = stored(saver, "t", 600)
    before = count(attacker)

    put(saver, at("t"), {"messages": [*messages, *said(range(600, 601))]})
    # What stands first was removed: chunks begin and end where they did.
    put(saver, at("t"), {"messages": messages[2:]})

    # The message, and the first chunk without its beginning.
    assert count(attacker) - before <= 2


def test_another_process_finds_the_chunks_again(
    saver: IsolatedCheckpointSaver,
    attacker: Attacker,
    database_url: str,
    root_key: LocalRootKey,
):
    stored(saver, "t", 600)
    before = count(attacker)
    with IsolatedMemory(database_url, root_key=root_key) as other:
        theirs = other.scope(ALICE).checkpointer()
        read = values_at(theirs, at("t"))["messages"]
        put(theirs, at("t"), {"messages": [*read, *said(range(600, 601))]})

        assert count(attacker) == before + 1
        assert values_at(saver, at("t")) == {"messages": [*read, *said(range(600, 601))]}


async def test_prune_keeps_what_chunks_list_and_nothing_else(
    saver: IsolatedCheckpointSaver, door: Door, attacker: Attacker
):
    messages = stored(saver, "t", 600)
    put(saver, at("t"), {"messages": messages[:300]})

    await door(saver, "prune", ["t"])

    assert 300 < count(attacker) < 310
    assert values_at(saver, at("t")) == {"messages": messages[:300]}
    assert await door(saver, "verify_thread", "t") == 1


async def test_a_copy_has_its_own_chunks(saver: IsolatedCheckpointSaver, door: Door):
    messages = stored(saver, "t", 600)

    await door(saver, "copy_thread", "t", "copy")
    await door(saver, "delete_thread", "t")

    assert values_at(saver, at("copy")) == {"messages": messages}
    assert await door(saver, "verify_thread", "copy") == 2


@pytest.mark.parametrize("which", ["a message", "a chunk"])
def test_a_listed_element_or_a_chunk_that_is_gone_is_noticed(
    saver: IsolatedCheckpointSaver, attacker: Attacker, which: str
):
    stored(saver, "t", 600)
    # Messages come first; behind them the chunks, which were stored last.
    order = "ASC" if which == "a message" else "DESC"
    [(key,)] = attacker(
        f"SELECT key FROM records WHERE kind = ? ORDER BY key {order} LIMIT 1", int(Kind.ELEMENT)
    )
    attacker("DELETE FROM records WHERE kind = ? AND key = ?", int(Kind.ELEMENT), bytes(key))

    with pytest.raises(RecordDoesNotOpen):
        saver.get_tuple(at("t"))
    with pytest.raises(RecordDoesNotOpen):
        saver.verify_thread("t")


runs = st.lists(st.integers(0, 3000), unique=True, min_size=1).map(
    lambda numbers: [range(number, number + 1) for number in numbers]
)


@given(runs)
def test_stretches_hold_every_number_in_its_order(numbers: list[range]):
    found = [number for part, _ in stretches(numbers) for run in part for number in run]

    assert found == [run.start for run in numbers]


@given(runs, st.integers(0, 50))
def test_stretches_end_where_they_did_when_the_beginning_is_removed(
    numbers: list[range], removed: int
):
    before = [part for part, is_chunk in stretches(numbers) if is_chunk]
    after = [part for part, is_chunk in stretches(numbers[removed:]) if is_chunk]

    # All but the one that was cut.
    assert after[1:] == before[len(before) - len(after) + 1 :]


@given(runs)
def test_a_chunk_gives_back_its_numbers(numbers: list[range]):
    assert decode_chunk(encode_chunk(numbers)) == [run.start for run in numbers]


def test_a_list_in_order_is_in_no_chunks():
    assert not is_fragmented([range(number, number + 1) for number in range(5000)])
    assert is_fragmented([range(number, number + 1) for number in range(0, 5000, 2)])


def test_the_stored_forms_are_frozen():
    """A chunk, and a body that refers to it: they must be read for ever."""
    numbers = [range(3, 5), range(1, 2), range(300, 301)]

    assert encode_chunk(numbers).hex() == CHUNK
    assert decode_chunk(bytes.fromhex(CHUNK)) == [3, 4, 1, 300]
    assert Body.sealed_form([range(2)], b"x", [range(7, 8)]).hex() == BODY
    assert Body.of(bytes.fromhex(BODY)) == ([0, 1], b"x", [7])
