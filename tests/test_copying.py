"""Copies of everything that one owner has to another: nothing is lost, moved or seen too early."""

import os
from datetime import timedelta
from typing import Annotated, Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.graph.message import add_messages
from sqlalchemy import and_, bindparam, delete, select
from typing_extensions import TypedDict

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.scope_keys import ScopeKeys
from langmem_isolated._database import schema
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._storage.copying import copy, staging
from langmem_isolated._storage.copying.copy import Copy
from langmem_isolated._storage.copying.options import Copied, Mark
from langmem_isolated._storage.sessions.listing import ROWS, session_digest
from langmem_isolated._storage.sessions.reading import message_aad_prefix, message_part
from langmem_isolated.errors import AddressTaken
from tests.conftest import Attacker
from tests.embeddings import NGramEmbeddings
from tests.threads import at, put, values_at

TOKEN = bytes(range(16))


class State(TypedDict):
    messages: Annotated[list[BaseMessage], add_messages]


def answer(_: State) -> dict[str, Any]:
    return {"messages": [AIMessage("42", id="a")]}


def graph() -> Any:
    return StateGraph(State).add_node(answer).add_edge(START, "answer").compile()


def config(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}, "run_id": "7" * 32}


@pytest.fixture
def guest(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="guest", module_id="landing")


@pytest.fixture
def alice(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copy, "BATCH", 4)


def furnish(scope: ScopedMemory) -> None:
    """Give a scope some of everything."""
    history = scope.chat_history("main", channel="web")
    history.add_messages([HumanMessage(f"question {n}", id=f"m{n}") for n in range(10)])
    scope.sessions.rename("main", "Sums")
    bound = scope.bind(graph())
    bound.invoke({"messages": [HumanMessage("6 times 7?", id="q")]}, config("t"))
    bound.invoke({"messages": [HumanMessage("Sure?", id="r")]}, config("t"))
    store = scope.store(index={"dims": 64, "embed": NGramEmbeddings()})
    store.put(("facts", "school"), "level", {"text": "level three"})
    store.put(("facts",), "soon", {"text": "gone soon"}, ttl=60)
    scope.vector_store(NGramEmbeddings()).add_documents(
        [Document(f"page {n}", id=f"d{n}") for n in range(3)]
    )
    scope.byte_store("files").mset([("a", b"1"), ("b", b"2")])


def copied(source: ScopedMemory, target: ScopedMemory, **options: Any) -> Copied:
    at_once = options.pop("at_once", False)
    return Copy(source._records, target._records, TOKEN, **options).run(at_once=at_once)


def names(scope: ScopedMemory) -> set[str | None]:
    return {session.id for session in scope.sessions()}


def texts(scope: ScopedMemory, session_id: str = "main") -> list[Any]:
    return [message.content for message in scope.chat_history(session_id).messages]


@pytest.mark.parametrize("at_once", [False, True])
def test_everything_is_there_and_whole_and_finds_its_names(
    guest: ScopedMemory, alice: ScopedMemory, *, at_once: bool
):
    furnish(guest)

    done = copied(guest, alice, at_once=at_once)

    assert alice.verify() == guest.verify()
    assert alice.chat_history("main").messages == guest.chat_history("main").messages
    theirs, ours = guest.sessions.get("main"), alice.sessions.get("main")
    assert (ours.title, ours.created, ours.last_activity) == (
        theirs.title, theirs.created, theirs.last_activity,
    )  # fmt: skip
    assert alice.recent({"web": 20}) == guest.recent({"web": 20})
    state = alice.bind(graph()).get_state(config("t"))
    assert [message.content for message in state.values["messages"]] == [
        "6 times 7?",
        "42",
        "Sure?",
    ]
    store = alice.store(index={"dims": 64, "embed": NGramEmbeddings()})
    (found,) = store.search(("facts",), query="level three", limit=1)
    there = guest.store().get(("facts", "school"), "level")
    assert there is not None
    assert (found.key, found.created_at, found.updated_at) == (
        "level", there.created_at, there.updated_at,
    )  # fmt: skip
    assert [
        d.page_content
        for d in alice.vector_store(NGramEmbeddings()).similarity_search("page 2", k=1)
    ] == ["page 2"]
    assert alice.byte_store("files").mget(["a", "b"]) == [b"1", b"2"]
    assert done.counts[Kind.MESSAGE] == 10
    assert done.counts[Kind.DOCUMENT] == 3
    assert done.counts[Kind.ITEM] == 2
    assert not done.renamed


