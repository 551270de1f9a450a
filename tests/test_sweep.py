"""A sweep removes what is due and nothing else, however it ends and whoever runs beside it."""

import asyncio
import contextlib
import logging
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import HumanMessage
from langchain_core.outputs import Generation
from langgraph.store.base import PutOp

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory, SessionRules, lifecycle
from langmem_isolated._storage.copying import copy
from langmem_isolated.errors import (
    AnonymousNotFound,
    DatabaseError,
    LegalHold,
    PolicyNotFound,
    RecordDoesNotOpen,
)
from langmem_isolated.lifecycle import ForeignDocument, ForeignMessage, ForeignSession
from langmem_isolated.lifecycle.retention import sweeping
from langmem_isolated.testing import FakeClock
from tests.conftest import ROOT_KEY, Attacker, Door, Wait
from tests.embeddings import NGramEmbeddings
from tests.processes import Child
from tests.test_docstrings import examples_of, failures_of
from tests.test_embedding_changes import Named
from tests.threads import at, put

AT_ONCE = 6e-8  # minutes: 4 µs
SHORT = timedelta(microseconds=1)


def tutor(memory: IsolatedMemory, user: str = "alice", module: str = "tutor") -> ScopedMemory:
    return memory.scope(user_id=user, module_id=module)


def put_items(scoped: ScopedMemory, count: int, *, ttl: float | None = AT_ONCE) -> None:
    puts = [PutOp(("notes",), f"{number}", {"n": number}, ttl=ttl) for number in range(count)]
    for begin in range(0, count, 500):
        scoped.store().batch(puts[begin : begin + 500])


def say(scoped: ScopedMemory, session: str, count: int, channel: str | None = None) -> None:
    history = scoped.chat_history(session, channel=channel)
    history.add_messages([HumanMessage(f"{number}") for number in range(count)])


def put_checkpoints(
    scoped: ScopedMemory, thread: str, count: int, ttl: timedelta | None = None
) -> None:
    saver, config = scoped.checkpointer(ttl=ttl), at(thread)
    for number in range(count):
        config = put(saver, config, {"n": number})


def said(scoped: ScopedMemory, session: str = "monday") -> list[Any]:
    return [message.content for message in scoped.chat_history(session).messages]


# --- what has expired -----------------------------------------------------------------------------


