"""Sharing inside one user: by a grant, for reading, as far and as long as it says."""

import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.store.base import PutOp

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._runtime import clock
from langmem_isolated.errors import (
    IsolationViolation,
    KeyDestroyed,
    NotShared,
    RecordDoesNotOpen,
    ScopeError,
)
from tests.conftest import ROOT_KEY, Attacker, Door

EMBEDDINGS = DeterministicFakeEmbedding(size=8)
BETWEEN = {"user_id": "alice", "from_module": "tutor", "to_module": "planner"}
ALL = ["message", "item", "document", "profile"]


def scope(memory: IsolatedMemory, module: str, user: str = "alice") -> ScopedMemory:
    return memory.scope(user_id=user, module_id=module)


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    """A module that has something of each kind."""
    tutor = scope(memory, "tutor")
    tutor.sessions.create("monday", title="Fractions", channel="web")
    tutor.chat_history("monday").add_messages(
        [HumanMessage("My test is on Friday."), AIMessage("Then we practise ratios.")]
    )
    tutor.chat_history("monday", channel="voice").add_user_message("I mumble about cats.")
    tutor.chat_history("secret").add_user_message("My test went badly, do not tell.")
    tutor.store().put(("facts", "school"), "level", {"level": 3})
    tutor.store().put(("diary",), "today", {"mood": "sad"})
    tutor.vector_store(EMBEDDINGS).add_texts(["Fractions are parts."])
    profile = tutor.profile()
    profile.add_fact("Has a test on Friday.")
    profile.add_interest("cats")
    profile.set_attribute("level", 3)
    profile.set_attribute("diagnosis", "dyscalculia")
    profile.set_summary("Works hard.")
    return tutor


def reads(memory: IsolatedMemory, module: str = "planner") -> dict[str, Callable[[], object]]:
    """Everything that a view can be asked."""
    shared = scope(memory, module).shared_from("tutor")
    return {
        "grant": shared.grant,
        "sessions": shared.sessions,
        "messages": lambda: shared.messages("monday"),
        "recall": lambda: shared.recall("test"),
        "recall by meaning": lambda: shared.recall("test", embeddings=EMBEDDINGS),
        "get": lambda: shared.store().get(("facts", "school"), "level"),
        "search": lambda: shared.store().search(("facts",)),
        "namespaces": lambda: shared.store().list_namespaces(),
        "documents": lambda: shared.documents(EMBEDDINGS).similarity_search("parts"),
        "all documents": lambda: shared.documents(EMBEDDINGS).documents(),
        "retriever": lambda: shared.retriever(EMBEDDINGS).invoke("parts"),
        "words": lambda: shared.bm25_retriever().invoke("fractions"),
        "profile": lambda: shared.profile().contents(),
        "facts": lambda: shared.profile().facts(),
        "interests": lambda: shared.profile().interests(),
        "attributes": lambda: shared.profile().attributes(),
        "summary": lambda: shared.profile().summary(),
    }


def assert_nothing_is_shared(memory: IsolatedMemory, module: str = "planner") -> None:
    for name, read in reads(memory, module).items():
        with pytest.raises(NotShared):
            print(name, read())


# --- what is shared -------------------------------------------------------------------------------


def test_nothing_is_shared_by_default(memory: IsolatedMemory, tutor: ScopedMemory):
    assert_nothing_is_shared(memory)
    assert memory.grants.list(user_id="alice") == []


def test_nothing_is_shared_by_the_first_call_of_a_process_or_day(
    memory: IsolatedMemory, tutor: ScopedMemory, database_url: str, root_key: LocalRootKey
):
    scope(memory, "planner").sessions.create("mine")
    for name in reads(memory):
        # Nobody has written by its keys: a first write of a day also notes that somebody did.
        with IsolatedMemory(database_url, root_key=root_key) as restarted, pytest.raises(NotShared):
            print(name, reads(restarted)[name]())


def test_reading_by_a_grant_makes_nobody_active(
    memory: IsolatedMemory, tutor: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    tomorrow = time.time_ns() + 86_400 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: tomorrow)

    for read in reads(memory).values():
        assert read()

    assert memory.stats(days=1).total.scopes
    assert memory.stats(days=2).days[-1].active_users == 0


