"""Threads have titles, marks and lifetimes as sessions have, whatever graphs do meanwhile."""

from datetime import timedelta

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.errors import RecordDoesNotOpen, ThreadNotFound
from tests.conftest import Attacker, Door
from tests.test_session_rules import Clock
from tests.threads import at, put

HOUR = timedelta(hours=1)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (
        *("checkpointer.repository", "checkpointer.body_writer", "checkpointer.thread_methods"),
        "_adapters.container_catalogue",
    ):
        monkeypatch.setattr(f"langmem_isolated.{module}.now", clock)
    return clock


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def saver(tutor: ScopedMemory) -> IsolatedCheckpointSaver:
    return tutor.checkpointer()


def write(saver: IsolatedCheckpointSaver, *thread_ids: str) -> None:
    for thread_id in thread_ids:
        put(saver, at(thread_id), {"messages": [HumanMessage(thread_id)]})


async def test_a_thread_keeps_its_title_and_marks_while_graphs_write_to_it(
    saver: IsolatedCheckpointSaver, door: Door
):
    write(saver, "one", "two")
    await door(saver, "rename_thread", "one", "Bruchrechnung: Größen")
    await door(saver, "pin_thread", "one")
    config = put(saver, at("one"), {"messages": [HumanMessage("more")]})
    put(saver, config, {"messages": [HumanMessage("and more")]})
    write(saver, "two")

    first, second = await door(saver, "threads")

    assert (first.id, first.title, first.pinned) == ("one", "Bruchrechnung: Größen", True)
    assert (second.id, second.title, second.pinned) == ("two", None, False)
    assert await door(saver, "thread", "one") == first
    assert [one.id for one in await door(saver, "threads", search="grossen bruch")] == ["one"]
    assert [one.id for one in await door(saver, "threads", search="größen BRUCH")] == ["one"]
    assert saver.get_tuple(at("one")).checkpoint["channel_values"]["messages"][0].text == "and more"


async def test_threads_have_pages_and_archived_ones_are_left_out(
    saver: IsolatedCheckpointSaver, door: Door
):
    write(saver, *map(str, range(5)))
    await door(saver, "archive_thread", "3")
    seen: list = []
    while page := await door(saver, "threads", limit=2, before=seen[-1] if seen else None):
        seen += page

    assert [one.id for one in seen] == ["4", "2", "1", "0"]
    assert [one.id for one in await door(saver, "threads", archived=True)] == ["3"]
    assert len(await door(saver, "threads", archived=None)) == 5
    assert saver.get_tuple(at("3")) is not None
    await door(saver, "unarchive_thread", "3")
    assert len(await door(saver, "threads")) == 5


async def test_of_a_thread_that_is_not_there_nothing_is_changed(
    memory: IsolatedMemory, saver: IsolatedCheckpointSaver, door: Door
):
    others = memory.scope(user_id="bob", module_id="tutor").checkpointer()
    write(others, "one")
    before = others.threads()

    for name in ("archive_thread", "unarchive_thread", "pin_thread", "unpin_thread", "thread"):
        with pytest.raises(ThreadNotFound):
            await door(saver, name, "one")
    with pytest.raises(ThreadNotFound):
        await door(saver, "rename_thread", "one", "Fractions")
    with pytest.raises(ThreadNotFound):
        await door(saver, "set_thread_lifetime", "one", idle=HOUR)

    assert others.threads() == before


async def test_a_thread_lives_as_long_as_it_was_told_whatever_writes_to_it(
    tutor: ScopedMemory, clock: Clock, door: Door
):
    saver = tutor.checkpointer(ttl=HOUR, absolute=3 * HOUR)
    write(saver, "one")
    for _ in range(3):
        clock.advance(HOUR * 0.9)
        write(tutor.checkpointer(), "one")
        write(saver, "one")
    thread = await door(saver, "thread", "one")
    assert thread.expires - thread.created == 3 * HOUR

    clock.advance(HOUR * 0.3)

    assert await door(saver, "threads") == []
    assert await door(saver, "get_tuple", at("one")) is None
    write(tutor.checkpointer(), "one")
    assert (await door(saver, "thread", "one")).expires is None


async def test_a_lifetime_of_one_thread_can_be_given_later(
    saver: IsolatedCheckpointSaver, clock: Clock, door: Door
):
    write(saver, "one", "two")
    await door(saver, "set_thread_lifetime", "one", idle=HOUR)
    clock.advance(HOUR * 0.9)
    write(saver, "one")
    clock.advance(HOUR * 0.9)
    assert saver.get_tuple(at("one")) is not None

    clock.advance(HOUR * 0.2)

    assert [one.id for one in await door(saver, "threads")] == ["two"]
    assert await door(saver, "get_tuple", at("one")) is None


def test_an_older_title_cannot_be_put_back(saver: IsolatedCheckpointSaver, attacker: Attacker):
    write(saver, "one")
    saver.rename_thread("one", "first")
    [(sealed,)] = attacker("SELECT sealed FROM sessions")
    saver.rename_thread("one", "second")

    attacker("UPDATE sessions SET sealed = ?", bytes(sealed))

    assert saver.thread("one").damaged
    with pytest.raises(RecordDoesNotOpen):
        saver.rename_thread("one", "third")