async def test_a_sweep_removes_what_has_expired_and_leaves_the_rest(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    scoped = tutor(memory)
    put_items(scoped, 3)
    scoped.store().put(("notes",), "lasting", {"n": 1})
    scoped.llm_cache(ttl=SHORT).update("prompt", "model", [Generation(text="a")])
    put_checkpoints(scoped, "1", 1, ttl=SHORT)
    put_checkpoints(scoped, "2", 1)

    swept = await door(memory, "sweep")

    assert swept.counts == {"thread": 1, "checkpoint": 1, "item": 3, "entry": 1}
    assert (swept.is_done, swept.held, swept.damaged) == (True, 0, 0)
    assert attacker("SELECT count(*) FROM records WHERE expires_at IS NOT NULL") == [(0,)]
    found = scoped.verify()
    assert (found.items, found.threads, found.entries) == (1, 1, 0)
    assert memory.sweep().counts == {}


async def test_a_dry_run_counts_the_same_and_touches_nothing(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    scoped = tutor(memory)
    put_items(scoped, 3)
    put_checkpoints(scoped, "1", 1, ttl=SHORT)
    say(scoped, "monday", 7)
    memory.retention.keep("message", keep_latest=2)
    before = [
        attacker(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4") for table in ("records", "sessions")
    ]

    would = await door(memory, "sweep", dry_run=True)

    after = [
        attacker(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4") for table in ("records", "sessions")
    ]
    assert after == before
    assert would.is_dry_run
    assert would.counts == memory.sweep().counts


def test_a_large_thread_goes_in_batches_and_no_reader_meets_a_part_of_it(
    memory: IsolatedMemory, attacker: Attacker
):
    scoped = tutor(memory)
    saver = scoped.checkpointer()
    put_checkpoints(scoped, "1", 700)
    memory.retention.keep("thread", age=SHORT)
    seen = []

    def look(_: int) -> None:
        seen.append((saver.get_tuple(at("1")), len(saver.threads())))
        scoped.verify()

    swept = memory.sweep(progress=look)

    assert swept.counts == {"thread": 1, "checkpoint": 700}
    assert len(seen) > 1
    assert set(seen) == {(None, 0)}
    assert attacker("SELECT count(*) FROM records WHERE kind IN (5, 6, 7)") == [(0,)]


def test_what_an_interrupted_sweep_left_is_absent_and_goes_with_the_next(
    memory: IsolatedMemory, attacker: Attacker
):
    scoped = tutor(memory)
    say(scoped, "monday", 700)
    memory.retention.keep("session", age=SHORT)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.sweep(progress=interrupt)

    assert attacker("SELECT count(*) FROM records WHERE kind = 3") == [(200,)]
    assert scoped.sessions() == []
    assert said(scoped) == []
    scoped.verify()
    memory.retention.remove("session")
    assert memory.sweep().counts == {"session": 1, "message": 200}


def test_a_session_that_is_begun_again_amid_its_removal_begins_with_nothing(
    memory: IsolatedMemory,
):
    scoped = tutor(memory)
    say(scoped, "monday", 700)
    memory.retention.keep("session", age=SHORT)

    def write(_: int) -> None:
        if not written:
            written.append(scoped.chat_history("monday").add_user_message("again"))

    written: list[None] = []
    memory.sweep(progress=write)

    assert said(scoped) == ["again"]
    assert scoped.verify().messages == 1


def test_a_sweep_ends_in_time_and_says_that_it_is_not_done(memory: IsolatedMemory):
    put_items(tutor(memory), 1200)

    first = memory.sweep(0)

    assert 0 < first.counts["item"] <= 500
    assert not first.is_done
    assert memory.sweep().counts == {"item": 1200 - first.counts["item"]}


async def test_a_cancelled_sweep_ends_behind_a_batch(memory: IsolatedMemory, attacker: Attacker):
    put_items(tutor(memory), 4000)
    begun = threading.Event()

    def note(_: int) -> None:
        begun.set()
        time.sleep(0.2)

    def left() -> int:
        (count,) = attacker("SELECT count(*) FROM records WHERE kind = 8")[0]
        return int(count)

    sweep = asyncio.create_task(memory.asweep(progress=note))
    await asyncio.to_thread(begun.wait)
    sweep.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sweep
    # What goes on is waited for: all of it, if it went on behind its batch.
    await memory.aclose()

    assert left() > 0
    assert left() % 100 == 0


def test_several_processes_sweep_at_once_and_none_removes_or_counts_twice(
    database_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        put_items(tutor(memory), 2000)
        say(tutor(memory), "monday", 1100)
        memory.retention.keep("session", age=SHORT)

        def sweep() -> dict[str, int]:
            with IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY)) as other:
                return dict(other.sweep().counts)

        children = [Child(sweep) for _ in range(3)]
        results = [child.result() for child in children]

        totals = {
            kind: sum(r.get(kind, 0) for r in results) for kind in ("item", "message", "session")
        }
        assert totals == {"item": 2000, "message": 1100, "session": 1}
        assert memory.sweep().counts == {}


def test_a_sweep_that_is_killed_leaves_what_the_next_one_ends(
    database_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        put_items(tutor(memory), 1500)
        say(tutor(memory), "monday", 1500)
        memory.retention.keep("session", age=SHORT)

        def sweep() -> None:
            with IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY)) as other:
                other.sweep(progress=lambda removed: time.sleep(600 if removed >= 2000 else 0))

        child = Child(sweep)
        scoped, deadline = tutor(memory), time.monotonic() + 60
        while scoped.sessions() and time.monotonic() < deadline:
            time.sleep(0.01)
        child.kill()

        assert said(scoped) == []
        scoped.verify()
        memory.sweep()
        assert scoped.verify().items == 0


def test_items_that_are_counted_go_with_what_counts_them_and_their_vectors(
    memory: IsolatedMemory, attacker: Attacker
):
    scoped = tutor(memory)
    index: Any = {"dims": 64, "embed": NGramEmbeddings()}
    store = scoped.store(integrity="counted", index=index)
    store.put(("notes",), "a", {"text": "short"}, ttl=AT_ONCE)
    store.put(("notes",), "b", {"text": "long"})

    assert memory.sweep().counts == {"item": 1}

    assert attacker("SELECT count(*) FROM records WHERE kind IN (8, 10)") == [(2,)]
    assert scoped.verify().items == 1


def test_an_item_that_was_refreshed_since_it_was_found_stays(memory: IsolatedMemory):
    scoped = tutor(memory)
    put_items(scoped, 1)
    pages = sweeping.due.expired_records(sweeping.now())
    (row,) = memory._context.database.read(pages.rows)
    put_items(scoped, 1, ttl=None)

    swept = sweeping.Sweep(sweeping.Removal(memory._context))
    tasks = [*swept._tasks(swept._records([row], sweeping.now()))]
    swept._removal.run(tasks)

    assert swept._removal.counts.total() == 0
    assert scoped.store().get(("notes",), "0") is not None


def test_a_sweep_leaves_a_claim_alone_that_is_going_on_and_removes_one_that_was_given_up(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    guest, alice = memory.anonymous(module_id="tutor"), tutor(memory)
    say(guest, "monday", 700)
    memory.retention.keep("session", user_id="alice", age=SHORT)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(copy.Copy, "_publish", die)
    with pytest.raises(KeyboardInterrupt):
        memory.claim(guest.id, alice, confirmed=True)

    assert memory.sweep().counts == {}
    monkeypatch.undo()
    clock = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: clock() + 2 * 3600 * 10**9)
    assert memory.sweep(dry_run=True).counts == {"session": 1, "message": 700}
    assert memory.sweep().counts == {"session": 1, "message": 700}
    memory.claim(guest.id, alice, confirmed=True)
    assert said(alice) == [f"{number}" for number in range(700)]


# --- who tampers ----------------------------------------------------------------------------------


def test_an_expiry_that_somebody_wrote_removes_nothing_and_stops_nothing_else(
    memory: IsolatedMemory, attacker: Attacker
):
    scoped = tutor(memory)
    put_items(scoped, 1, ttl=60)
    say(scoped, "monday", 1)
    attacker("UPDATE records SET expires_at = 1 WHERE kind = 8")
    attacker("UPDATE sessions SET expires_at = 1")
    expired = [PutOp(("notes",), f"more {number}", {"n": 1}, ttl=AT_ONCE) for number in range(3)]
    scoped.store().batch(expired)

    swept = memory.sweep()

    assert (swept.counts, swept.damaged) == ({"item": 3}, 2)
    assert attacker("SELECT count(*) FROM records WHERE kind IN (3, 8)") == [(2,)]


def test_what_was_tampered_with_is_counted_once_however_many_policies_reach_it(
    memory: IsolatedMemory, attacker: Attacker
):
    say(tutor(memory), "monday", 1)
    attacker("UPDATE sessions SET expires_at = 1")
    memory.retention.keep("session", age=SHORT)
    memory.retention.keep("message", age=SHORT)
    memory.retention.keep("message", channel="ai", age=SHORT)

    assert memory.sweep().damaged == 1


def test_another_users_scope_that_does_not_open_stops_nobody(
    memory: IsolatedMemory, attacker: Attacker
):
    put_items(tutor(memory, "ann"), 1)
    (ann,) = attacker("SELECT scope_id FROM scopes")[0]
    put_items(tutor(memory, "bob"), 1)
    attacker("UPDATE scopes SET renewals = renewals, mac = ? WHERE scope_id = ?", bytes(16), ann)

    swept = memory.sweep()

    assert (swept.counts, swept.damaged) == ({"item": 1}, 1)


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE sessions SET expires_at = 5, digest = 7",
        "UPDATE sessions SET digest = 'text'",
        "UPDATE sessions SET created_at = 'text'",
        "UPDATE records SET expires_at = 5, kind = 99",
        "UPDATE records SET expires_at = 5, kind = 'text'",
        "UPDATE records SET expires_at = 5, parent = 'text'",
        "UPDATE records SET expires_at = 5, updated_at = 'text'",
        "UPDATE records SET expires_at = 5, updated_at = -4",
        "UPDATE records SET created_at = 'text'",
        "UPDATE records SET parent = 7 WHERE kind = 8",
        "UPDATE records SET tag = 7",
    ],
)
def test_columns_of_another_type_keep_nobody_elses_memory_from_being_swept(
    sqlite_url: str, root_key: LocalRootKey, tampering: str
):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        attacker = Attacker(sqlite_url)
        ann, bob = tutor(memory, "ann"), tutor(memory, "bob")
        for scoped in (ann, bob):
            put_items(scoped, 1, ttl=None)
            say(scoped, "monday", 2, channel="ai")
            if scoped is ann:
                attacker(tampering)
        memory.retention.keep("message", age=SHORT)
        memory.retention.keep("item", age=SHORT)

        memory.sweep(dry_run=True)
        assert memory.sweep().counts["message"] >= 2

        assert bob.clear() == {"session": 1}
        assert bob.verify().items == 0
        memory.retention.keep("session", age=SHORT)
        memory.sweep()
        with contextlib.suppress(RecordDoesNotOpen):
            ann.clear()
        attacker.close()