def test_nothing_is_shared_with_a_module_that_has_no_memory_nor_by_one(memory: IsolatedMemory):
    assert_nothing_is_shared(memory)
    scope(memory, "planner").sessions.create("mine")
    assert_nothing_is_shared(memory)


async def test_a_grant_opens_every_kind_that_it_names(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door
):
    granted = await door(memory.grants, "allow", **BETWEEN, kinds=ALL)
    shared = scope(memory, "planner").shared_from("tutor")

    assert await door(shared, "grant") == granted
    assert [one.id for one in await door(shared, "sessions")] == ["secret", "monday"]
    said = await shared.amessages("monday", limit=2)
    assert [message.text for message in said] == [
        "Then we practise ratios.",
        "I mumble about cats.",
    ]
    assert {one.source_id for one in await door(shared, "recall", "test")} == {"monday", "secret"}
    item = await door(shared.store(), "get", ("facts", "school"), "level")
    assert item.value == {"level": 3}
    assert [one.key for one in await door(shared.store(), "search", ())] == ["today", "level"]
    listed = await door(shared.store(), "list_namespaces")
    assert listed == [("diary",), ("facts", "school")]
    found = await door(shared.documents(EMBEDDINGS), "similarity_search", "parts")
    assert [document.page_content for document in found] == ["Fractions are parts."]
    for retriever in (shared.retriever(EMBEDDINGS, k=1), shared.bm25_retriever(k=1)):
        found = await door(retriever, "invoke", "fractions")
        assert [document.page_content for document in found] == ["Fractions are parts."]


@pytest.mark.parametrize("kind", ALL)
def test_a_grant_of_one_kind_opens_no_other(memory: IsolatedMemory, tutor: ScopedMemory, kind: str):
    memory.grants.allow(**BETWEEN, kinds=[kind])
    opened = {
        "message": {"sessions", "messages", "recall", "recall by meaning"},
        "item": {"get", "search", "namespaces"},
        "document": {"documents", "all documents", "retriever", "words"},
        "profile": {"profile", "facts", "interests", "attributes", "summary"},
    }[kind]

    for name, read in reads(memory).items():
        if name in opened | {"grant"}:
            assert read()
        else:
            with pytest.raises(NotShared):
                read()


def test_sessions_narrow_lists_messages_and_recall(memory: IsolatedMemory, tutor: ScopedMemory):
    memory.grants.allow(**BETWEEN, kinds=["message"], fields={"sessions": ["monday"]})
    shared = scope(memory, "planner").shared_from("tutor")

    assert [one.id for one in shared.sessions()] == ["monday"]
    assert len(shared.messages("monday")) == 3
    assert {one.source_id for one in shared.recall("test", embeddings=EMBEDDINGS)} == {"monday"}
    with pytest.raises(NotShared):
        shared.messages("secret")


def test_channels_narrow_lists_messages_and_recall(memory: IsolatedMemory, tutor: ScopedMemory):
    memory.grants.allow(**BETWEEN, kinds=["message"], fields={"channels": ["voice"]})
    shared = scope(memory, "planner").shared_from("tutor")

    assert shared.sessions() == []
    assert [message.text for message in shared.messages("monday")] == ["I mumble about cats."]
    assert shared.messages("secret") == []
    assert shared.messages("nowhere") == []
    # What is said beside it, and the title of the session, which is held elsewhere, are no words.
    assert [one.text for one in shared.recall("cats")] == ["I mumble about cats."]
    assert shared.recall("ratios") == []
    assert shared.recall("fractions") == []


def test_a_message_without_a_channel_is_of_its_sessions(
    memory: IsolatedMemory, tutor: ScopedMemory
):
    memory.grants.allow(**BETWEEN, kinds=["message"], fields={"channels": ["web"]})
    shared = scope(memory, "planner").shared_from("tutor")

    assert [one.id for one in shared.sessions()] == ["monday"]
    assert [message.text for message in shared.messages("monday", limit=1)] == [
        "Then we practise ratios."
    ]
    assert {one.text for one in shared.recall("fractions")} == {
        "My test is on Friday.",
        "Then we practise ratios.",
    }