def test_what_was_copied_can_be_written_on(guest: ScopedMemory, alice: ScopedMemory):
    furnish(guest)
    copied(guest, alice)

    alice.chat_history("main").add_messages([HumanMessage("question 3", id="m3")])
    alice.chat_history("main").add_user_message("more")
    alice.bind(graph()).invoke({"messages": [HumanMessage("And 7 times 6?")]}, config("t"))
    alice.checkpointer().delete_for_runs(["7" * 32])
    alice.chat_history("main", idempotent=True).add_messages([HumanMessage("question 4", id="m4")])

    assert texts(alice)[-1] == "more"
    assert alice.verify().messages == 12
    assert guest.verify().messages == 10


def test_an_item_lives_as_long_as_it_would_have(
    guest: ScopedMemory, alice: ScopedMemory, attacker: Attacker
):
    guest.store().put(("facts",), "soon", {"a": 1}, ttl=60)

    copied(guest, alice)

    assert len(attacker("SELECT DISTINCT expires_at FROM records WHERE kind = 8")) == 1
    assert alice.verify().items == 1


def test_counted_items_stay_counted(guest: ScopedMemory, alice: ScopedMemory, attacker: Attacker):
    alice.store(integrity="counted").put(("facts",), "mine", {"a": 1})
    guest.store().put(("facts",), "theirs", {"a": 2})

    copied(guest, alice)

    assert alice.verify().items == 2


def test_taken_names_are_renamed(guest: ScopedMemory, alice: ScopedMemory):
    furnish(guest)
    alice.chat_history("main").add_user_message("mine")
    alice.store().put(("facts", "school"), "level", {"text": "mine"})
    alice.vector_store(NGramEmbeddings()).add_documents([Document("mine", id="d1")])

    done = copied(guest, alice)

    assert {(one.kind, one.old, one.new) for one in done.renamed} == {
        (Kind.SESSION, "main", "main-2"),
        (Kind.ITEM, "level", "level-2"),
        (Kind.DOCUMENT, "d1", "d1-2"),
    }
    assert texts(alice) == ["mine"]
    assert len(texts(alice, "main-2")) == 10
    item = alice.store().get(("facts", "school"), "level-2")
    assert item is not None
    assert item.value == {"text": "level three"}
    (document,) = alice.vector_store(NGramEmbeddings()).get_by_ids(["d1-2"])
    assert document.page_content == "page 1"
    alice.verify()


def test_taken_names_are_left_out(guest: ScopedMemory, alice: ScopedMemory):
    furnish(guest)
    alice.chat_history("main").add_user_message("mine")
    alice.store().put(("facts", "school"), "level", {"text": "mine"})

    done = copied(guest, alice, conflicts="skip")

    assert texts(alice) == ["mine"]
    assert done.skipped == {Kind.SESSION: 1, Kind.ITEM: 1}
    assert done.counts[Kind.MESSAGE] == 0
    alice.verify()


def test_what_is_copied_takes_the_place_of_what_has_its_name(
    guest: ScopedMemory, alice: ScopedMemory
):
    furnish(guest)
    furnish(alice)
    alice.chat_history("main").add_user_message("mine")

    done = copied(guest, alice, conflicts="replace", at_once=True)

    assert len(texts(alice)) == 10
    assert done.replaced[Kind.SESSION] == 1
    assert done.replaced[Kind.THREAD] == 1
    assert alice.verify() == guest.verify()