# --- policies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "limits", "counts"),
    [
        ("message", {"age": SHORT}, {"message": 5}),
        ("message", {"keep_latest": 2}, {"message": 3}),
        ("session", {"age": SHORT}, {"session": 1, "message": 5}),
        ("session", {"idle": SHORT}, {"session": 1, "message": 5}),
        ("thread", {"age": SHORT}, {"thread": 1, "checkpoint": 3}),
        ("thread", {"idle": SHORT}, {"thread": 1, "checkpoint": 3}),
        ("checkpoint", {"keep_latest": 2}, {"checkpoint": 1}),
        ("checkpoint", {"idle": SHORT}, {"checkpoint": 2}),
        ("checkpoint", {"age": SHORT}, {"checkpoint": 2}),
        ("checkpoint", {"age": timedelta(days=1)}, {}),
        ("checkpoint", {"idle": timedelta(days=1), "keep_latest": 1}, {}),
        ("item", {"age": SHORT}, {"item": 4}),
        ("item", {"days": 1}, {}),
        ("document", {"age": SHORT}, {"document": 2}),
        ("entry", {"age": SHORT}, {"entry": 1}),
    ],
)
def test_a_policy_reaches_what_is_there(
    memory: IsolatedMemory, kind: str, limits: dict[str, Any], counts: dict[str, int]
):
    scoped = tutor(memory)
    say(scoped, "monday", 5)
    put_checkpoints(scoped, "1", 3)
    put_items(scoped, 4, ttl=None)
    documents = [Document("one"), Document("two")]
    scoped.vector_store(NGramEmbeddings()).add_documents(documents)
    scoped.llm_cache().update("prompt", "model", [Generation(text="a")])

    memory.retention.keep(kind, **limits)

    assert memory.sweep(dry_run=True).counts == counts
    assert memory.sweep().counts == counts
    assert memory.sweep().counts == {}
    assert memory.sweep(dry_run=True).counts == {}
    scoped.verify()