def test_sessions_are_paged_past_those_that_are_not_shared(memory: IsolatedMemory):
    tutor = scope(memory, "tutor")
    for number in range(230):
        tutor.sessions.create(f"s{number}")
    memory.grants.allow(
        **BETWEEN, kinds=["message"], fields={"sessions": [f"s{n}" for n in range(0, 230, 50)]}
    )
    shared = scope(memory, "planner").shared_from("tutor")

    first = shared.sessions(limit=2)
    rest = shared.sessions(limit=100, before=first[-1])

    assert [one.id for one in first] == ["s200", "s150"]
    assert [one.id for one in rest] == ["s100", "s50", "s0"]


def test_namespaces_narrow_gets_searches_and_lists(memory: IsolatedMemory, tutor: ScopedMemory):
    memory.grants.allow(**BETWEEN, kinds=["item"], fields={"namespaces": ["facts"]})
    store = scope(memory, "planner").shared_from("tutor").store()

    assert store.get(("facts", "school"), "level") is not None
    assert [item.key for item in store.search(("facts",))] == ["level"]
    assert store.list_namespaces(limit=1) == [("facts", "school")]
    assert store.list_namespaces(max_depth=1) == [("facts",)]
    for read in (
        lambda: store.get(("diary",), "today"),
        lambda: store.search(("diary",)),
        lambda: store.search(()),
        lambda: store.get(("facts2",), "today"),
    ):
        with pytest.raises(NotShared):
            read()


def test_collections_narrow_documents(memory: IsolatedMemory, tutor: ScopedMemory):
    tutor.vector_store(EMBEDDINGS, collection="plans").add_texts(["Friday: test."])
    memory.grants.allow(**BETWEEN, kinds=["document"], fields={"collections": ["plans"]})
    shared = scope(memory, "planner").shared_from("tutor")

    assert len(shared.documents(EMBEDDINGS, collection="plans").similarity_search("test")) == 1
    with pytest.raises(NotShared):
        shared.documents(EMBEDDINGS).similarity_search("test")
    with pytest.raises(NotShared):
        shared.bm25_retriever().invoke("test")


async def test_parts_and_attributes_narrow_the_profile(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door
):
    fields = {"parts": ["attributes", "summary"], "attributes": ["level"]}
    memory.grants.allow(**BETWEEN, kinds=["profile"], fields=fields)
    profile = scope(memory, "planner").shared_from("tutor").profile()

    contents = await door(profile, "contents")
    assert (contents.summary, contents.facts, contents.interests) == ("Works hard.", (), ())
    assert contents.attributes == {"level": 3}
    assert await door(profile, "attributes") == {"level": 3}
    assert await door(profile, "summary") == "Works hard."
    for part in ("facts", "interests"):
        with pytest.raises(NotShared):
            await door(profile, part)
    assert not hasattr(profile, "add_fact")


def test_the_notebook_of_all_modules_is_not_shared_by_a_grant(
    memory: IsolatedMemory, tutor: ScopedMemory
):
    tutor.cross_module().add_fact("Of all modules.")
    memory.grants.allow(**BETWEEN, kinds=["profile"])

    facts = scope(memory, "planner").shared_from("tutor").profile().facts()
    assert [fact.text for fact in facts] == ["Has a test on Friday."]


def test_documents_that_a_publisher_shares_are_not_shared_on(
    memory: IsolatedMemory, tutor: ScopedMemory
):
    memory.publisher(module_id="tutor").vector_store(EMBEDDINGS).add_texts(["Of the module."])
    memory.grants.allow(**BETWEEN, kinds=["document"])

    found = scope(memory, "planner").shared_from("tutor").documents(EMBEDDINGS).documents()
    assert [document.page_content for document in found] == ["Fractions are parts."]


def test_a_second_grant_takes_the_place_of_the_first(memory: IsolatedMemory, tutor: ScopedMemory):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    memory.grants.allow(**BETWEEN, kinds=["item"])
    shared = scope(memory, "planner").shared_from("tutor")

    assert [grant.kinds for grant in memory.grants.list(user_id="alice")] == [("item",)]
    with pytest.raises(NotShared):
        shared.sessions()