def test_a_taken_name_may_refuse_all(guest: ScopedMemory, alice: ScopedMemory, attacker: Attacker):
    furnish(guest)
    alice.store().put(("facts", "school"), "level", {"text": "mine"})

    with pytest.raises(AddressTaken):
        copied(guest, alice, conflicts="refuse", at_once=True)

    assert names(alice) == set()
    assert alice.verify().messages == 0


def test_embeddings_of_another_length_get_a_collection_of_their_own(
    guest: ScopedMemory, alice: ScopedMemory
):
    furnish(guest)
    alice.vector_store(NGramEmbeddings(32)).add_documents([Document("mine", id="m")])

    done = copied(guest, alice)

    assert [(one.old, one.new) for one in done.renamed] == [("default", "default-2")]
    found = alice.vector_store(NGramEmbeddings(), collection="default-2")
    assert len(found.similarity_search("page", k=9)) == 3
    alice.verify()


def test_headers_say_where_it_came_from(guest: ScopedMemory, alice: ScopedMemory):
    furnish(guest)

    copied(guest, alice, mark=Mark("anonymous", is_untrusted=True))

    session = alice.sessions.get("main")
    assert (session.origin, session.is_untrusted) == ("anonymous", True)
    assert guest.sessions.get("main").is_untrusted is False