@pytest.mark.parametrize("how", ["embedded anew", "merged", "claimed", "imported"])
def test_a_document_goes_so_long_after_it_was_stored_whatever_was_done_with_it_since(
    memory: IsolatedMemory, wait_for: Wait, how: str
):
    guest, began = memory.anonymous(module_id="tutor", idle=None), datetime.now(UTC)
    scoped: Any = guest if how == "claimed" else tutor(memory)
    if how != "imported":
        scoped.vector_store(Named("one")).add_documents([Document("old")])
    memory.retention.keep("document", days=90)
    wait_for(80 * 86_400)
    if how == "embedded anew":
        assert scoped.vector_store(Named("two")).reembed() == 1
    elif how == "merged":
        memory.merge_modules(
            user_id="alice", from_module="tutor", into_module="planner", dry_run=False
        )
    elif how == "claimed":
        memory.claim(guest.id, tutor(memory), confirmed=True)
    else:
        found = ForeignDocument("notes", "1", "old", {}, "row 1", [1.0, 2.0], stored_at=began)
        with memory.bulk_import(bytes(16), source="test") as bulk:
            bulk.put(tutor(memory).scope, found, on_reject=print)
    assert memory.sweep().counts == {}

    wait_for(11 * 86_400)
    swept = memory.sweep()

    assert swept.counts == {"document": 2 if how == "merged" else 1}
    assert memory.stats().total.documents == 0


def test_documents_that_are_embedded_anew_stay_as_old_as_they_are(memory: IsolatedMemory):
    scoped = tutor(memory)
    with FakeClock().installed() as clock:
        scoped.vector_store(NGramEmbeddings(32)).add_texts(["old"], ids=["1"])
        clock.advance(timedelta(days=20))
        store = scoped.vector_store(NGramEmbeddings(64))
        store.reembed()
        store.add_texts(["new"], ids=["2"])
        clock.advance(timedelta(days=20))
        memory.retention.keep("document", days=30)

        assert memory.sweep().counts == {"document": 1}
        assert [one.id for one in store.documents()] == ["2"]
    scoped.verify()


def test_old_messages_leave_from_the_oldest_end_and_the_session_goes_on(memory: IsolatedMemory):
    scoped = tutor(memory)
    say(scoped, "monday", 1300)
    memory.retention.keep("message", keep_latest=3)

    assert memory.sweep().counts == {"message": 1297}

    assert said(scoped) == ["1297", "1298", "1299"]
    say(scoped, "monday", 1)
    assert said(scoped) == ["1297", "1298", "1299", "0"]
    assert scoped.sessions()[0].messages == 4
    assert scoped.verify().messages == 4


def test_old_messages_go_of_a_session_that_was_imported_as_a_younger_one(memory: IsolatedMemory):
    today = datetime.now(UTC)
    old = ForeignMessage(HumanMessage("old"), "row 1", today - timedelta(days=100))
    new = ForeignMessage(HumanMessage("new"), "row 2", today - timedelta(days=80))
    found = ForeignSession("monday", "table", [old, new], created_at=today)
    with memory.bulk_import(bytes(16), source="test") as bulk:
        bulk.put(tutor(memory).scope, found, on_reject=print)
    memory.retention.keep("message", days=90)

    assert memory.sweep().counts == {"message": 1}
    assert said(tutor(memory)) == ["new"]


def test_a_session_whose_messages_all_went_takes_new_ones(memory: IsolatedMemory):
    scoped = tutor(memory)
    say(scoped, "monday", 2)
    memory.retention.keep("message", age=SHORT)
    memory.sweep()
    memory.retention.remove("message")

    scoped.chat_history("monday").add_user_message("new")

    assert said(scoped) == ["new"]
    assert scoped.verify().messages == 1


def test_a_message_taken_out_behind_a_sweep_is_noticed(memory: IsolatedMemory, attacker: Attacker):
    scoped = tutor(memory)
    say(scoped, "monday", 5)
    rows = attacker("SELECT * FROM records WHERE kind = 3 ORDER BY key")
    memory.retention.keep("message", keep_latest=2)
    memory.sweep()
    marks = ", ".join("?" * len(rows[0]))
    attacker(f"INSERT INTO records VALUES ({marks})", *rows[0])

    from langmem_isolated.errors import RecordDoesNotOpen

    with pytest.raises(RecordDoesNotOpen):
        said(scoped)