async def test_grants_are_listed_with_what_narrows_them(memory: IsolatedMemory, door: Door):
    until = datetime(2100, 1, 1, tzinfo=UTC)
    await door(memory.grants, "allow", **BETWEEN, kinds=["message"], until=until)
    await door(
        memory.grants, "allow", user_id="alice", from_module="planner", to_module="coach",
        kinds=["item"], fields={"namespaces": [("facts", "school"), "plans"]},
    )  # fmt: skip

    planner, tutor = await door(memory.grants, "list", user_id="alice")
    assert (planner.from_module, planner.to_module, planner.kinds) == (
        "planner",
        "coach",
        ("item",),
    )
    assert planner.fields == {"namespaces": [("facts", "school"), ("plans",)]}
    assert planner.until is None
    assert tutor.until == until
    assert abs(tutor.since - datetime.now(UTC)) < timedelta(minutes=1)
    assert "planner" not in repr(planner)
    assert await door(memory.grants, "list", user_id="bob") == []
    await door(memory.grants, "revoke", **BETWEEN)
    assert [one.from_module for one in memory.grants.list(user_id="alice")] == ["planner"]


# --- it is for reading ----------------------------------------------------------------------------


def test_writes_through_a_view_are_refused(memory: IsolatedMemory, tutor: ScopedMemory):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    shared = scope(memory, "planner").shared_from("tutor")
    before = tutor.verify()
    store, documents = shared.store(), shared.documents(EMBEDDINGS)

    for write in (
        lambda: store.put(("facts",), "level", {"level": 4}),
        lambda: store.put(("facts",), "level", {"level": 4}, ttl=1),
        lambda: store.delete(("facts", "school"), "level"),
        lambda: store.batch([PutOp(("facts",), "level", None)]),
        lambda: documents.add_texts(["Mine."]),
        lambda: documents.delete(["1"]),
        documents.clear,
        documents.reembed,
    ):
        with pytest.raises(IsolationViolation, match="can be read and not written"):
            write()
    assert tutor.verify() == before


async def test_asynchronous_writes_are_refused(memory: IsolatedMemory, tutor: ScopedMemory):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    shared = scope(memory, "planner").shared_from("tutor")

    with pytest.raises(IsolationViolation, match="can be read and not written"):
        await shared.store().aput(("facts",), "level", {"level": 4})
    with pytest.raises(IsolationViolation, match="can be read and not written"):
        await shared.documents(EMBEDDINGS).aadd_texts(["Mine."])


def test_reading_writes_nothing(memory: IsolatedMemory, attacker: Attacker):
    tutor = scope(memory, "tutor")
    tutor.chat_history("monday").add_user_message("My test is on Friday.")
    tutor.store().put(("facts",), "level", {"level": 3}, ttl=60)
    memory.grants.allow(**BETWEEN, kinds=ALL)
    shared = scope(memory, "planner").shared_from("tutor")
    dump = "SELECT kind, parent, key, sealed, expires_at FROM records ORDER BY 1, 2, 3"
    before = attacker(dump)

    assert shared.recall("test", embeddings=EMBEDDINGS)
    assert shared.store().get(("facts",), "level")
    assert shared.store().get(("facts",), "level", refresh_ttl=True)
    assert shared.store().search(("facts",), refresh_ttl=True)

    assert attacker(dump) == before


def test_keys_of_the_other_module_are_not_handed_out(memory: IsolatedMemory, tutor: ScopedMemory):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    shared = scope(memory, "planner").shared_from("tutor")
    records = shared._documents("default").records

    for call in (records.keys, records.find_keys):
        with pytest.raises(IsolationViolation):
            call()


# --- between two modules of one user --------------------------------------------------------------


def test_a_grant_is_for_one_reader_one_user_one_project_and_one_direction(
    memory: IsolatedMemory, tutor: ScopedMemory
):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    scope(memory, "planner").chat_history("mine").add_user_message("Mine.")

    others = [
        scope(memory, "coach").shared_from("tutor"),
        scope(memory, "planner", user="bob").shared_from("tutor"),
        memory.scope(user_id="alice", module_id="planner", project_id="p").shared_from("tutor"),
        tutor.shared_from("planner"),
    ]
    for other in others:
        with pytest.raises(NotShared):
            other.messages("monday")


def test_what_is_shared_cannot_be_shared_on(memory: IsolatedMemory, tutor: ScopedMemory):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    memory.grants.allow(user_id="alice", from_module="planner", to_module="coach", kinds=ALL)

    coach = scope(memory, "coach").shared_from("planner")
    assert coach.messages("monday") == []
    assert coach.recall("test") == []
    assert not hasattr(coach, "shared_from")
    assert_nothing_is_shared(memory, "coach")


