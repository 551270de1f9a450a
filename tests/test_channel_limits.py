"""Sessions that keep so many messages of a channel: what drops out, and what is noticed still."""

import multiprocessing
import random
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from langchain_core.messages import BaseMessage, HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory, SessionRules
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.transcripts import Embedded, Source, put_embeddings
from langmem_isolated.errors import RecordDoesNotOpen, RecordError
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.containers import state_of

LIMITS = {"general": 10, "ai": 20}


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def limited(database_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    rules = SessionRules(channel_limits=LIMITS)
    with IsolatedMemory(database_url, root_key=root_key, session_rules=rules) as memory:
        yield memory


def texts(messages: list[BaseMessage]) -> list[str]:
    return [message.text for message in messages]


def said(*numbers: int) -> list[BaseMessage]:
    return [HumanMessage(str(number)) for number in numbers]


async def test_a_session_keeps_the_newest_10_of_general_and_20_of_ai(
    limited: IsolatedMemory, door: Door, database_url: str
):
    scoped = limited.scope(user_id="alice", module_id="tutor")
    history = scoped.chat_history("monday")
    for number in range(30):
        await door(history, "add_messages", said(number), channel="general")
        await door(history, "add_messages", said(100 + number), channel="ai")
        if number % 10 == 0:
            await door(history, "add_messages", said(200 + number))

    kept = texts(await door(history, "messages"))

    assert [one for one in kept if len(one) < 3] == [str(n) for n in range(20, 30)]
    assert [one for one in kept if one[:1] == "1" and len(one) == 3] == [
        str(100 + n) for n in range(10, 30)
    ]
    assert [one for one in kept if one[:1] == "2" and len(one) == 3] == ["200", "210", "220"]
    assert len(kept) == await door(history, "count") == 33
    session = await door(scoped.sessions, "get", "monday")
    attacker = Attacker(database_url)
    stored = attacker("SELECT count(*), sum(length(sealed)) FROM records")
    attacker.close()
    assert stored == [(33, session.size)]
    assert scoped.verify().messages == 33
    assert texts(scoped.recent({"general": 100})) == [str(n) for n in range(20, 30)]


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_said_in_any_order_a_session_keeps_the_newest_of_each_channel(
    tutor: ScopedMemory, seed: int
):
    """Against a model, with pages of every size."""
    chance = random.Random(seed)
    limits = {"a": 1, "b": 3, "c": 7}
    tutor.sessions.create("monday", channel_limits=limits)
    writers = [tutor.chat_history("monday") for _ in range(2)]
    model: list[tuple[str | None, str]] = []
    for step in range(40):
        channel = chance.choice(["a", "b", "c", "d", None])
        new = said(*range(step * 100, step * 100 + chance.choice([1, 1, 2, 9])))
        chance.choice(writers).add_messages(new, channel=channel)
        model += [(channel, text) for text in texts(new)]
        for limited_channel, limit in limits.items():
            of_channel = [line for line in model if line[0] == limited_channel]
            for line in of_channel[:-limit]:
                model.remove(line)
        if step == 25:
            limits = {"b": 2, "d": 4}
            tutor.sessions.set_channel_limits("monday", limits)
            for name, limit in limits.items():
                for line in [line for line in model if line[0] == name][:-limit]:
                    model.remove(line)
        expected = [text for _, text in model]
        reader = tutor.chat_history("monday")
        assert texts(reader.messages) == expected
        limit = chance.randrange(1, 6)
        page = reader.page(limit=limit)
        read = page.messages
        while page.before is not None:
            page = reader.page(before=page.before, limit=limit)
            assert page.messages
            read = page.messages + read
        assert texts(read) == expected
    assert tutor.verify().messages == len(model)


async def test_more_than_the_limit_at_once_keeps_the_newest_of_them(
    tutor: ScopedMemory, door: Door, attacker: Attacker
):
    await door(tutor.sessions, "create", "monday", channel_limits={"general": 3})
    history = tutor.chat_history("monday", channel="general")
    await door(history, "add_messages", said(1, 2))
    await door(history, "add_messages", said(*range(10, 20)))

    assert texts(await door(history, "messages")) == ["17", "18", "19"]
    assert attacker("SELECT count(*) FROM records") == [(3,)]
    await door(history, "add_messages", said(20))
    assert texts(await door(history, "messages")) == ["18", "19", "20"]


async def test_limits_that_come_later_take_out_what_is_too_many(
    tutor: ScopedMemory, door: Door, monkeypatch: pytest.MonkeyPatch
):
    for module in ("channel_limits", "writing"):
        monkeypatch.setattr(f"langmem_isolated._storage.sessions.{module}.MOST_AT_ONCE", 4)
    history = tutor.chat_history("monday")
    for number in range(20):
        await door(history, "add_messages", said(number), channel=["general", "ai"][number % 2])

    await door(tutor.sessions, "set_channel_limits", "monday", {"general": 2})

    kept = texts(await door(history, "messages"))
    assert kept == ["1", "3", "5", "7", "9", "11", "13", "15", "16", "17", "18", "19"]
    await door(tutor.sessions, "set_channel_limits", "monday", {})
    await door(history, "add_messages", said(20, 21, 22), channel="general")
    assert await door(history, "count") == 15
    assert tutor.verify().messages == 15


def test_rules_that_come_later_hold_for_sessions_that_are_there(
    database_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(database_url, root_key=root_key) as before:
        scoped = before.scope(user_id="alice", module_id="tutor")
        scoped.sessions.create("own", channel_limits={"general": 12})
        for name in ("all", "own"):
            scoped.chat_history(name).add_messages(said(*range(15)), channel="general")
    with IsolatedMemory(
        database_url, root_key=root_key, session_rules=SessionRules(channel_limits=LIMITS)
    ) as after:
        scoped = after.scope(user_id="alice", module_id="tutor")
        for name in ("all", "own"):
            history = scoped.chat_history(name)
            assert len(history.messages) == {"all": 15, "own": 12}[name]
            history.add_messages(said(15), channel="general")
            assert history.count() == {"all": 10, "own": 12}[name]
        scoped.sessions.set_channel_limits("own", None)
        assert scoped.chat_history("own").count() == 10
        scoped.verify()


async def test_clearing_keeps_the_limits_and_nothing_else(tutor: ScopedMemory, door: Door):
    await door(tutor.sessions, "create", "monday", channel_limits={"general": 2})
    history = tutor.chat_history("monday", channel="general")
    await door(history, "add_messages", said(1, 2, 3))
    await door(history, "clear")
    assert await door(history, "messages") == []

    for number in range(4, 8):
        await door(history, "add_messages", said(number))

    assert texts(await door(history, "messages")) == ["6", "7"]


async def test_a_message_that_dropped_out_is_stored_when_it_is_sent_again(
    tutor: ScopedMemory, door: Door
):
    await door(tutor.sessions, "create", "monday", channel_limits={"general": 2})
    history = tutor.chat_history("monday", channel="general", idempotent=True)
    one, two, three = (HumanMessage(str(n), id=str(n)) for n in range(3))
    for message in (one, two, three, two, one):
        await door(history, "add_messages", [message])

    assert texts(await door(history, "messages")) == ["2", "0"]
    assert tutor.verify().messages == 2


def test_an_id_that_was_said_twice_is_no_damage_when_the_first_dropped_out(tutor: ScopedMemory):
    tutor.sessions.create("monday", channel_limits={"general": 2})
    history = tutor.chat_history("monday", channel="general")
    for text, message_id in (("one", "same"), ("two", "same"), ("three", "other")):
        history.add_messages([HumanMessage(text, id=message_id)])

    assert texts(history.messages) == ["two", "three"]
    assert tutor.verify().messages == 2


async def test_what_recall_finds_is_what_a_session_keeps(tutor: ScopedMemory, door: Door):
    await door(tutor.sessions, "create", "monday", channel_limits={"general": 1})
    history = tutor.chat_history("monday")
    await door(history, "add_messages", [HumanMessage("apples")], channel="general")
    await door(history, "add_messages", [HumanMessage("pears")], channel="ai")
    await door(history, "add_messages", [HumanMessage("plums")], channel="general")

    assert [found.text for found in tutor.recall("apples pears plums")] in (
        ["pears", "plums"],
        ["plums", "pears"],
    )
    assert tutor.recall("apples") == []


def test_what_dropped_out_while_it_was_embedded_leaves_no_vector(
    tutor: ScopedMemory, attacker: Attacker
):
    tutor.sessions.create("monday", channel_limits={"general": 1})
    tutor.chat_history("monday").add_messages(said(1), channel="general")
    keys = tutor._records.keys()
    source = Source(Kind.SESSION, keys.pseudonym(Kind.SESSION, b"monday"))
    birth = state_of(tutor, attacker, Kind.SESSION, "monday").birth
    tutor.chat_history("monday").add_messages(said(2), channel="general")

    embedded = [Embedded(source, birth, key(number), b"vector") for number in range(2)]
    tutor._records.write(put_embeddings, embedded, 1)

    found = attacker("SELECT key FROM records WHERE kind = ?", int(Kind.EMBEDDING))
    assert [bytes(one) for (one,) in found] == [key(1)]
    tutor.chat_history("monday").add_messages(said(3), channel="general")
    assert attacker("SELECT key FROM records WHERE kind = ?", int(Kind.EMBEDDING)) == []


# --- at once --------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [3])
def test_threads_that_write_at_once_keep_the_limits(tutor: ScopedMemory, count: int):
    tutor.sessions.create("monday", channel_limits={"a": 5, "b": 3})

    def write(channel: str) -> None:
        history = tutor.chat_history("monday", channel=channel)
        for number in range(15):
            history.add_messages(said(number))

    with ThreadPoolExecutor(count) as threads:
        for done in [threads.submit(write, channel) for channel in "abc"]:
            done.result()

    by_channel: dict[str | None, int] = defaultdict(int)
    for line in tutor.chat_history("monday").timed():
        by_channel[line.channel] += 1
    assert by_channel == {"a": 5, "b": 3, "c": 15}
    assert tutor.verify().messages == 23


def _write(url: str, channel: str) -> None:
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
        for number in range(15):
            history.add_messages(said(number), channel=channel)


def test_processes_that_write_at_once_keep_the_limits(tutor: ScopedMemory, database_url: str):
    tutor.sessions.create("monday", channel_limits={"a": 4})
    spawning = multiprocessing.get_context("spawn")
    running = [spawning.Process(target=_write, args=(database_url, name)) for name in "aab"]
    for process in running:
        process.start()
    for process in running:
        process.join(60)

    assert [process.exitcode for process in running] == [0, 0, 0]
    assert tutor.chat_history("monday").count() == len(tutor.chat_history("monday").messages) == 19
    assert tutor.verify().messages == 19


# --- attacks --------------------------------------------------------------------------------------


@pytest.fixture
def gapped(tutor: ScopedMemory) -> ScopedMemory:
    """A session whose messages 0, 2, 4 and 6 are gone."""
    tutor.sessions.create("monday", channel_limits={"general": 2})
    history = tutor.chat_history("monday")
    for number in range(12):
        history.add_messages(said(number), channel=["general", "ai"][number % 2])
    assert texts(history.messages) == ["1", "3", "5", "7", "8", "9", "10", "11"]
    return tutor


def key(number: int) -> bytes:
    return number.to_bytes(8)


@pytest.mark.parametrize("number", [1, 3, 7, 8, 10, 11])
def test_a_message_that_somebody_removed_from_among_gaps_is_missed(
    gapped: ScopedMemory, attacker: Attacker, number: int
):
    attacker("DELETE FROM records WHERE key = ?", key(number))

    history = gapped.chat_history("monday")
    with pytest.raises(RecordDoesNotOpen):
        _ = history.messages
    with pytest.raises(RecordDoesNotOpen):
        history.page(limit=7)
    with pytest.raises(RecordDoesNotOpen):
        history.page(before=number + 1, limit=1)
    with pytest.raises(RecordDoesNotOpen):
        gapped.recall("1")
    with pytest.raises(RecordDoesNotOpen):
        gapped.verify()


def test_the_end_of_a_session_with_gaps_cannot_be_cut_off(gapped: ScopedMemory, attacker: Attacker):
    attacker("DELETE FROM records WHERE key >= ?", key(10))

    for limit in (1, 2, 5, 20):
        with pytest.raises(RecordDoesNotOpen):
            gapped.chat_history("monday").page(limit=limit)


@pytest.mark.parametrize("instead_of", [None, 1, 3])
def test_a_message_that_dropped_out_cannot_be_put_back(
    tutor: ScopedMemory, attacker: Attacker, instead_of: int | None
):
    columns = "scope_id, kind, parent, key, alias, tag, sealed, size, created_at, updated_at"
    tutor.sessions.create("monday", channel_limits={"general": 2})
    history = tutor.chat_history("monday")
    for number in range(8):
        history.add_messages(said(number), channel=["general", "ai"][number % 2])
        if number == 3:
            [row] = attacker(f"SELECT {columns} FROM records WHERE key = ?", key(2))
    assert "2" not in texts(history.messages)
    if instead_of is not None:
        attacker("DELETE FROM records WHERE key = ?", key(instead_of))

    attacker(f"INSERT INTO records ({columns}) VALUES ({', '.join('?' * 10)})", *row)

    for read in (
        lambda: history.messages,
        lambda: history.page(limit=6),
        lambda: tutor.recall("2"),
        tutor.verify,
    ):
        with pytest.raises(RecordDoesNotOpen):
            read()


def test_messages_that_changed_places_in_a_session_with_gaps_are_noticed(
    gapped: ScopedMemory, attacker: Attacker
):
    attacker("UPDATE records SET key = ? WHERE key = ?", key(2), key(3))

    with pytest.raises(RecordDoesNotOpen):
        _ = gapped.chat_history("monday").messages


@pytest.mark.parametrize("column", ["updated_at", "sealed", "key"])
def test_a_column_of_another_type_in_a_session_with_gaps_is_noticed(
    sqlite_url: str, root_key: LocalRootKey, column: str
):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        attacker = Attacker(sqlite_url)
        tutor = memory.scope(user_id="alice", module_id="tutor")
        tutor.sessions.create("monday", channel_limits={"general": 1})
        for number in range(4):
            tutor.chat_history("monday").add_messages(
                said(number), channel=["ai", "general"][number % 2]
            )
        attacker(f"UPDATE records SET {column} = 'text' WHERE key = ?", key(0))

        with pytest.raises(RecordDoesNotOpen):
            _ = tutor.chat_history("monday").messages
        attacker.close()


def test_no_other_channels_message_drops_out_because_somebody_changed_a_tag(
    tutor: ScopedMemory, attacker: Attacker
):
    tutor.sessions.create("monday", channel_limits={"general": 2})
    history = tutor.chat_history("monday")
    history.add_messages(said(0), channel="ai")
    history.add_messages(said(1, 2), channel="general")
    [(tag,)] = attacker("SELECT tag FROM records WHERE key = ?", key(1))

    attacker("UPDATE records SET tag = ? WHERE key = ?", bytes(tag), key(0))

    with pytest.raises(RecordDoesNotOpen):
        history.add_messages(said(3), channel="general")
    assert texts(history.messages) == ["0", "1", "2"]


def test_a_channel_of_which_somebody_took_messages_away_takes_no_more(
    tutor: ScopedMemory, attacker: Attacker
):
    tutor.sessions.create("monday", channel_limits={"general": 2})
    history = tutor.chat_history("monday", channel="general")
    history.add_messages(said(0, 1))

    attacker("UPDATE records SET tag = NULL")

    with pytest.raises(RecordDoesNotOpen, match="channel"):
        history.add_messages(said(2))
    assert texts(history.messages) == ["0", "1"]


def test_limits_that_somebody_wrote_into_the_row_are_refused(
    gapped: ScopedMemory, attacker: Attacker
):
    [(column,)] = attacker("SELECT channels FROM sessions")

    attacker("UPDATE sessions SET channels = NULL")
    with pytest.raises(RecordDoesNotOpen):
        _ = gapped.chat_history("monday").messages
    attacker("UPDATE sessions SET channels = ?", bytes(column)[:-1] + b"\x09")
    with pytest.raises(RecordDoesNotOpen):
        gapped.chat_history("monday").add_messages(said(12), channel="general")


def test_a_later_form_of_the_column_is_said_so(tutor: ScopedMemory, attacker: Attacker):
    """As whoever has a later version, and the keys, may write it."""
    tutor.sessions.create("monday", channel_limits={"general": 2})
    keys = tutor._records.keys()
    digest = keys.pseudonym(Kind.SESSION, b"monday")
    state = state_of(tutor, attacker, Kind.SESSION, "monday")
    state = state._replace(channels=bytes([2]) + state.channels[1:])
    attacker(
        "UPDATE sessions SET channels = ?, row_mac = ?",
        state.channels, state.computed_mac(Kind.SESSION, keys, digest),
    )  # fmt: skip

    with pytest.raises(RecordError, match="form 2"):
        tutor.chat_history("monday").add_messages(said(1), channel="general")
    with pytest.raises(RecordError, match="form 2"):
        _ = tutor.chat_history("monday").messages


async def test_a_session_without_limits_says_nothing_of_channels(
    tutor: ScopedMemory, attacker: Attacker, door: Door
):
    await door(tutor.chat_history("monday"), "add_messages", said(1), channel="general")

    assert attacker("SELECT count(*) FROM sessions WHERE channels IS NULL") == [(1,)]