def test_the_narrowest_policy_counts_alone(memory: IsolatedMemory):
    for user in ("ann", "bob"):
        for module in ("tutor", "chat"):
            say(tutor(memory, user, module), "monday", 5)
    keep = memory.retention.keep
    keep("message", keep_latest=1)
    keep("message", module_id="chat", keep_latest=2)
    keep("message", user_id="bob", keep_latest=4)
    keep("message", user_id="bob", module_id="chat", days=1)

    memory.sweep()

    left = [
        len(said(tutor(memory, user, module)))
        for user in ("ann", "bob")
        for module in ("tutor", "chat")
    ]
    assert left == [1, 2, 4, 5]


def test_a_policy_of_one_project_says_nothing_of_another(memory: IsolatedMemory):
    other = memory.scope(user_id="alice", module_id="tutor", project_id="other")
    say(tutor(memory), "monday", 2)
    say(other, "monday", 2)

    memory.retention.keep("message", project_id="other", age=SHORT)
    memory.sweep()

    assert (len(said(tutor(memory))), len(said(other))) == (2, 0)


def test_a_policy_of_a_channel_counts_for_its_messages_and_for_no_others(memory: IsolatedMemory):
    scoped = tutor(memory)
    for number in range(3):
        for channel in ("ai", "general", None):
            history = scoped.chat_history("monday", channel=channel)
            history.add_user_message(f"{channel} {number}")
    memory.retention.keep("message", channel="ai", age=SHORT)

    assert memory.sweep(dry_run=True).counts == {"message": 3}
    assert memory.sweep().counts == {"message": 3}

    left = ["general 0", "None 0", "general 1", "None 1", "general 2", "None 2"]
    assert said(scoped) == left
    scoped.chat_history("monday").add_user_message("new")
    assert said(scoped) == [*left, "new"]
    assert scoped.verify().messages == 7
    memory.retention.keep("message", age=SHORT)
    memory.retention.keep("message", channel="general", days=1)
    memory.sweep()
    assert said(scoped) == ["general 0", "general 1", "general 2"]
    scoped.verify()
    assert len(scoped.recent({"general": 9, "ai": 9})) == 3


def test_a_channels_messages_leave_a_long_session_in_batches(memory: IsolatedMemory):
    scoped = tutor(memory)
    for number in range(12):
        say(scoped, "monday", 100, channel="ai" if number % 2 else "general")
    memory.retention.keep("message", channel="ai", age=SHORT)

    seen = []
    swept = memory.sweep(progress=lambda _: seen.append(len(said(scoped))))

    assert swept.counts == {"message": 600}
    assert seen[:2] == [700, 600]
    assert scoped.verify().messages == 600


def test_a_sweep_and_channel_limits_leave_a_session_that_is_right(
    database_url: str, root_key: LocalRootKey
):
    rules = SessionRules(channel_limits={"ai": 4})
    with IsolatedMemory(database_url, root_key=root_key, session_rules=rules) as memory:
        scoped = tutor(memory)
        for _ in range(6):
            say(scoped, "monday", 1, channel="ai")
            say(scoped, "monday", 1, channel="general")
        memory.retention.keep("message", keep_latest=5)
        assert memory.sweep().counts == {"message": 5}
        scoped.verify()
        say(scoped, "monday", 3, channel="ai")
        assert len(scoped.recent({"ai": 10})) == 4
        assert scoped.verify().messages == len(said(scoped))
        memory.retention.keep("message", channel="ai", age=SHORT)
        memory.sweep()
        assert scoped.recent({"ai": 10}) == []
        say(scoped, "monday", 6, channel="ai")
        assert len(scoped.recent({"ai": 10})) == 4
        scoped.verify()


def test_a_message_that_was_put_into_a_channel_stays_as_evidence(
    memory: IsolatedMemory, attacker: Attacker
):
    scoped = tutor(memory)
    say(scoped, "monday", 1, channel="ai")
    say(scoped, "tuesday", 1, channel="general")
    (tag,) = attacker("SELECT tag FROM records ORDER BY created_at LIMIT 1")[0]
    attacker("UPDATE records SET tag = ? WHERE kind = 3", tag)
    memory.retention.keep("message", channel="ai", age=SHORT)

    swept = memory.sweep()

    assert (swept.counts, swept.damaged) == ({"message": 1}, 1)
    assert len(said(scoped, "tuesday")) == 1


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE records SET created_at = 5, updated_at = 5 WHERE kind = 3",
        "UPDATE records SET tag = NULL WHERE kind = 3",
    ],
)
def test_a_message_that_somebody_made_older_or_took_from_its_channel_stays_as_evidence(
    memory: IsolatedMemory, attacker: Attacker, monkeypatch: pytest.MonkeyPatch, tampering: str
):
    scoped = tutor(memory)
    clock = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: clock() - 100 * 86_400 * 10**9)
    scoped.sessions.create("monday")
    monkeypatch.setattr(time, "time_ns", clock)
    say(scoped, "monday", 3, channel="ai")
    memory.retention.keep("message", days=7)
    memory.retention.keep("message", channel="ai", days=30)
    attacker(tampering)
    monkeypatch.setattr(time, "time_ns", lambda: clock() + 8 * 86_400 * 10**9)

    swept = memory.sweep()

    assert (swept.counts, swept.damaged) == ({}, 1)
    assert attacker("SELECT count(*) FROM records WHERE kind = 3") == [(3,)]


