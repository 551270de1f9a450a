"""What was said is found again: by words and meaning, in sessions and threads, by who said it."""

import asyncio
import logging
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.embeddings import Embeddings
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)

from langmem_isolated import IsolatedMemory, Limits, LocalRootKey, Recalled, ScopedMemory
from langmem_isolated._codecs.messages import decode_partially, encode_message
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.transcripts import Source
from langmem_isolated.errors import (
    KeyDestroyed,
    LimitExceeded,
    RecordDoesNotOpen,
    RecordError,
    ScopeError,
)
from langmem_isolated.recall.candidates import Candidate, Candidates, SourceNames
from langmem_isolated.recall.embedding import EmbeddingWork
from tests.conftest import Attacker, Door
from tests.test_keyring import ALICE, erase, opened_anew
from tests.threads import at, count, put

CANARY = "canary-4711"


class Topics(Embeddings):
    """Embeds by topic, and counts the texts it was given."""

    model = "topics"

    def __init__(self, *topics: tuple[str, ...]) -> None:
        self._topics = topics
        self.embedded: list[str] = []

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.embedded += texts
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        found = text.lower()
        return [float(any(word in found for word in topic)) for topic in self._topics]


PETS_AND_CARS = ("dog", "cat", "puppy", "animal"), ("car", "truck", "vehicle")


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def warm(database_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    """A memory that keeps what it opened."""
    with IsolatedMemory(database_url, root_key=root_key, plaintext_cache_seconds=300) as memory:
        yield memory


def say(scoped: ScopedMemory, session_id: str, *said: str | BaseMessage, **where: Any) -> None:
    messages = [HumanMessage(one) if isinstance(one, str) else one for one in said]
    scoped.chat_history(session_id).add_messages(messages, **where)


def texts(found: list[Recalled]) -> list[str]:
    return [one.text for one in found]


# --- by words -------------------------------------------------------------------------------------


async def test_a_message_is_found_with_who_said_it_when_and_where(tutor: ScopedMemory, door: Door):
    before = datetime.now(UTC) - timedelta(microseconds=1)
    say(tutor, "monday", "I like zebras.", AIMessage("Zebras are striped.", id="m1"), "Bye.")

    best, other, beside = await door(tutor, "recall", "striped zebras")

    assert (best.text, best.role, best.message_id) == ("Zebras are striped.", "ai", "m1")
    assert (best.source, best.source_id, best.channel) == ("session", "monday", None)
    assert before <= best.time <= datetime.now(UTC)
    assert best.score > other.score > beside.score > 0
    assert (other.text, beside.text) == ("I like zebras.", "Bye.")


@pytest.mark.parametrize(
    ("field", "value"), [("content", None), ("content", 5), ("role", None)], ids=str
)
async def test_a_message_whose_text_was_taken_away_hides_no_other(
    tutor: ScopedMemory, door: Door, field: str, value: Any
):
    without = ChatMessage("Lions roar.", role="guide", id="m1")
    setattr(without, field, value)
    say(tutor, "monday", without, "I like zebras.")
    put(tutor.checkpointer(), at("t"), {"messages": [without, HumanMessage("Zebras!")]})

    found = await door(tutor, "recall", "zebras")

    assert {"I like zebras.", "Zebras!"} <= {*texts(found)}
    assert tutor.verify()


async def test_nothing_is_found_where_nothing_was_ever_said(tutor: ScopedMemory, door: Door):
    assert await door(tutor, "recall", "zebra") == []


def test_all_sessions_are_searched_and_the_newest_of_equals_comes_first(tutor: ScopedMemory):
    for day in ("monday", "tuesday", "wednesday"):
        say(tutor, day, f"a zebra on {day}")

    found = tutor.recall("zebra")

    assert [one.source_id for one in found] == ["wednesday", "tuesday", "monday"]


def test_more_sessions_than_are_asked_one_by_one_are_searched(tutor: ScopedMemory):
    for number in range(20):
        say(tutor, f"s{number}", f"zebra number {number}")

    assert len(tutor.recall("zebra", limit=30)) == 20
    assert texts(tutor.recall("zebra", sessions=["s3"])) == ["zebra number 3"]
    some = [f"s{number}" for number in range(18)]
    assert len(tutor.recall("zebra", limit=30, sessions=some)) == 18


@pytest.mark.parametrize(
    "query",
    ["", " ", "?!", ".*", "[", "(?P<x>", "\\", "'; DROP TABLE records; --", '"', "%", "\0", "🙂",
     "NOT AND OR NEAR", "unheard of " * 900],
)  # fmt: skip
async def test_a_hostile_query_finds_nothing_and_breaks_nothing(
    tutor: ScopedMemory, door: Door, query: str
):
    say(tutor, "monday", "I like zebras.")

    assert await door(tutor, "recall", query) == []
    assert texts(tutor.recall("zebras")) == ["I like zebras."]


@pytest.mark.parametrize(
    ("said", "query"),
    [("昨日東京に行きました", "東京"), ("Ich wohne in der HAUPTSTRASSE", "hauptstraße"),
     ("नमस्ते दुनिया", "दुनिया"), ("Καλημέρα κόσμε", "ΚΑΛΗΜΈΡΑ")],
)  # fmt: skip
def test_messages_of_any_script_are_found(tutor: ScopedMemory, said: str, query: str):
    say(tutor, "monday", "something else", said)

    assert texts(tutor.recall(query))[0] == said


@pytest.mark.parametrize("query", [None, 5, b"zebra", ["zebra"]])
def test_a_query_that_is_no_text_is_refused(tutor: ScopedMemory, query: Any):
    with pytest.raises(TypeError, match="query must be a str"):
        tutor.recall(query)


# --- what is asked for ----------------------------------------------------------------------------


async def test_the_limit_holds_and_may_be_zero(tutor: ScopedMemory, door: Door):
    say(tutor, "monday", *[f"zebra {number}" for number in range(15)])

    assert len(await door(tutor, "recall", "zebra")) == 10
    assert len(await door(tutor, "recall", "zebra", limit=3)) == 3
    assert await door(tutor, "recall", "zebra", limit=0) == []
    with pytest.raises(ValueError, match="limit must be 0 or more, got -1"):
        await door(tutor, "recall", "zebra", limit=-1)


def test_roles_choose_by_their_langchain_names_or_those_of_models(tutor: ScopedMemory):
    say(
        tutor,
        "monday",
        "zebra 1",
        AIMessage("zebra 2"),
        AIMessageChunk("zebra 3"),
        SystemMessage("zebra 4"),
        ToolMessage("zebra 5", tool_call_id="c"),
        ChatMessage("zebra 6", role="referee"),
    )

    def found(*roles: str) -> list[str]:
        return sorted(texts(tutor.recall("zebra", roles=roles)))

    assert found("human") == found("user") == ["zebra 1"]
    assert found("ai") == found("assistant") == ["zebra 2", "zebra 3"]
    assert found("system", "tool") == ["zebra 4", "zebra 5"]
    assert found("referee") == ["zebra 6"]
    assert found() == found("nobody") == []
    assert texts(tutor.recall("zebra", roles="human")) == ["zebra 1"]


def test_since_leaves_out_what_is_older(tutor: ScopedMemory):
    say(tutor, "monday", "an old zebra")
    moment = tutor.recall("zebra")[0].time + timedelta(microseconds=1)
    while datetime.now(UTC) <= moment:
        pass
    say(tutor, "monday", "a new zebra")

    assert texts(tutor.recall("zebra", since=moment)) == ["a new zebra"]
    with pytest.raises(ValueError, match="time zone"):
        tutor.recall("zebra", since=datetime(2026, 1, 1))  # noqa: DTZ001


def test_a_date_begins_at_midnight_utc(tutor: ScopedMemory):
    today = datetime.now(UTC).date()
    say(tutor, "monday", "a zebra")

    assert texts(tutor.recall("zebra", since=today)) == ["a zebra"]
    assert tutor.recall("zebra", since=today + timedelta(days=2)) == []
    with pytest.raises(
        TypeError, match="since must be a date, or a datetime with a time zone, got"
    ):
        tutor.recall("zebra", since="2026-01-01")  # type: ignore[arg-type]


@pytest.mark.parametrize("role", ["Human", "humann", "asistant", "USER", "tools"])
def test_a_misspelt_role_is_refused_and_not_quoted(tutor: ScopedMemory, role: str):
    with pytest.raises(ValueError, match="did you mean") as refusal:
        tutor.recall("zebra", roles=[role])

    assert f'"{role}"' not in str(refusal.value)
    with pytest.raises(TypeError, match="A role must be a str, got int"):
        tutor.recall("zebra", roles=[5])  # type: ignore[list-item]


def test_what_answers_a_question_is_found_beside_what_shares_its_words(tutor: ScopedMemory):
    say(tutor, "monday", "Good morning!", "What is your sister's name?", "Miriam.", *["Well."] * 9)
    say(tutor, "tuesday", "Miriam is a name.", "Unlike others.")

    found = texts(tutor.recall("the name of my sister", sessions=["monday"]))

    assert found[:2] == ["What is your sister's name?", "Miriam."]
    assert "Unlike others." not in found
    assert len(found) == 5


def test_who_said_it_and_the_title_of_its_session_are_searched(tutor: ScopedMemory):
    tutor.sessions.create("monday", title="Holidays in Norway")
    say(tutor, "monday", HumanMessage("We were there in May.", name="Ingrid"))
    say(tutor, "tuesday", HumanMessage("I stayed at home.", name="Olaf"), AIMessage("I see."))

    assert texts(tutor.recall("what did Olaf say")) == ["I stayed at home.", "I see."]
    assert texts(tutor.recall("Norwegian holiday Norway")) == ["We were there in May."]
    assert texts(tutor.recall("what said the assistant"))[0] == "I see."


def test_the_language_may_be_given(tutor: ScopedMemory):
    say(tutor, "monday", "Katzen")

    assert texts(tutor.recall("Katze", language="de")) == ["Katzen"]
    assert tutor.recall("Katze", language="tlh") == []
    with pytest.raises(TypeError, match="language must be a str, got int"):
        tutor.recall("Katze", language=7)  # type: ignore[arg-type]


def test_a_long_text_is_searched_in_its_beginning(database_url: str, root_key: LocalRootKey):
    limits = Limits(recall_characters=20, query_characters=10)
    with IsolatedMemory(database_url, root_key=root_key, limits=limits) as memory:
        tutor = memory.scope(user_id="alice", module_id="tutor")
        say(tutor, "monday", "a zebra " + "and so on " * 9 + "a horse")

        assert len(tutor.recall("zebra")) == 1
        assert tutor.recall("horse") == []
        with pytest.raises(LimitExceeded, match="query_characters"):
            tutor.recall("a long question")
        assert "zebra" in tutor.recall_tool().invoke({"query": "a zebra, I ask at length"})


async def test_sessions_names_sessions_and_threads_to_search(tutor: ScopedMemory, door: Door):
    say(tutor, "monday", "zebra of monday")
    say(tutor, "tuesday", "zebra of tuesday")
    put(tutor.checkpointer(), at("thread"), {"messages": [HumanMessage("zebra of thread")]})

    assert texts(await door(tutor, "recall", "zebra", sessions=["monday"])) == ["zebra of monday"]
    assert texts(await door(tutor, "recall", "zebra", sessions="thread")) == ["zebra of thread"]
    assert await door(tutor, "recall", "zebra", sessions=["unknown"]) == []
    assert await door(tutor, "recall", "zebra", sessions=[]) == []
    with pytest.raises(ScopeError):
        await door(tutor, "recall", "zebra", sessions=[""])


def test_a_channel_is_the_messages_own_or_that_of_its_session(tutor: ScopedMemory):
    tutor.sessions.create("hall", channel="general")
    say(tutor, "hall", "zebra 1")
    say(tutor, "hall", "zebra 2", channel="ai")
    say(tutor, "other", "zebra 3")

    assert texts(tutor.recall("zebra", channel="general")) == ["zebra 1"]
    [found] = tutor.recall("zebra", channel="ai")
    assert (found.text, found.channel) == ("zebra 2", "ai")


# --- what counts as said --------------------------------------------------------------------------


def test_the_text_of_a_message_is_that_of_its_text_blocks(tutor: ScopedMemory):
    blocks = [
        {"type": "text", "text": "a zebra "},
        {"type": "image_url", "image_url": {"url": "data:hidden"}},
        "and a horse ",
        {"type": "text", "text": "stand there"},
    ]
    say(tutor, "monday", HumanMessage(content=blocks), AIMessage(""))  # type: ignore[arg-type]

    assert texts(tutor.recall("horse")) == [HumanMessage(content=blocks).text]  # type: ignore[arg-type]
    assert tutor.recall("hidden") == []


def test_a_form_that_a_later_version_wrote_is_refused():
    with pytest.raises(RecordError, match="form 09"):
        decode_partially(b"\x09anything")


def test_messages_of_threads_are_found_with_those_of_their_past_states(tutor: ScopedMemory):
    saver = tutor.checkpointer()
    first = HumanMessage("a zebra", id="m1")
    config = put(saver, at("thread"), {"messages": [first], "notes": "a zebra " * 40})
    put(saver, config, {"messages": [RemoveMessage(id="m1")], "topic": {"about": "zebra " * 40}})

    [found] = tutor.recall("zebra")

    assert (found.text, found.source, found.source_id) == ("a zebra", "thread", "thread")


def test_a_message_that_was_changed_in_a_thread_counts_once_as_it_is_now(tutor: ScopedMemory):
    saver = tutor.checkpointer()
    config = put(saver, at("thread"), {"messages": [HumanMessage("an old zebra", id="m1")]})
    put(saver, config, {"messages": [HumanMessage("a new zebra", id="m1")]})

    assert texts(tutor.recall("zebra")) == ["a new zebra"]


@pytest.mark.parametrize(
    ("now", "options"),
    [
        (HumanMessage("", id="m1"), {}),
        (HumanMessage([{"type": "image_url", "image_url": "x"}], id="m1"), {}),
        (AIMessage("a horse", id="m1"), {"roles": ["user"]}),
    ],
    ids=["emptied", "a picture", "of another role"],
)
async def test_the_past_of_a_message_that_is_not_found_now_is_not_found(
    warm: IsolatedMemory, door: Door, now: BaseMessage, options: Any
):
    tutor = warm.scope(user_id="alice", module_id="tutor")
    saver = tutor.checkpointer()
    config = put(saver, at("thread"), {"messages": [HumanMessage("an old zebra", id="m1")]})
    put(saver, config, {"messages": [now]})

    for _ in range(2):
        assert await door(tutor, "recall", "zebra", **options) == []


def test_a_copy_that_a_filter_leaves_out_does_not_stand_for_another(tutor: ScopedMemory):
    message = HumanMessage("a zebra", id="m1")
    say(tutor, "monday", message, channel="web")
    put(tutor.checkpointer(), at("thread"), {"messages": [message]})

    assert texts(tutor.recall("zebra", channel="web")) == ["a zebra"]


def test_outside_are_whole_ids(tutor: ScopedMemory):
    say(tutor, "mon", "one zebra")
    say(tutor, "monday", "another zebra")

    assert texts(tutor.recall("zebra", outside="monday")) == ["one zebra"]
    assert texts(tutor.recall("zebra", outside=iter(["monday"]))) == ["one zebra"]


def test_a_message_in_a_session_and_a_thread_of_one_name_counts_once(tutor: ScopedMemory):
    message = HumanMessage("a zebra", id="m1")
    put(tutor.checkpointer(), at("monday"), {"messages": [message]})
    say(tutor, "monday", message)

    assert texts(tutor.recall("zebra")) == ["a zebra"]


def test_one_id_in_two_sessions_stands_for_two_messages_unless_they_say_the_same(
    tutor: ScopedMemory,
):
    say(tutor, "monday", HumanMessage("a zebra", id="1"), HumanMessage("same zebra", id="2"))
    say(
        tutor, "tuesday", HumanMessage("one more zebra", id="1"), HumanMessage("same zebra", id="2")
    )

    assert sorted(texts(tutor.recall("zebra"))) == ["a zebra", "one more zebra", "same zebra"]


def test_messages_without_id_all_count(tutor: ScopedMemory):
    say(tutor, "monday", "zebra", "zebra")

    assert texts(tutor.recall("zebra")) == ["zebra", "zebra"]


async def test_what_was_removed_is_not_found(tutor: ScopedMemory, door: Door):
    saver = tutor.checkpointer()
    put(saver, at("thread"), {"messages": [HumanMessage("zebra of thread")]})
    for name in ("cleared", "deleted", "kept"):
        say(tutor, name, f"zebra of {name}")
    tutor.chat_history("cleared").clear()
    tutor.sessions.delete("deleted")
    saver.delete_thread("thread")

    assert texts(await door(tutor, "recall", "zebra")) == ["zebra of kept"]


def test_an_expired_thread_is_not_searched(tutor: ScopedMemory):
    saver = tutor.checkpointer(ttl=timedelta(microseconds=1))
    put(saver, at("thread"), {"messages": [HumanMessage("a zebra")]})
    threading.Event().wait(0.005)

    assert tutor.recall("zebra") == []


# --- isolation ------------------------------------------------------------------------------------


async def test_two_users_and_two_modules_never_meet(memory: IsolatedMemory, door: Door):
    scopes = [
        memory.scope(user_id=user, module_id=module, project_id=project)
        for user in ("alice", "bob")
        for module in ("tutor", "coach")
        for project in ("one", "two")
    ]
    for number, scoped in enumerate(scopes):
        say(scoped, "monday", f"zebra {number}")
        put(scoped.checkpointer(), at("thread"), {"messages": [HumanMessage(f"zebra t{number}")]})

    for number, scoped in enumerate(scopes):
        found = await door(scoped, "recall", "zebra", limit=100, sessions=["monday", "thread"])
        assert sorted(texts(found)) == [f"zebra {number}", f"zebra t{number}"]


async def test_searches_of_many_users_at_once_each_find_their_own(warm: IsolatedMemory):
    scopes = [warm.scope(user_id=f"user {n}", module_id="tutor") for n in range(10)]
    for number, scoped in enumerate(scopes):
        say(scoped, "monday", f"zebra {number}")

    found = await asyncio.gather(*[scoped.arecall("zebra") for scoped in scopes * 5])

    assert [texts(one) for one in found] == [[f"zebra {n}"] for n in range(10)] * 5


async def test_cancelled_searches_leave_the_others_right(memory: IsolatedMemory):
    alice, bob = (memory.scope(user_id=user, module_id="tutor") for user in ("alice", "bob"))
    say(alice, "monday", *["a zebra of alice"] * 50)
    say(bob, "monday", "a zebra of bob")

    async def stopped(scoped: ScopedMemory, moment: int) -> None:
        task = asyncio.create_task(scoped.arecall("zebra"))
        for _ in range(moment % 4):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    for moment in range(40):
        await stopped(alice, moment)
        assert texts(await bob.arecall("zebra")) == ["a zebra of bob"]


async def test_a_search_is_logged_as_a_count_without_what_was_asked_or_found(
    tutor: ScopedMemory, door: Door, caplog: pytest.LogCaptureFixture
):
    said = ChatMessage(role=CANARY, content=f"a zebra {CANARY}")
    tutor.chat_history(CANARY).add_messages([said])
    caplog.set_level(logging.DEBUG)

    found = await door(tutor, "recall", f"zebra {CANARY}")

    records = [record for record in caplog.records if record.name == "langmem_isolated.recall"]
    assert [(r.levelname, r.getMessage()) for r in records] == [
        ("INFO", "recall: 1 found, at most 10")
    ]
    assert CANARY not in caplog.text
    assert CANARY not in repr(found)


def test_who_knows_a_users_former_life_finds_nothing_of_the_later_one(
    warm: IsolatedMemory, database_url: str
):
    old = warm.scope(user_id="alice", module_id="tutor")
    say(old, "monday", "a zebra of the former life")
    old.recall("zebra")
    erase(database_url)
    with opened_anew(database_url) as other:
        say(other.scope(user_id="alice", module_id="tutor"), "monday", "a zebra of the later")

    for _ in range(2):
        with pytest.raises(KeyDestroyed):
            old.recall("zebra")

    found = warm.scope(user_id="alice", module_id="tutor").recall("zebra")
    assert texts(found) == ["a zebra of the later"]


def test_keys_that_another_process_has_rotated_are_read_again(
    warm: IsolatedMemory, database_url: str
):
    tutor = warm.scope(user_id="alice", module_id="tutor")
    say(tutor, "monday", "a zebra")
    tutor.recall("zebra")
    warm._keyring.rotate(ALICE)
    with opened_anew(database_url) as other:
        say(other.scope(user_id="alice", module_id="tutor"), "monday", "one more zebra")

    assert sorted(texts(tutor.recall("zebra"))) == ["a zebra", "one more zebra"]


# --- tampering ------------------------------------------------------------------------------------


def digest_of(scoped: ScopedMemory, kind: Kind, name: str) -> bytes:
    return scoped._records.keys().pseudonym(kind, name.encode())


@pytest.fixture
def rows(tutor: ScopedMemory, attacker: Attacker) -> Attacker:
    """Who tampers with two sessions and a thread."""
    say(tutor, "monday", *[f"zebra {number}" for number in range(4)])
    say(tutor, "tuesday", *[f"zebra {number}" for number in range(4)])
    messages = [HumanMessage(f"zebra {number}", id=str(number)) for number in range(4)]
    put(tutor.checkpointer(), at("thread"), {"messages": messages})
    return attacker


TAMPERINGS = {
    "the newest message cut off": (
        "DELETE FROM records WHERE kind = 3 AND parent = ? AND key = ?", "monday", 3,
    ),
    "a message from the middle taken out": (
        "DELETE FROM records WHERE kind = 3 AND parent = ? AND key = ?", "monday", 1,
    ),
    "a message given another's number": (
        "UPDATE records SET key = x'0000000000000009' WHERE kind = 3 AND parent = ? AND key = ?",
        "monday", 3,
    ),
    "a message of another session put here": (
        """UPDATE records SET sealed = (SELECT o.sealed FROM records o WHERE o.kind = 3 AND
        o.parent <> records.parent AND o.key = records.key) WHERE kind = 3 AND parent = ?
        AND key = ?""", "monday", 1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_a_session_that_was_tampered_with_fails_the_search(
    tutor: ScopedMemory, rows: Attacker, door: Door, tampering: str
):
    sql, session, number = TAMPERINGS[tampering]
    if rows.is_postgres:
        sql = sql.replace("x'0000000000000009'", "'\\x0000000000000009'::bytea")
    rows(sql, digest_of(tutor, Kind.SESSION, session), number.to_bytes(8))

    with pytest.raises(RecordDoesNotOpen):
        await door(tutor, "recall", "zebra")


def test_sessions_whose_rows_were_exchanged_fail_the_search(tutor: ScopedMemory, rows: Attacker):
    monday, tuesday = (digest_of(tutor, Kind.SESSION, name) for name in ("monday", "tuesday"))
    for old, new in ((monday, b"x" * 16), (tuesday, monday), (b"x" * 16, tuesday)):
        rows("UPDATE records SET parent = ? WHERE parent = ?", new, old)

    with pytest.raises(RecordDoesNotOpen):
        tutor.recall("zebra")


@pytest.mark.parametrize(("kind", "name"), [(Kind.SESSION, "monday"), (Kind.THREAD, "thread")])
@pytest.mark.parametrize("sessions", [None, ["monday", "thread"]])
def test_a_source_whose_row_was_taken_away_fails_the_search(
    tutor: ScopedMemory, rows: Attacker, kind: Kind, name: str, sessions: list[str] | None
):
    rows("DELETE FROM sessions WHERE digest = ?", digest_of(tutor, kind, name))

    with pytest.raises(RecordDoesNotOpen, match="its row is missing"):
        tutor.recall("zebra", sessions=sessions)


def test_a_counter_that_was_turned_back_fails_the_search(tutor: ScopedMemory, rows: Attacker):
    session = digest_of(tutor, Kind.SESSION, "monday")
    rows("UPDATE sessions SET next_sequence = 3, count = 3 WHERE digest = ?", session)
    rows("DELETE FROM records WHERE parent = ? AND key = ?", session, (3).to_bytes(8))

    with pytest.raises(RecordDoesNotOpen):
        tutor.recall("zebra")


def test_an_element_of_another_thread_fails_the_search(tutor: ScopedMemory, rows: Attacker):
    put(tutor.checkpointer(), at("other"), {"messages": [HumanMessage("another", id="o")]})
    thread, other = (digest_of(tutor, Kind.THREAD, name) for name in ("thread", "other"))
    rows("DELETE FROM records WHERE kind = 7 AND parent = ?", thread)
    rows("UPDATE records SET parent = ? WHERE kind = 7 AND parent = ?", thread, other)

    with pytest.raises(RecordDoesNotOpen):
        tutor.recall("zebra")


def test_a_time_that_no_clock_shows_fails_the_search(tutor: ScopedMemory, rows: Attacker):
    thread = digest_of(tutor, Kind.THREAD, "thread")
    rows("UPDATE records SET created_at = ? WHERE parent = ?", 2**62, thread)

    with pytest.raises(RecordDoesNotOpen, match="no time"):
        tutor.recall("zebra")


@pytest.mark.parametrize(("kind", "name"), [(Kind.SESSION, "monday"), (Kind.THREAD, "thread")])
@pytest.mark.parametrize("column", ["key", "sealed", "created_at", "parent"])
def test_columns_that_sqlite_keeps_of_another_type_fail_the_search(
    sqlite_url: str, root_key: LocalRootKey, kind: Kind, name: str, column: str
):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        tutor = memory.scope(user_id="alice", module_id="tutor")
        say(tutor, "monday", "zebra 0", "zebra 1")
        put(tutor.checkpointer(), at("thread"), {"messages": [HumanMessage("zebra", id="m")]})
        attacker, parent = Attacker(sqlite_url), digest_of(tutor, kind, name)
        attacker(f"UPDATE records SET {column} = 'text ' || hex(key) WHERE parent = ?", parent)
        attacker.close()

        with pytest.raises(RecordDoesNotOpen):
            tutor.recall("zebra")


# --- by meaning -----------------------------------------------------------------------------------


async def test_what_shares_no_word_is_found_by_meaning_and_what_shares_both_comes_first(
    tutor: ScopedMemory, door: Door
):
    say(tutor, "monday", "My puppy sleeps.", "The truck is red.", "My dog is old.")

    found = await door(tutor, "recall", "old animal", embeddings=Topics(*PETS_AND_CARS))

    assert texts(found) == ["My dog is old.", "My puppy sleeps.", "The truck is red."]


async def test_a_message_is_embedded_once_and_kept_sealed(
    tutor: ScopedMemory, door: Door, attacker: Attacker
):
    say(tutor, "monday", "My puppy sleeps.")
    put(tutor.checkpointer(), at("thread"), {"messages": [HumanMessage("My cat, too.", id="m")]})
    model = Topics(*PETS_AND_CARS)
    await door(tutor, "recall", "animal", embeddings=model)
    say(tutor, "monday", "Our dog sleeps.")

    found = await door(tutor, "recall", "animal", embeddings=model)

    assert sorted(texts(found)) == ["My cat, too.", "My puppy sleeps.", "Our dog sleeps."]
    assert sorted(model.embedded) == sorted(texts(found))
    rows = attacker("SELECT sealed FROM records WHERE kind = ?", int(Kind.EMBEDDING))
    assert len(rows) == 3
    assert not [row for row in rows if b"\x00\x00\x80\x3f" in bytes(row[0])]


@pytest.mark.parametrize(
    ("setting", "value"), [("model", "other topics"), ("dimensions", 4), ("deployment", "new")]
)
def test_another_model_embeds_anew(tutor: ScopedMemory, setting: str, value: object):
    say(tutor, "monday", "My puppy sleeps.")
    tutor.recall("animal", embeddings=Topics(*PETS_AND_CARS))
    other = Topics(("puppy", "zebra"), ("x",), ("y",), ("z",))
    setattr(other, setting, value)

    assert texts(tutor.recall("zebra", embeddings=other)) == ["My puppy sleeps."]
    assert other.embedded == ["My puppy sleeps."]


def test_embeddings_go_with_their_messages(tutor: ScopedMemory, attacker: Attacker):
    saver = tutor.checkpointer()
    for name in ("cleared", "deleted"):
        say(tutor, name, "My puppy sleeps.")
    put(saver, at("deleted thread"), {"messages": [HumanMessage("a dog", id="m")]})
    config = put(saver, at("pruned"), {"messages": [HumanMessage("an old cat", id="m")]})
    tutor.recall("animal", embeddings=Topics(*PETS_AND_CARS))
    put(saver, config, {"messages": [HumanMessage("a new cat", id="m")]})
    tutor.recall("animal", embeddings=Topics(*PETS_AND_CARS))
    assert count(attacker, Kind.EMBEDDING) == 5

    tutor.chat_history("cleared").clear()
    tutor.sessions.delete("deleted")
    saver.delete_thread("deleted thread")
    assert count(attacker, Kind.EMBEDDING) == 2
    saver.prune(["pruned"], strategy="keep_latest")
    assert count(attacker, Kind.EMBEDDING) == 1
    saver.delete_thread("pruned")
    assert count(attacker, Kind.EMBEDDING) == 0


def test_an_embedding_of_another_message_does_not_open(tutor: ScopedMemory, attacker: Attacker):
    say(tutor, "monday", "My puppy sleeps.", "The truck is red.")
    tutor.recall("animal", embeddings=Topics(*PETS_AND_CARS))
    [(sealed,)] = attacker(
        "SELECT sealed FROM records WHERE kind = ? AND key = ?", int(Kind.EMBEDDING), bytes(8)
    )
    attacker("UPDATE records SET sealed = ? WHERE kind = ?", sealed, int(Kind.EMBEDDING))

    with pytest.raises(RecordDoesNotOpen):
        tutor.recall("animal", embeddings=Topics(*PETS_AND_CARS))


def test_a_session_that_is_cleared_while_it_is_embedded_gets_no_embeddings(
    tutor: ScopedMemory, attacker: Attacker
):
    say(tutor, "monday", "My puppy sleeps.")

    class Slow(Topics):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            tutor.chat_history("monday").clear()
            return super().embed_documents(texts)

    tutor.recall("animal", embeddings=Slow(*PETS_AND_CARS))

    assert count(attacker, Kind.EMBEDDING) == 0


def test_an_empty_query_embeds_nothing(tutor: ScopedMemory):
    say(tutor, "monday", "My puppy sleeps.")
    model = Topics(*PETS_AND_CARS)

    assert tutor.recall("  ", embeddings=model) == []
    assert model.embedded == []


class Provider(Topics):
    """Refuses texts that are too long, or everything, as providers do."""

    def __init__(self, *topics: tuple[str, ...]) -> None:
        super().__init__(*topics)
        self.calls: list[int] = []
        self.is_away = False

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.calls.append(len(texts))
        if self.is_away or any(len(text) > 1_000 for text in texts):
            raise ConnectionError("400: too long, or 503")
        return super().embed_documents(texts)

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return self.embed_documents(texts)


async def test_a_text_that_a_provider_refuses_costs_that_text_alone(
    tutor: ScopedMemory, door: Door
):
    puppies = [f"My puppy sleeps, {number}." for number in range(20)]
    say(tutor, "monday", *puppies[:10], "log " * 1_000, *puppies[10:])
    model = Provider(*PETS_AND_CARS)

    found = await door(tutor, "recall", "animal", embeddings=model, limit=20)

    assert sorted(texts(found)) == sorted(puppies)
    assert sorted(model.embedded) == sorted(puppies)
    asked = len(model.calls)
    assert asked < 12
    assert len(await door(tutor, "recall", "animal", embeddings=model, limit=20)) == 20
    assert len(model.calls) == asked


async def test_words_stand_in_for_a_provider_that_is_away(
    tutor: ScopedMemory, door: Door, caplog: pytest.LogCaptureFixture
):
    say(tutor, "monday", *[f"My puppy sleeps, {number}." for number in range(300)], "a zebra")
    model = Provider(*PETS_AND_CARS)
    model.is_away = True

    found = await door(tutor, "recall", "zebra", embeddings=model, limit=1)

    assert texts(found) == ["a zebra"]
    assert len(model.calls) < 20
    assert "ConnectionError" in caplog.text
    assert "503" not in caplog.text
    model.is_away = False
    assert len(await door(tutor, "recall", "animal", embeddings=model, limit=400)) == 300
    assert len(model.embedded) == 301


async def test_words_stand_in_where_the_query_cannot_be_embedded(tutor: ScopedMemory, door: Door):
    class Mute(Topics):
        def embed_query(self, text: str) -> list[float]:  # noqa: ARG002 - LangChain gives it
            raise TimeoutError

    say(tutor, "monday", "a zebra")

    assert texts(await door(tutor, "recall", "zebra", embeddings=Mute())) == ["a zebra"]


async def test_what_was_embedded_before_a_search_was_interrupted_is_kept(
    tutor: ScopedMemory, door: Door
):
    class Interrupted(BaseException):
        """As Ctrl-C."""

    class Impatient(Provider):
        most = 3

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if len(self.calls) == self.most:
                raise Interrupted
            return super().embed_documents(texts)

    say(tutor, "monday", *[f"My puppy sleeps, {number}." for number in range(10)])
    with pytest.raises(Interrupted):
        await door(
            tutor, "recall", "animal", embeddings=Impatient(*PETS_AND_CARS), embedding_batch=2
        )
    model = Impatient(*PETS_AND_CARS)
    await door(tutor, "recall", "animal", embeddings=model, embedding_batch=3)

    assert model.calls == [3, 1]
    with pytest.raises(ValueError, match="embedding_batch must be 1 or more"):
        tutor.recall("animal", embeddings=model, embedding_batch=0)


NO_VECTORS = [
    *([], [1.0, 2.0, 3.0], [float("nan"), 1.0], [float("inf"), 1.0], [10**400, 1], [1j, 1.0]),
    *(None, 1.0, "ab", {"embedding": [1.0, 1.0]}, [[1.0, 1.0]], [[1.0], [1.0, 2.0]]),
]


@pytest.mark.parametrize("vector", NO_VECTORS, ids=map(str, range(len(NO_VECTORS))))
def test_a_vector_that_is_none_costs_its_text_alone(tutor: ScopedMemory, vector: Any):
    class Broken(Provider):
        def embed_documents(self, texts: list[str]) -> list[Any]:
            self.calls.append(len(texts))
            return [vector if "truck" in text else self.embed_query(text) for text in texts]

    say(tutor, "monday", "My puppy sleeps.")
    say(tutor, "tuesday", "The truck is red.")
    model = Broken(*PETS_AND_CARS)

    found = tutor.recall("animal", embeddings=model)
    assert texts(found) == ["My puppy sleeps."]
    assert model.calls == [2]
    tutor.recall("animal", embeddings=model)
    assert model.calls == [2]


@pytest.mark.parametrize("vector", NO_VECTORS, ids=map(str, range(len(NO_VECTORS))))
async def test_words_stand_in_where_the_querys_vector_is_none(
    tutor: ScopedMemory, door: Door, vector: Any, caplog: pytest.LogCaptureFixture
):
    class Broken(Topics):
        def embed_query(self, text: str) -> Any:
            return vector if text == "animal zebra" else super().embed_query(text)

    say(tutor, "monday", "a zebra")

    found = await door(tutor, "recall", "animal zebra", embeddings=Broken(*PETS_AND_CARS))
    assert texts(found) == ["a zebra"]
    if vector != [1.0, 2.0, 3.0]:
        assert "the query was not embedded" in caplog.text


def test_a_provider_that_answers_with_no_vectors_at_all_is_asked_again(tutor: ScopedMemory):
    class Empty(Topics):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [[] for _ in texts]

    say(tutor, "monday", "My puppy sleeps.")
    assert tutor.recall("animal", embeddings=Empty(*PETS_AND_CARS)) == []

    assert texts(tutor.recall("animal", embeddings=Topics(*PETS_AND_CARS))) == ["My puppy sleeps."]


async def test_an_object_that_embeds_and_has_no_async_methods_is_used(tutor: ScopedMemory):
    class Plain:
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return Topics(*PETS_AND_CARS).embed_documents(texts)

        def embed_query(self, text: str) -> list[float]:
            return Topics(*PETS_AND_CARS).embed_query(text)

    say(tutor, "monday", "My puppy sleeps.")

    found = await tutor.recall.arecall("animal", embeddings=Plain())  # type: ignore[arg-type]
    assert texts(found) == ["My puppy sleeps."]


async def test_vectors_are_taken_in_a_thread_and_not_on_the_event_loop(tutor: ScopedMemory):
    where: list[int] = []

    class Vectors(list[list[float]]):
        def __iter__(self) -> Iterator[list[float]]:
            where.append(threading.get_ident())
            return super().__iter__()

    class Told(Topics):
        async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
            return Vectors(self.embed_documents(texts))

    say(tutor, "monday", "My puppy sleeps.")
    found = await tutor.recall.arecall("animal", embeddings=Told(*PETS_AND_CARS))

    assert texts(found) == ["My puppy sleeps."]
    assert where
    assert threading.get_ident() not in where


def test_a_provider_that_returns_too_few_vectors_is_as_one_that_is_away(tutor: ScopedMemory):
    class Short(Topics):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return super().embed_documents(texts)[1:]

    say(tutor, "monday", "a zebra", "My puppy sleeps.")

    assert texts(tutor.recall("zebra", embeddings=Short(*PETS_AND_CARS), limit=1)) == ["a zebra"]


def test_a_model_is_known_through_its_wrappers_and_by_a_name_given(tutor: ScopedMemory):
    say(tutor, "monday", "My puppy sleeps.")

    def cached(model: Embeddings, namespace: str) -> Embeddings:
        return CacheBackedEmbeddings.from_bytes_store(
            model, tutor.byte_store("cache"), namespace=namespace, key_encoder="sha256"
        )

    first, same = Topics(*PETS_AND_CARS), Topics(*PETS_AND_CARS)
    tutor.recall("animal", embeddings=first)
    tutor.recall("animal", embeddings=cached(same, "same"))
    assert same.embedded == []

    other = Topics(("puppy", "zebra"), ("x",))
    other.model = "others"
    assert texts(tutor.recall("zebra", embeddings=cached(other, "other"))) == ["My puppy sleeps."]
    assert other.embedded == ["My puppy sleeps."]

    named, renamed = Topics(*PETS_AND_CARS), Topics(*PETS_AND_CARS)
    renamed.model = "its name at another provider"
    tutor.recall("animal", embeddings=named, embedding_name="topics of 2026")
    tutor.recall("animal", embeddings=renamed, embedding_name="topics of 2026")
    assert (named.embedded, renamed.embedded) == (["My puppy sleeps."], [])


def test_vectors_of_another_length_are_made_anew(tutor: ScopedMemory):
    say(tutor, "monday", "My puppy sleeps.")
    tutor.recall("animal", embeddings=Topics(*PETS_AND_CARS))
    longer = Topics(*PETS_AND_CARS, ("sleeps",))

    assert texts(tutor.recall("sleeps", embeddings=longer)) == ["My puppy sleeps."]
    assert longer.embedded == ["My puppy sleeps."]


def test_a_refused_text_is_sent_again_after_a_day():
    source = Source(Kind.SESSION, bytes(16))
    message = Candidate(source, (b"k", encode_message(HumanMessage("a zebra")), 5))
    found = Candidates([message], {source: SourceNames("monday", None, None, bytes(16))})
    day = 86_400_000_000

    def parts(kept: dict[Any, bytes], now: int) -> list[list[Candidate]]:
        return [*EmbeddingWork(found, kept, bytes(16), [1.0], 99, 8, now)]

    work = EmbeddingWork(found, {}, bytes(16), [1.0], 99, 8, day)
    assert [*work] == [[message]]
    work.failed([message])
    assert work.refusals() == []
    other = Candidate(source, (b"l", encode_message(HumanMessage("a horse")), 5))
    work.made([other], [[1.0]])
    [refusal] = work.refusals()
    kept = {(source, b"k"): refusal.plaintext}

    assert parts(kept, 2 * day - 1) == []
    assert parts(kept, 2 * day) == [[message]]


# --- kept opened ----------------------------------------------------------------------------------


async def test_what_changes_is_seen_at_once_by_a_memory_that_keeps_what_it_opened(
    warm: IsolatedMemory, door: Door
):
    tutor = warm.scope(user_id="alice", module_id="tutor")
    saver = tutor.checkpointer()
    say(tutor, "monday", "zebra 1")
    config = put(saver, at("thread"), {"messages": [HumanMessage("zebra 2", id="m")]})

    async def found() -> list[str]:
        return sorted(texts(await door(tutor, "recall", "zebra")))

    assert await found() == await found() == ["zebra 1", "zebra 2"]
    say(tutor, "monday", "zebra 3")
    assert await found() == ["zebra 1", "zebra 2", "zebra 3"]
    put(saver, config, {"messages": [HumanMessage("zebra 4", id="m")]})
    assert await found() == ["zebra 1", "zebra 3", "zebra 4"]
    tutor.chat_history("monday").clear()
    assert await found() == ["zebra 4"]
    saver.delete_thread("thread")
    assert await found() == []


def test_what_another_process_changes_is_seen_at_once(warm: IsolatedMemory, memory: IsolatedMemory):
    here, there = (m.scope(user_id="alice", module_id="tutor") for m in (warm, memory))
    say(there, "monday", "zebra 1")
    here.recall("zebra")
    say(there, "monday", "zebra 2")

    assert len(here.recall("zebra")) == 2
    there.sessions.delete("monday")
    assert here.recall("zebra") == []


def test_kept_messages_are_not_opened_again(warm: IsolatedMemory, monkeypatch: pytest.MonkeyPatch):
    tutor = warm.scope(user_id="alice", module_id="tutor")
    for day in ("monday", "tuesday"):
        say(tutor, day, f"a zebra on {day}")
    tutor.recall("zebra")
    opened: list[bytes] = []
    monkeypatch.setattr(
        "langmem_isolated.recall.candidates.decode_partially",
        lambda plain: (opened.append(plain), decode_partially(plain))[1],
    )

    tutor.recall("zebra")
    assert opened == []
    say(tutor, "monday", "one more zebra")
    assert len(tutor.recall("zebra")) == 3
    assert len(opened) == 2


def test_kept_words_are_kept_once_and_not_for_as_long_as_the_process():
    """Up to Python 3.12.6, an interned text stays until the process ends."""
    source, shared = Source(Kind.SESSION, bytes(16)), {}
    kept = [
        Candidate(source, (key, encode_message(HumanMessage("a zebra-crossing")), 5))
        for key in (b"k", b"l")
    ]
    for one in kept:
        one.keep_words(99, shared)

    first, second = (one.words or [] for one in kept)
    assert first == ["user", "a", "zebra", "crossing"]
    assert [*map(id, first)] == [*map(id, second)]
    assert sys.intern("crossing") is not first[-1]


def test_closing_lets_go_of_kept_messages(warm: IsolatedMemory):
    tutor = warm.scope(user_id="alice", module_id="tutor")
    say(tutor, "monday", "a zebra")
    tutor.recall("zebra")
    assert warm._context.plaintext_cache is not None
    assert warm._context.plaintext_cache._entries

    warm.close()

    assert not warm._context.plaintext_cache._entries


def test_nothing_is_kept_unless_the_operator_asks_for_it(memory: IsolatedMemory):
    assert memory._context.plaintext_cache is None


async def test_what_was_not_embedded_because_a_provider_went_away_is_sent_with_the_next_search(
    tutor: ScopedMemory, door: Door
):
    class Leaving(Provider):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            answer = super().embed_documents(texts)
            self.is_away = len(self.embedded) == 8
            return answer

    say(tutor, "monday", *[f"My puppy sleeps, {number}." for number in range(40)])
    model = Leaving(*PETS_AND_CARS)
    await door(tutor, "recall", "animal", embeddings=model, embedding_batch=8)
    assert len(model.embedded) == 8

    model.is_away = False
    await door(tutor, "recall", "animal", embeddings=model, embedding_batch=8)

    assert len(model.embedded) == 40
