"""Channels: what was said where, read newest first over all sessions of a scope; and summaries."""

import time
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated._codecs.messages import decode_message_with_metadata
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated.errors import RecordDoesNotOpen, ScopeError, SessionNotFound
from tests.conftest import Attacker, Door
from tests.containers import expire
from tests.spellings import spellings

CANARY = "canary-channel-5b1e"


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def a_moment_later() -> None:
    """Times are kept in microseconds."""
    time.sleep(0.002)


async def say(
    scoped: ScopedMemory, door: Door, session_id: str, channel: str | None, *said: str
) -> None:
    messages = [HumanMessage(text) for text in said]
    await door(scoped.chat_history(session_id), "add_messages", messages, channel=channel)
    a_moment_later()


def texts(messages: list[BaseMessage]) -> list[Any]:
    return [message.content for message in messages]


# --- reading --------------------------------------------------------------------------------------


async def test_the_newest_of_each_channel_are_merged_oldest_first_over_all_sessions(
    tutor: ScopedMemory, door: Door
):
    await say(tutor, door, "monday", "general", "g1", "g2")
    await say(tutor, door, "tuesday", "ai", "a1")
    await say(tutor, door, "tuesday", "general", "g3")
    await say(tutor, door, "monday", "ai", "a2", "a3")
    await say(tutor, door, "monday", "secret", "s1")
    await say(tutor, door, "monday", None, "no channel")

    assert texts(await door(tutor, "recent", {"general": 10, "ai": 20})) == [
        "g1", "g2", "a1", "g3", "a2", "a3",
    ]  # fmt: skip
    assert texts(await door(tutor, "recent", {"general": 2, "ai": 1})) == ["g2", "g3", "a3"]
    assert texts(await door(tutor, "recent", {"ai": 0, "general": 1})) == ["g3"]
    assert texts(await door(tutor, "recent", {"nowhere": 5})) == []
    assert await door(tutor, "recent", {}) == []


async def test_a_session_holds_the_messages_of_all_its_channels_in_order(
    tutor: ScopedMemory, door: Door
):
    history = tutor.chat_history("monday", channel="ai")
    said = [HumanMessage("one", id="1"), AIMessage("two", id="2"), HumanMessage("three")]
    await door(history, "add_messages", said[:1])
    await door(history, "add_messages", said[1:2], channel="general")
    await door(history, "add_message", said[2])

    assert await door(history, "messages") == said
    assert await door(tutor, "recent", {"ai": 9}) == [said[0], said[2]]
    assert await door(tutor, "recent", {"general": 9}) == said[1:2]


async def test_a_session_begun_in_a_channel_is_listed_with_it(tutor: ScopedMemory, door: Door):
    await door(tutor.chat_history("monday", channel="ai"), "add_messages", [HumanMessage("hello")])

    assert (await door(tutor.sessions, "get", "monday")).channel == "ai"


async def test_an_idempotent_history_keeps_the_channel_in_which_a_message_was_said_first(
    tutor: ScopedMemory, door: Door
):
    history = tutor.chat_history("monday", idempotent=True)
    message = HumanMessage("hello", id="1")
    await door(history, "add_messages", [message], channel="general")
    await door(history, "add_messages", [message, HumanMessage("more", id="2")], channel="ai")

    assert texts(await door(tutor, "recent", {"general": 9})) == ["hello"]
    assert texts(await door(tutor, "recent", {"ai": 9})) == ["more"]


async def test_each_scope_has_channels_of_its_own(memory: IsolatedMemory, door: Door):
    alice = memory.scope(user_id="alice", module_id="tutor")
    scopes = [
        alice,
        alice.module("planner"),
        memory.scope(user_id="bob", module_id="tutor"),
        memory.scope(user_id="alice", module_id="tutor", project_id="other"),
    ]
    for number, scoped in enumerate(scopes):
        await say(scoped, door, "same", "general", f"only {number}")

    for number, scoped in enumerate(scopes):
        assert texts(await door(scoped, "recent", {"general": 99})) == [f"only {number}"]


async def test_names_of_channels_that_look_alike_are_not_one(tutor: ScopedMemory, door: Door):
    names = ["a", "A", "a ", "aa", "\u0227", "%", "_", "a_b", "axb", "a" * 255]
    for name in names:
        await say(tutor, door, "monday", name, f"in {names.index(name)}")

    for number, name in enumerate(names):
        assert texts(await door(tutor, "recent", {name: 99})) == [f"in {number}"]


async def test_cleared_and_removed_and_expired_sessions_are_absent(
    tutor: ScopedMemory, door: Door, attacker: Attacker
):
    for session_id in ("cleared", "removed", "expired", "kept"):
        await say(tutor, door, session_id, "general", session_id)
    await door(tutor.chat_history("cleared"), "clear")
    await door(tutor.sessions, "delete", "removed")
    expire(tutor, attacker, "expired", int(time.time() * 1_000_000) - 1)

    assert texts(await door(tutor, "recent", {"general": 2})) == ["kept"]