async def test_policies_are_listed_replaced_and_removed(memory: IsolatedMemory, door: Door):
    retention = memory.retention
    await door(retention, "keep", "message", days=90)
    await door(retention, "keep", "message", days=30)
    narrow = await door(retention, "keep", "item", user_id="ann", module_id="tutor", days=7)

    listed = await door(retention, "list")

    assert [policy.age for policy in listed] == [timedelta(days=30), timedelta(days=7)]
    assert listed[1] == narrow
    await door(retention, "remove", "message")
    assert await door(retention, "list") == [narrow]
    with pytest.raises(PolicyNotFound):
        await door(retention, "remove", "message")


@pytest.mark.parametrize("call", ["sweep", "clear", "erase"])
def test_a_hold_counts_in_a_process_that_knew_the_project_before_another_erased_it(
    database_url: str, root_key: LocalRootKey, call: str
):
    with (
        IsolatedMemory(database_url, root_key=root_key) as memory,
        IsolatedMemory(database_url, root_key=root_key) as other,
    ):
        put_items(tutor(memory), 1)
        memory.sweep()
        other.erase_project("default")
        put_items(tutor(other), 1)
        other.retention.hold("alice", reason="case 7", by="counsel")

        if call == "sweep":
            memory._keyring.forget(tutor(memory)._records.owner)
            assert (memory.sweep().counts, other.sweep().held) == ({}, 1)
            return
        with pytest.raises(LegalHold):
            tutor(memory).clear() if call == "clear" else memory.erase_user("alice")
        assert other.sweep().held == 1


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE records SET updated_at = updated_at - 1",
        "UPDATE records SET expires_at = 7, expiry_mac = NULL",
    ],
)
def test_a_policy_that_was_tampered_with_lets_nothing_go_of_whom_it_reaches(
    memory: IsolatedMemory, attacker: Attacker, tampering: str
):
    for user in ("ann", "bob"):
        say(tutor(memory, user), "monday", 3)
    memory.retention.keep("message", age=SHORT)
    memory.retention.keep("message", user_id="ann", days=3)
    attacker(
        f"{tampering} WHERE kind = 19 AND scope_id = (SELECT scope_id FROM scopes WHERE level = 2)"
    )

    swept = memory.sweep()

    assert swept.counts == {"message": 3}
    assert swept.damaged
    assert said(tutor(memory, "ann")) == ["0", "1", "2"]
    memory.retention.keep("message", user_id="ann", keep_latest=1)
    assert memory.sweep().counts == {"message": 2}


def test_a_projects_policy_that_was_tampered_with_lets_nothing_go_by_others_of_the_project(
    memory: IsolatedMemory, attacker: Attacker
):
    put_items(tutor(memory), 2)
    other = memory.scope(user_id="bob", module_id="tutor", project_id="school")
    say(tutor(memory), "monday", 3)
    say(other, "monday", 3)
    memory.retention.keep("message", age=SHORT)
    attacker("UPDATE records SET updated_at = updated_at - 1 WHERE kind = 19")
    memory.retention.keep("message", user_id="alice", age=SHORT)
    memory.retention.keep("message", project_id="school", age=SHORT)

    swept = memory.sweep()

    assert (swept.counts, swept.damaged) == ({"item": 2, "message": 3}, 1)
    assert said(other) == []


def test_policies_count_in_another_process(database_url: str, root_key: LocalRootKey):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        say(tutor(memory), "monday", 5)
        memory.retention.keep("message", keep_latest=1)
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        assert memory.sweep().counts == {"message": 4}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"kind": "memo", "days": 1}, "kind must be one of"),
        ({"kind": "message"}, "none of them"),
        ({"kind": "item", "keep_latest": 1}, "takes age"),
        ({"kind": "session", "channel": "ai", "days": 1}, "Only messages have a channel"),
        ({"kind": "message", "channel": "ai", "keep_latest": 1}, "of all channels"),
        ({"kind": "message", "days": 0}, "days must be 1 or more"),
        ({"kind": "message", "days": 10**12}, "days must be 365,000 or less"),
        ({"kind": "message", "keep_latest": 10**30}, "keep_latest must be 1,000,000,000 or less"),
        ({"kind": "message", "days": 1, "age": SHORT}, "give one of them"),
        ({"kind": "message", "age": timedelta(0)}, "age must be above 0"),
        ({"kind": "message", "age": 7}, "age must be a timedelta"),
        ({"kind": "message", "user_id": "", "days": 1}, "user_id must be"),
    ],
)
def test_a_policy_that_cannot_be_meant_is_refused_and_nothing_is_kept(
    memory: IsolatedMemory, arguments: dict[str, Any], told: str
):
    with pytest.raises((ValueError, TypeError), match=told):
        memory.retention.keep(**arguments)

    assert memory.retention.list() == []