def test_a_module_neither_grants_to_itself_nor_reads_itself_by_a_grant(memory: IsolatedMemory):
    with pytest.raises(ScopeError, match="must be two"):
        memory.grants.allow(user_id="alice", from_module="m", to_module="m", kinds=ALL)
    with pytest.raises(ScopeError, match="another module's id"):
        scope(memory, "m").shared_from("m")


# --- until it ends --------------------------------------------------------------------------------


def test_a_grant_ends_by_the_databases_clock_whatever_this_process_takes_for_the_time(
    memory: IsolatedMemory, tutor: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    real, year = time.time_ns, 365 * 24 * 3600 * 10**9
    memory.grants.allow(**BETWEEN, kinds=ALL, until=timedelta(minutes=10))
    with monkeypatch.context() as set_back:
        set_back.setattr(time, "time_ns", lambda: real() - year)
        assert clock.now() < (real() - year) // 1000 + 10**6
        assert len(scope(memory, "planner").shared_from("tutor").messages("monday")) == 3

    memory.grants.allow(**BETWEEN, kinds=ALL, until=timedelta(seconds=0.1))
    # Behind the grant, so that one that ends by this process's clock goes on.
    monkeypatch.setattr(time, "time_ns", lambda: real() - year)
    time.sleep(0.11)

    assert_nothing_is_shared(memory)
    assert memory.grants.list(user_id="alice") == []


def test_a_clock_that_runs_ahead_ends_no_grant(
    memory: IsolatedMemory, tutor: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    memory.grants.allow(**BETWEEN, kinds=ALL, until=timedelta(minutes=1))
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 10**15)

    assert len(scope(memory, "planner").shared_from("tutor").messages("monday")) == 3


def test_a_grant_that_is_over_is_not_made_and_leaves_the_one_before(
    memory: IsolatedMemory, tutor: ScopedMemory
):
    memory.grants.allow(**BETWEEN, kinds=ALL)

    for until in (datetime(2020, 1, 1, tzinfo=UTC), timedelta(0), timedelta(days=-1)):
        with pytest.raises(ValueError, match="later than now"):
            memory.grants.allow(**BETWEEN, kinds=["item"], until=until)

    assert [grant.kinds for grant in memory.grants.list(user_id="alice")] == [tuple(sorted(ALL))]


def test_a_grant_without_end_lasts_longer_than_any_calendar(memory: IsolatedMemory):
    grant = memory.grants.allow(**BETWEEN, kinds=ALL, until=timedelta.max)

    assert grant.until is None
    assert scope(memory, "planner").shared_from("tutor").grant() == grant


REVOKES = """
import sys
from langmem_isolated import IsolatedMemory, LocalRootKey
with IsolatedMemory(sys.argv[1], root_key=LocalRootKey(bytes(range(32)))) as memory:
    memory.grants.revoke(user_id="alice", from_module="tutor", to_module="planner")
"""


def test_a_revocation_in_another_process_takes_effect_at_once(
    memory: IsolatedMemory, tutor: ScopedMemory, database_url: str
):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    opened = reads(memory)
    assert all(read() for read in opened.values())

    subprocess.run([sys.executable, "-c", REVOKES, database_url], check=True, cwd=Path.cwd())

    for read in opened.values():
        with pytest.raises(NotShared):
            read()


async def test_a_revocation_while_recall_waits_for_a_provider_is_heeded(
    memory: IsolatedMemory, tutor: ScopedMemory
):
    class Revoking(DeterministicFakeEmbedding):
        def embed_query(self, text: str) -> list[float]:
            memory.grants.revoke(**BETWEEN)
            return super().embed_query(text)

    memory.grants.allow(**BETWEEN, kinds=ALL)
    with pytest.raises(NotShared):
        scope(memory, "planner").shared_from("tutor").recall("test", embeddings=Revoking(size=8))


def test_to_revoke_what_was_not_granted_says_so(memory: IsolatedMemory, tutor: ScopedMemory):
    for module in ("planner", "plannner"):
        with pytest.raises(NotShared):
            memory.grants.revoke(user_id="alice", from_module="tutor", to_module=module)
    memory.grants.allow(**BETWEEN, kinds=ALL)
    memory.grants.revoke(**BETWEEN)
    with pytest.raises(NotShared):
        memory.grants.revoke(**BETWEEN)


# --- who can write to the database ----------------------------------------------------------------

GRANT = int(Kind.GRANT)


def grant_rows(attacker: Attacker) -> list[tuple[Any, ...]]:
    return attacker(f"SELECT * FROM records WHERE kind = {GRANT}")


def put_back(attacker: Attacker, rows: list[tuple[Any, ...]]) -> None:
    for row in rows:
        attacker(f"INSERT INTO records VALUES ({', '.join('?' * len(row))})", *row)


def ledger_of(attacker: Attacker) -> tuple[Any, ...]:
    """The address of the ledger: the one row that stays when all is revoked."""
    (row,) = attacker(f"SELECT scope_id, parent, key FROM records WHERE kind = {GRANT}")
    return row


def test_the_rows_of_a_revoked_grant_put_back_open_nothing(
    memory: IsolatedMemory, tutor: ScopedMemory, attacker: Attacker
):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    before = grant_rows(attacker)
    assert len(before) == 3
    memory.grants.revoke(**BETWEEN)
    ledger = ledger_of(attacker)

    put_back(attacker, [row for row in before if (row[0], row[2], row[3]) != ledger])

    assert len(grant_rows(attacker)) == 3
    assert_nothing_is_shared(memory)
    assert memory.grants.list(user_id="alice") == []


def test_the_rows_of_a_wider_grant_put_back_widen_nothing(
    memory: IsolatedMemory, tutor: ScopedMemory, attacker: Attacker
):
    memory.grants.allow(**BETWEEN, kinds=["message"])
    wide = {(row[0], row[2], row[3]): row for row in grant_rows(attacker)}
    memory.grants.revoke(**BETWEEN)
    ledger = ledger_of(attacker)
    memory.grants.allow(**BETWEEN, kinds=["item"])
    for address, row in wide.items():
        if address != ledger:
            attacker("DELETE FROM records WHERE scope_id = ? AND parent = ? AND key = ?", *address)
            put_back(attacker, [row])

    assert_nothing_is_shared(memory)


@pytest.mark.parametrize("side", ["tutor", "planner"])
def test_a_grant_that_only_one_side_has_opens_nothing(
    memory: IsolatedMemory, tutor: ScopedMemory, attacker: Attacker, side: str
):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    keys = scope(memory, side)._records.keys()
    attacker(f"DELETE FROM records WHERE kind = {GRANT} AND scope_id = ?", keys.scope_id)

    assert_nothing_is_shared(memory)


def test_a_grant_moved_to_another_module_or_user_opens_nothing(
    memory: IsolatedMemory, tutor: ScopedMemory, attacker: Attacker
):
    scope(memory, "coach").sessions.create("mine")
    scope(memory, "tutor", user="bob").chat_history("monday").add_user_message("Bob's.")
    memory.grants.allow(**BETWEEN, kinds=ALL)
    planner, coach, bobs_tutor, bobs_planner, own = (
        scope(memory, module, user)._records.keys().scope_id
        for module, user in (
            ("planner", "alice"), ("coach", "alice"), ("tutor", "bob"), ("planner", "bob"),
            ("tutor", "alice"),
        )
    )  # fmt: skip
    rows = grant_rows(attacker)
    moved = {planner: (coach, bobs_planner), own: (bobs_tutor,)}
    for row in rows:
        put_back(attacker, [(to, *row[1:]) for to in moved[bytes(row[0])]])

    assert_nothing_is_shared(memory, "coach")
    with pytest.raises((NotShared, RecordDoesNotOpen)):
        scope(memory, "planner", user="bob").shared_from("tutor").messages("monday")


def test_a_row_of_a_grant_that_was_changed_is_refused(
    memory: IsolatedMemory, tutor: ScopedMemory, attacker: Attacker
):
    memory.grants.allow(**BETWEEN, kinds=ALL, until=timedelta(hours=1))
    attacker(f"UPDATE records SET expires_at = expires_at * 2 WHERE kind = {GRANT}")

    for read in reads(memory).values():
        with pytest.raises(RecordDoesNotOpen):
            read()
    with pytest.raises(RecordDoesNotOpen):
        memory.grants.list(user_id="alice")


def test_grants_are_verified_with_their_scopes(memory: IsolatedMemory, attacker: Attacker):
    memory.grants.allow(**BETWEEN, kinds=ALL, until=timedelta(hours=1))
    scope(memory, "tutor").verify()
    scope(memory, "planner").verify()
    attacker(f"UPDATE records SET expires_at = expires_at + 1 WHERE kind = {GRANT}")

    for module in ("tutor", "planner"):
        with pytest.raises(RecordDoesNotOpen):
            scope(memory, module).verify()


def test_nothing_of_a_grant_is_readable_in_the_database(memory: IsolatedMemory, attacker: Attacker):
    memory.grants.allow(**BETWEEN, kinds=["message"], fields={"sessions": ["a secret name"]})

    stored = b"".join(bytes(part) for row in grant_rows(attacker) for part in row
                      if isinstance(part, bytes))  # fmt: skip
    for plain in (b"tutor", b"planner", b"message", b"a secret name"):
        assert plain not in stored


# --- several at once ------------------------------------------------------------------------------

ALLOWS = """
import sys
from langmem_isolated import IsolatedMemory, LocalRootKey
with IsolatedMemory(sys.argv[1], root_key=LocalRootKey(bytes(range(32)))) as memory:
    for number in range(10):
        module = f"{sys.argv[2]}{number}"
        memory.grants.allow(
            user_id="alice", from_module="tutor", to_module=module, kinds=["message"])
        memory.grants.revoke(user_id="alice", from_module="tutor", to_module=module)
        memory.grants.allow(
            user_id="alice", from_module="tutor", to_module=module, kinds=["item"])
"""


def test_two_processes_that_grant_and_revoke_at_once_lose_nothing(
    memory: IsolatedMemory, database_url: str
):
    scope(memory, "tutor").sessions.create("s")
    running = [
        subprocess.Popen([sys.executable, "-c", ALLOWS, database_url, name]) for name in "ab"
    ]

    assert [process.wait(60) for process in running] == [0, 0]
    found = memory.grants.list(user_id="alice")
    assert {grant.to_module for grant in found} == {f"{a}{n}" for a in "ab" for n in range(10)}
    assert {grant.kinds for grant in found} == {("item",)}


def test_a_grant_is_read_by_keys_that_another_process_has_rotated(
    memory: IsolatedMemory, tutor: ScopedMemory, database_url: str
):
    shared = scope(memory, "planner").shared_from("tutor")
    memory.grants.allow(**BETWEEN, kinds=ALL)
    assert len(shared.messages("monday")) == 3
    with IsolatedMemory(database_url, root_key=LocalRootKey(ROOT_KEY)) as other:
        other._keyring.rotate(scope(other, "tutor")._records.owner)
        other.grants.allow(**BETWEEN, kinds=["message"])

    assert len(shared.messages("monday")) == 3
    assert shared.grant().kinds == ("message",)


# --- what makes no sense --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        ({"kinds": []}, ValueError),
        ({"kinds": "message"}, TypeError),
        ({"kinds": ["messages"]}, ValueError),
        ({"kinds": ["message"], "fields": {"namespaces": ["facts"]}}, ValueError),
        ({"kinds": ["message"], "fields": {"session": ["monday"]}}, ValueError),
        ({"kinds": ["message"], "fields": {"sessions": []}}, ValueError),
        ({"kinds": ["message"], "fields": {"sessions": "monday"}}, TypeError),
        ({"kinds": ["message"], "fields": ["monday"]}, TypeError),
        ({"kinds": ["item"], "fields": {"namespaces": [()]}}, TypeError),
        ({"kinds": ["item"], "fields": {"namespaces": [("a", 1)]}}, ScopeError),
        ({"kinds": ["profile"], "fields": {"parts": ["fact"]}}, ValueError),
        ({"kinds": ["item"], "until": 3600}, TypeError),
        ({"kinds": ["item"], "until": datetime(2100, 1, 1)}, ValueError),  # noqa: DTZ001
    ],
)
def test_terms_without_a_meaning_are_refused_and_grant_nothing(
    memory: IsolatedMemory, terms: dict[str, Any], error: type[Exception]
):
    with pytest.raises(error):
        memory.grants.allow(**BETWEEN, **terms)
    assert memory.grants.list(user_id="alice") == []


def test_nothing_is_shared_after_an_erasure(memory: IsolatedMemory, tutor: ScopedMemory):
    memory.grants.allow(**BETWEEN, kinds=ALL)
    shared = scope(memory, "planner").shared_from("tutor")
    memory._keyring.destroy(tutor._records.owner)

    with pytest.raises((KeyDestroyed, NotShared)):
        shared.messages("monday")