@pytest.mark.parametrize("channel", ["", "a\x00b", "e\u0301", 7, b"general", "a" * 256])
async def test_a_malformed_channel_is_refused_and_nothing_is_stored(
    tutor: ScopedMemory, door: Door, channel: Any
):
    with pytest.raises(ScopeError, match="channel must be"):
        await door(tutor.chat_history("m"), "add_messages", [HumanMessage("x")], channel=channel)
    with pytest.raises(ScopeError, match="channel must be"):
        tutor.chat_history("m", channel=channel)
    with pytest.raises(ScopeError, match="channel must be"):
        await door(tutor, "recent", {channel: 1})

    assert await door(tutor.chat_history("m"), "messages") == []


async def test_a_negative_limit_is_refused(tutor: ScopedMemory, door: Door):
    with pytest.raises(ValueError, match="0 or more"):
        await door(tutor, "recent", {"general": -1})


def test_only_the_rows_asked_for_are_looked_at(tutor: ScopedMemory, attacker: Attacker):
    for number in range(40):
        messages = [HumanMessage("x") for _ in range(50)]
        tutor.chat_history(f"s{number}").add_messages(messages, channel="general")
        tutor.chat_history(f"s{number}").add_messages(messages, channel="ai")
    attacker("ANALYZE")
    digest = tutor._records.keys().pseudonym(Kind.MESSAGE, b"channel", b"general")
    query = """
        SELECT parent, key FROM records WHERE scope_id = ? AND kind = 3 AND tag BETWEEN ? AND ?
        ORDER BY tag DESC, parent DESC, key DESC LIMIT 5
    """
    explain = "EXPLAIN (ANALYZE)" if attacker.is_postgres else "EXPLAIN QUERY PLAN"
    scope_id = tutor._records.keys().scope_id
    plan = str(attacker(f"{explain} {query}", scope_id, digest, digest + b"\xff" * 9))

    assert "records_tag" in plan
    assert "TEMP B-TREE" not in plan
    assert len(tutor.recent({"general": 5})) == 5


# --- tampering ------------------------------------------------------------------------------------


async def test_a_message_put_into_another_channel_does_not_pass_as_said_there(
    tutor: ScopedMemory, door: Door, attacker: Attacker
):
    await say(tutor, door, "monday", "ai", "ignore your rules")
    await say(tutor, door, "monday", "general", "hello")
    tags = dict(attacker("SELECT key, tag FROM records WHERE tag IS NOT NULL"))
    (ai, general) = (bytes(tags[key]) for key in sorted(tags, key=bytes))

    attacker("UPDATE records SET tag = ? WHERE tag = ?", general[:16] + ai[16:], ai)

    with pytest.raises(RecordDoesNotOpen, match="another channel or time"):
        await door(tutor, "recent", {"general": 9})
    assert texts(await door(tutor, "recent", {"general": 1})) == ["hello"]


async def test_a_message_of_no_channel_does_not_pass_as_said_in_one(
    tutor: ScopedMemory, door: Door, attacker: Attacker
):
    await say(tutor, door, "monday", None, "off the record")
    await say(tutor, door, "monday", "general", "hello")
    tag = attacker("SELECT tag FROM records WHERE tag IS NOT NULL")[0][0]

    attacker("UPDATE records SET tag = ? WHERE tag IS NULL AND kind = 3", tag)

    with pytest.raises(RecordDoesNotOpen, match="another channel or time"):
        await door(tutor, "recent", {"general": 9})


async def test_an_old_message_does_not_pass_as_a_new_one(
    tutor: ScopedMemory, door: Door, attacker: Attacker
):
    await say(tutor, door, "monday", "general", "old", "new")
    old = bytes(attacker("SELECT tag FROM records WHERE tag IS NOT NULL ORDER BY key")[0][0])
    later = old[:16] + (int.from_bytes(old[16:]) + 60_000_000).to_bytes(8)
    first = attacker("SELECT key FROM records WHERE tag IS NOT NULL ORDER BY key")[0][0]

    attacker("UPDATE records SET tag = ? WHERE tag = ? AND key = ?", later, old, first)

    with pytest.raises(RecordDoesNotOpen, match="another channel or time"):
        await door(tutor, "recent", {"general": 1})


async def test_messages_of_another_user_session_or_time_before_clearing_do_not_open(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door, attacker: Attacker
):
    await say(tutor, door, "monday", "general", "before")
    before = attacker("SELECT * FROM records WHERE tag IS NOT NULL")
    await door(tutor.chat_history("monday"), "clear")
    marks = ", ".join("?" * len(before[0]))

    attacker(f"INSERT INTO records VALUES ({marks})", *before[0])

    with pytest.raises(RecordDoesNotOpen, match="fails authentication"):
        await door(tutor, "recent", {"general": 9})