def test_no_id_is_shown_by_a_policy_or_a_hold(memory: IsolatedMemory):
    policy = memory.retention.keep("message", user_id="canary", module_id="canary", days=1)
    hold = memory.retention.hold("canary", reason="canary", by="canary")

    assert "canary" not in f"{policy!r} {hold!r}"


# --- legal hold -----------------------------------------------------------------------------------


async def test_a_hold_suspends_every_module_of_the_user_and_says_so(
    memory: IsolatedMemory, door: Door
):
    say(tutor(memory, "ann"), "monday", 2)
    say(tutor(memory, "bob"), "monday", 2)
    hold = await door(memory.retention, "hold", "ann", reason="court order 7", by="counsel")
    say(tutor(memory, "ann", "begun later"), "monday", 2)
    put_items(tutor(memory, "ann"), 2)
    memory.retention.keep("session", age=SHORT)

    swept = memory.sweep()

    assert swept.counts == {"session": 1, "message": 2}
    assert (swept.held, swept.is_done) == (1, True)
    assert len(said(tutor(memory, "ann", "begun later"))) == 2
    assert await door(memory.retention, "holds") == [hold]
    await door(memory.retention, "release", "ann")
    assert memory.sweep().counts == {"session": 2, "message": 4, "item": 2}
    with pytest.raises(PolicyNotFound):
        memory.retention.release("ann")


def test_a_hold_ends_at_its_time(memory: IsolatedMemory, wait_for: Wait):
    put_items(tutor(memory), 1)
    until = datetime.now(UTC) + timedelta(seconds=60)
    memory.retention.hold("alice", reason="r", by="b", until=until)
    assert memory.sweep().held == 1
    wait_for(60.1)

    assert memory.sweep().counts["item"] == 1
    assert memory.retention.holds() == []


@pytest.mark.parametrize(
    ("span", "years"), [(timedelta(days=365), range(1, 2)), (timedelta.max, range(900, 1100))]
)
def test_a_hold_ends_after_a_span_as_a_grant_does(
    memory: IsolatedMemory, span: timedelta, years: range
):
    hold = memory.retention.hold("ann", reason="r", by="b", until=span)

    assert hold.until
    assert (hold.until - hold.since).days // 365 in years
    assert memory.retention.holds() == [hold]


@pytest.mark.parametrize(
    "arguments",
    [
        {"reason": "", "by": "b"},
        {"reason": "r", "by": None},
        {"reason": "r", "by": "b", "until": datetime(2030, 1, 1)},  # noqa: DTZ001 - what is refused
        {"reason": "r", "by": "b", "until": datetime(2020, 1, 1, tzinfo=UTC)},
        {"reason": "r", "by": "b", "until": timedelta.min},
        {"reason": "r", "by": "b", "until": 7},
    ],
)
def test_a_hold_without_reason_or_with_an_impossible_end_is_refused(
    memory: IsolatedMemory, arguments: dict[str, Any]
):
    with pytest.raises((ValueError, TypeError)):
        memory.retention.hold("ann", **arguments)

    assert memory.retention.holds() == []


def test_a_hold_placed_amid_a_sweep_ends_it_for_the_user(memory: IsolatedMemory):
    put_items(tutor(memory), 1200)

    def place(_: int) -> None:
        if not memory.retention.holds():
            memory.retention.hold("alice", reason="r", by="b")

    swept = memory.sweep(progress=place)

    assert 0 < swept.counts["item"] <= 500
    assert swept.held == 1


@pytest.mark.parametrize(
    "tampering",
    [
        "UPDATE records SET updated_at = updated_at - 1 WHERE kind = 19",
        "UPDATE records SET expires_at = 7 WHERE kind = 19",
    ],
)
def test_a_hold_that_was_tampered_with_holds_and_stops_nobody_elses_sweep(
    memory: IsolatedMemory, attacker: Attacker, tampering: str
):
    put_items(tutor(memory, "ann"), 1)
    put_items(tutor(memory, "bob"), 2)
    memory.retention.hold("ann", reason="case 7", by="counsel")
    attacker(tampering)

    swept = memory.sweep()

    assert (swept.counts, swept.held) == ({"item": 2}, 1)
    with pytest.raises(RecordDoesNotOpen):
        tutor(memory, "ann").clear()
    with pytest.raises(RecordDoesNotOpen):
        memory.retention.holds()
    memory.retention.hold("ann", reason="case 7", by="counsel")
    memory.retention.release("ann")
    assert memory.sweep().counts == {"item": 1}