def test_nothing_is_seen_before_all_is_there_and_a_killed_copy_goes_on(
    guest: ScopedMemory, alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    furnish(guest)
    batches = 0
    put = staging.put

    def killed_later(*args: Any) -> Any:
        nonlocal batches
        batches += 1
        if batches == 3:
            raise KeyboardInterrupt
        return put(*args)

    monkeypatch.setattr(staging, "put", killed_later)
    with pytest.raises(KeyboardInterrupt):
        copied(guest, alice, at_once=True)
    monkeypatch.undo()

    assert names(alice) == set()
    assert texts(alice) == []
    assert alice.recall("question") == []
    assert alice.recent({"web": 5}) == []
    assert list(alice.checkpointer().list(None)) == []
    copied(guest, alice, at_once=True)
    assert alice.verify() == guest.verify()


def test_what_the_source_gets_meanwhile_is_copied_too(
    guest: ScopedMemory, alice: ScopedMemory, monkeypatch: pytest.MonkeyPatch
):
    furnish(guest)
    publish, said = Copy._publish, []

    def publish_later(self: Copy, *args: Any, **options: Any) -> None:
        if not said:
            said.append(guest.chat_history("main").add_user_message("late"))
            guest.chat_history("new").add_user_message("later")
            guest.checkpointer().delete_thread("t")
        publish(self, *args, **options)

    monkeypatch.setattr(Copy, "_publish", publish_later)
    copied(guest, alice, at_once=True)

    assert texts(alice)[-1] == "late"
    assert texts(alice, "new") == ["later"]
    assert alice.verify() == guest.verify()


def test_what_was_tampered_with_is_not_copied(
    guest: ScopedMemory, alice: ScopedMemory, attacker: Attacker
):
    from langmem_isolated.errors import RecordDoesNotOpen

    guest.chat_history("main").add_messages([HumanMessage(f"{n}") for n in range(3)])
    attacker("DELETE FROM records WHERE key = ?", (1).to_bytes(8))

    with pytest.raises(RecordDoesNotOpen):
        copied(guest, alice)

    assert names(alice) == set()


def test_what_expired_is_not_copied(guest: ScopedMemory, alice: ScopedMemory):
    saver = guest.checkpointer(ttl=timedelta(microseconds=1))
    guest.bind(graph(), checkpointer=saver).invoke({"messages": [HumanMessage("6?")]}, config("t"))

    done = copied(guest, alice)

    assert done.counts[Kind.THREAD] == 0


def test_a_copy_begun_again_after_it_was_published_leaves_what_was_said_since(
    guest: ScopedMemory, alice: ScopedMemory
):
    furnish(guest)
    copied(guest, alice)
    alice.chat_history("main").add_user_message("since")

    copied(guest, alice)

    assert texts(alice)[-1] == "since"
    assert alice.verify().items == 2
    assert names(alice) == {"main"}


@pytest.mark.parametrize("seconds", [0, 600], ids=["cold", "warm"])
def test_a_thread_that_was_deleted_and_copied_again_is_not_taken_for_what_it_was(
    guest: ScopedMemory,
    alice: ScopedMemory,
    database_url: str,
    root_key: LocalRootKey,
    seconds: float,
):
    """The copy goes on with its token; another process knows elements of the deleted one."""
    put(guest.checkpointer(), at("t"), {"messages": [HumanMessage("copied", id="c")]})
    copied(guest, alice)
    with IsolatedMemory(database_url, root_key=root_key, plaintext_cache_seconds=seconds) as other:
        saver = other.scope(user_id="alice", module_id="tutor").checkpointer()
        deleted = [*values_at(saver, at("t"))["messages"], HumanMessage("deleted", id="d")]
        put(saver, at("t"), {"messages": deleted})
        assert values_at(saver, at("t")) == {"messages": deleted}
        alice.checkpointer().delete_thread("t")
        copied(guest, alice)
        new = [*deleted[:1], HumanMessage("new", id="n")]
        put(alice.checkpointer(), at("t"), {"messages": new})

        assert values_at(saver, at("t")) == {"messages": new}
        put(saver, at("t"), {"messages": deleted})
        assert values_at(alice.checkpointer(), at("t")) == {"messages": deleted}


def test_another_token_is_another_copy(guest: ScopedMemory, alice: ScopedMemory):
    furnish(guest)
    copied(guest, alice)

    Copy(guest._records, alice._records, os.urandom(16)).run()

    assert names(alice) == {"main", "main-2"}
    alice.verify()


def drop_out(scope: ScopedMemory, session_id: str, number: int) -> None:
    """Take one message out between others, as a limit on another channel leaves a session."""

    def without(transaction: Transaction, keys: ScopeKeys) -> None:
        digest, key = session_digest(keys, session_id), number.to_bytes(8)
        state = ROWS.locked(transaction, keys, digest)
        assert state is not None
        records = schema.records.c
        at = and_(records.kind == bindparam("kind"), records.key == bindparam("key"))
        here = {"kind": int(Kind.MESSAGE), "key": key}
        row = transaction.row(select(records.sealed, records.updated_at).where(at), **here)
        assert row is not None
        place = message_aad_prefix(keys, digest, state)
        plaintext = keys.open(place, key, row[0], Kind.MESSAGE)
        part = message_part(keys, digest, key, row[1], plaintext)
        fewer = state.with_members(keys, -part)._replace(count=state.count - 1)
        ROWS.update(transaction, keys, digest, fewer)
        transaction.execute(delete(schema.records).where(at), **here)

    scope._records.write(without)


def test_a_session_with_gaps_is_whole_without_them(guest: ScopedMemory, alice: ScopedMemory):
    history = guest.chat_history("main")
    history.add_messages([HumanMessage(f"{n}", id="twice" if n < 6 else None) for n in range(9)])
    guest.sessions.set_summary("main", "up to five", until=5)
    for number in (0, 3):
        drop_out(guest, "main", number)

    copied(guest, alice)

    assert texts(alice) == ["1", "2", "4", "5", "6", "7", "8"]
    assert alice.verify().messages == 7
    # The three before it of those that are left.
    page = alice.chat_history("main").page(limit=4)
    assert alice.sessions.get("main").summarized == page.before
    again = alice.chat_history("main", idempotent=True)
    again.add_messages([HumanMessage("1", id="twice")])
    assert again.count() == 7


@pytest.mark.parametrize("channel", ["general", "ai", "own"])
def test_a_limit_of_a_channel_in_which_nothing_was_said_yet_holds_on(
    guest: ScopedMemory, alice: ScopedMemory, channel: str
):
    guest.sessions.create("main", channel="own", channel_limits={"general": 2, "ai": 2, "own": 2})

    copied(guest, alice)

    alice.chat_history("main", channel=channel).add_messages([HumanMessage(str(n)) for n in "123"])
    assert texts(alice) == ["2", "3"]