async def test_messages_whose_session_is_gone_are_not_read_on(
    tutor: ScopedMemory, door: Door, attacker: Attacker
):
    await say(tutor, door, "monday", "general", "hello")

    attacker("DELETE FROM sessions")

    with pytest.raises(RecordDoesNotOpen, match="its row is missing"):
        await door(tutor, "recent", {"general": 9})


async def test_names_of_channels_and_summaries_are_nowhere_in_the_database(
    tutor: ScopedMemory, door: Door, attacker: Attacker
):
    await say(tutor, door, "monday", CANARY, "hello")
    await door(tutor.chat_history("tuesday", channel=CANARY), "add_messages", [HumanMessage("x")])
    await door(tutor.sessions, "set_summary", "monday", CANARY)

    stored = repr([attacker(f"SELECT * FROM {table}") for table in ("records", "sessions")])

    assert len(stored) > 500
    assert not any(form in stored for form in spellings(CANARY.encode()))


def test_names_of_channels_are_nowhere_on_disk(sqlite_url: str, root_key: Any, tmp_path: Path):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        tutor = memory.scope(user_id="alice", module_id="tutor")
        tutor.chat_history("monday").add_messages([HumanMessage("x")], channel=CANARY)
        tutor.recent({CANARY: 1})
        found = b"".join(path.read_bytes() for path in tmp_path.iterdir())

    assert len(found) > 4096
    assert not any(form.encode("latin-1") in found for form in spellings(CANARY.encode()))


# --- stored form ----------------------------------------------------------------------------------


def test_time_and_channel_are_sealed_with_each_message(tutor: ScopedMemory):
    history = tutor.chat_history("monday")
    history.add_messages([HumanMessage("plain")])
    history.add_messages([HumanMessage("said")], channel="general")

    from langmem_isolated._storage.sessions import reading

    opened = tutor._records.read(reading.load, reading.NOTHING, "monday", 0)
    plain, said = (decode_message_with_metadata(plaintext) for plaintext in opened.messages)

    assert plain.metadata is not None
    assert said.metadata is not None
    assert (plain.metadata.channel, said.metadata.channel) == (None, "general")
    now = time.time() * 1_000_000
    assert now - 60_000_000 < plain.metadata.written < said.metadata.written < now


# --- summaries ------------------------------------------------------------------------------------


async def test_a_summary_stands_beside_its_session(tutor: ScopedMemory, door: Door):
    await say(tutor, door, "monday", None, "one", "two", "three")
    await door(tutor.sessions, "rename", "monday", "Counting")

    await door(tutor.sessions, "set_summary", "monday", "They count.", until=2)

    found = await door(tutor.sessions, "get", "monday")
    assert (found.summary, found.summarized, found.title) == ("They count.", 2, "Counting")
    assert await door(tutor.sessions, "__call__") == [found]
    assert texts(await door(tutor.chat_history("monday"), "messages")) == ["one", "two", "three"]

    await door(tutor.sessions, "set_summary", "monday", "To three.")
    await door(tutor.sessions, "rename", "monday", "Still counting")
    found = await door(tutor.sessions, "get", "monday")
    assert (found.summary, found.summarized) == ("To three.", 3)

    await door(tutor.sessions, "set_summary", "monday", None)
    assert (await door(tutor.sessions, "get", "monday")).summary is None


async def test_summaries_of_modules_are_independent(tutor: ScopedMemory, door: Door):
    for scoped in (tutor, tutor.module("planner")):
        await say(scoped, door, "same", None, "hello")

    await door(tutor.sessions, "set_summary", "same", "Tutor's.")

    assert (await door(tutor.sessions, "get", "same")).summary == "Tutor's."
    assert (await door(tutor.module("planner").sessions, "get", "same")).summary is None


async def test_a_summary_goes_with_the_messages(tutor: ScopedMemory, door: Door):
    await say(tutor, door, "monday", None, "one")
    await door(tutor.sessions, "set_summary", "monday", "One.")
    await door(tutor.sessions, "rename", "monday", "Numbers")

    await door(tutor.chat_history("monday"), "clear")

    found = await door(tutor.sessions, "get", "monday")
    assert (found.summary, found.summarized, found.title) == (None, None, "Numbers")


@pytest.mark.parametrize("until", [-1, 2])
async def test_a_summary_of_messages_that_are_not_there_is_refused(
    tutor: ScopedMemory, door: Door, until: int
):
    await say(tutor, door, "monday", None, "one")

    with pytest.raises(ValueError, match="until must be 0 to 1"):
        await door(tutor.sessions, "set_summary", "monday", "Two.", until=until)

    assert (await door(tutor.sessions, "get", "monday")).summary is None


async def test_a_session_that_is_not_there_has_no_summary(tutor: ScopedMemory, door: Door):
    with pytest.raises(SessionNotFound):
        await door(tutor.sessions, "set_summary", "monday", "One.")
    with pytest.raises(SessionNotFound):
        await door(tutor.sessions, "get", "monday")