async def test_what_is_on_hold_is_not_cleared(memory: IsolatedMemory, door: Door):
    scoped = tutor(memory)
    say(scoped, "monday", 2)
    memory.retention.hold("alice", reason="r", by="b")

    for target, name, *arguments in (
        (scoped, "clear"),
        (scoped, "clear_session", "monday"),
        (memory, "clear_user", "alice"),
    ):
        with pytest.raises(LegalHold, match="release"):
            await door(target, name, *arguments)
    assert len(said(scoped)) == 2


def test_what_is_of_a_later_life_than_a_process_knows_is_swept_and_is_no_damage(
    database_url: str, root_key: LocalRootKey
):
    with (
        IsolatedMemory(database_url, root_key=root_key) as memory,
        IsolatedMemory(database_url, root_key=root_key) as other,
    ):
        put_items(tutor(memory), 3)
        say(tutor(memory), "monday", 2)
        other.erase_user("alice")
        put_items(tutor(other), 3)
        say(tutor(other), "monday", 2)
        other.retention.keep("session", age=SHORT)

        swept = memory.sweep()

    assert swept.counts == {"item": 3, "session": 1, "message": 2}
    assert swept.damaged == 0


# --- anonymous owners, background -----------------------------------------------------------------


def test_a_guest_whose_time_is_over_is_removed_with_all_it_has(
    memory: IsolatedMemory, attacker: Attacker, wait_for: Wait
):
    guest = memory.anonymous(module_id="tutor", absolute=timedelta(seconds=60))
    say(guest, "monday", 2)
    user = tutor(memory)
    say(user, "monday", 1)
    assert memory.sweep(dry_run=True).counts == {}
    wait_for(60.1)

    assert memory.sweep(dry_run=True).counts == {"claim": 1}
    assert memory.sweep().counts == {"claim": 1, "message": 2, "session": 1}

    assert attacker("SELECT scope_id FROM scopes WHERE level = 5") == []
    assert said(user) == ["0"]
    with pytest.raises(AnonymousNotFound):
        memory.recover(guest.id)


def test_a_guest_whose_time_somebody_else_has_set_stays(memory: IsolatedMemory, attacker: Attacker):
    guest = memory.anonymous(module_id="tutor")
    say(guest, "monday", 1)
    ((before,),) = attacker("SELECT expires_at FROM records WHERE kind = 20")
    attacker("UPDATE records SET expires_at = 1 WHERE kind = 20")

    swept = memory.sweep()

    assert (swept.counts, swept.damaged) == ({}, 1)
    attacker("UPDATE records SET expires_at = ? WHERE kind = 20", before)
    assert said(memory.recover(guest.id)) == ["0"]


async def test_the_background_sweeps_again_and_again_and_ends_with_the_memory(
    database_url: str, root_key: LocalRootKey, door: Door
):
    memory = IsolatedMemory(database_url, root_key=root_key)
    await door(memory.retention, "start", every=0.02)
    for _ in range(2):
        put_items(tutor(memory), 1)
        deadline = time.monotonic() + 60
        while memory.sweep(dry_run=True).counts and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert memory.sweep(dry_run=True).counts == {}
    memory.close()

    assert [t for t in threading.enumerate() if t.name == "langmem_isolated_sweep"] == []


async def test_the_background_stops_when_it_is_told(memory: IsolatedMemory, door: Door):
    memory.retention.start(every=timedelta(seconds=30))
    memory.retention.start(every=30)
    await door(memory.retention, "stop")
    memory.retention.stop()

    assert [t for t in threading.enumerate() if t.name == "langmem_isolated_sweep"] == []


def test_the_background_begins_nothing_once_the_memory_is_closed(memory: IsolatedMemory):
    memory.close()

    with pytest.raises(DatabaseError, match="was closed"):
        memory.retention.start()
    assert [t for t in threading.enumerate() if t.name == "langmem_isolated_sweep"] == []


def test_the_background_waits_as_long_as_a_thread_can(memory: IsolatedMemory):
    failed: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading, "excepthook", failed.append)
        memory.retention.start(every=1e30)
        time.sleep(0.2)
        memory.retention.stop()

    assert failed == []


def test_a_sweep_that_fails_in_the_background_is_logged_without_content_and_tried_again(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    calls = []

    def fail(_: object) -> None:
        calls.append(1)
        raise ValueError("canary")

    monkeypatch.setattr(sweeping.Sweep, "run", fail)
    with caplog.at_level(logging.WARNING):
        memory.retention.start(every=0.01)
        deadline = time.monotonic() + 60
        while len(calls) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        memory.retention.stop()

    assert len(calls) >= 3
    assert "ValueError" in caplog.text
    assert "canary" not in caplog.text


@pytest.mark.parametrize(
    "documented", [lifecycle.Retention, lifecycle.Policy, IsolatedMemory.sweep, ScopedMemory.clear]
)
def test_examples_of_retention_run(memory: IsolatedMemory, documented: Any):
    names = {"memory": memory, "scope": tutor(memory)}
    tests = examples_of(documented, documented.__name__, names)

    assert tests
    assert failures_of(tests) == ""
