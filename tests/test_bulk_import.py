"""Bulk import: foreign records go into scopes as they were, are read back, and are found again."""

import operator
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel._messages import _messages_delta_reducer
from langgraph.types import Command, Send, interrupt
from typing_extensions import TypedDict

from langmem_isolated import IsolatedMemory, Limits, LocalRootKey, ScopedMemory
from langmem_isolated.errors import (
    AddressTaken,
    ImportNotVerified,
    MemoryLocked,
    UserWasErased,
)
from langmem_isolated.lifecycle import (
    ForeignDocument,
    ForeignFact,
    ForeignItem,
    ForeignMessage,
    ForeignProfile,
    ForeignSession,
    PutOutcome,
    Rejected,
)
from langmem_isolated.lifecycle.bulk_import import messages as import_messages
from tests.conftest import Attacker
from tests.foreign_threads import foreign_checkpoints, foreign_thread
from tests.locks import lock

TOKEN = b"token of sixteen"
BEGAN = datetime(2024, 5, 1, 12, tzinfo=UTC)
CANARY = "the canary sings at midnight"


@dataclass
class Importer:
    """Puts units into a memory under one token."""

    memory: IsolatedMemory
    token: bytes = TOKEN
    rejected: list[Rejected] = field(default_factory=list)
    embeddings: Any = None

    def put(self, scope: ScopedMemory, *units: Any) -> list[PutOutcome]:
        given = {"source": "test", "embeddings": self.embeddings}
        with self.memory.bulk_import(self.token, **given) as bulk:
            if len(units) == 1:
                put = bulk.put(scope.scope, units[0], on_reject=self.rejected.append)
                return [put]
            return bulk.put_many(scope.scope, units, on_reject=self.rejected.append)


@pytest.fixture
def scope(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


@pytest.fixture
def importer(memory: IsolatedMemory) -> Importer:
    return Importer(memory)


def said(count: int, first: int = 0) -> list[ForeignMessage | Rejected]:
    return [
        ForeignMessage(
            HumanMessage(f"message {number}", id=f"id-{number}"),
            f"row {number}",
            BEGAN + timedelta(seconds=number),
            "general" if number % 3 else None,
        )
        for number in range(first, first + count)
    ]


def session(*messages: ForeignMessage | Rejected, **more: Any) -> ForeignSession:
    return ForeignSession("monday", "rows", messages, **more)


EVERY_KIND = [
    SystemMessage("Be brief.", id="s"),
    HumanMessage([{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": "x"}]),
    AIMessage(
        "",
        id="a",
        tool_calls=[{"name": "look", "args": {"at": 1}, "id": "call"}],
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
        additional_kwargs={"own": [1, None]},
    ),
    ToolMessage("seen", tool_call_id="call", artifact={"raw": [1.5, True]}, name="look"),
    AIMessage("Done.", id="a"),
]


# --- sessions -------------------------------------------------------------------------------------


def test_a_session_comes_in_as_it_was_with_times_channels_and_repeated_ids(
    memory: IsolatedMemory, scope: ScopedMemory, importer: Importer
):
    channels = ["general", None, "ai", "general", None]
    found = [
        ForeignMessage(message, "row", BEGAN + timedelta(minutes=number), channels[number])
        for number, message in enumerate(EVERY_KIND)
    ]

    [outcome] = importer.put(
        scope,
        session(
            *found, title="First", created_at=BEGAN - timedelta(1), is_archived=True, is_pinned=True
        ),
    )

    timed = scope.chat_history("monday").timed()
    assert [line.message for line in timed] == EVERY_KIND
    assert [line.said_at for line in timed] == [one.written_at for one in found]
    assert [line.channel for line in timed] == channels
    listed = scope.sessions.get("monday")
    assert (listed.title, listed.created, listed.last_activity, listed.pinned) == (
        "First",
        BEGAN - timedelta(1),
        found[-1].written_at,
        True,
    )
    assert (outcome.state, outcome.records) == ("copied", 5)
    assert importer.rejected == []
    memory.verify()


@pytest.mark.parametrize("count", [499, 500])
def test_a_second_run_finds_all_present_and_a_later_one_adds_what_came_since(
    scope: ScopedMemory, importer: Importer, count: int
):
    outcomes = [
        importer.put(scope, session(*said(number)))[0]
        for number in (count, count, count + 600, count + 1)
    ]

    assert [(one.state, one.records) for one in outcomes] == [
        ("copied", count),
        ("present", count),
        ("continued", 600),
        ("present", count + 1),
    ]
    assert scope.chat_history("monday").count() == count + 600


def test_what_its_owner_said_since_is_no_conflict_and_something_else_is(
    scope: ScopedMemory, importer: Importer
):
    history = scope.chat_history("monday")
    importer.put(scope, session(*said(3)))
    history.add_user_message("And here it goes on.")

    [again] = importer.put(scope, session(*said(3)))
    with pytest.raises(AddressTaken):
        importer.put(scope, session(*said(5)))
    with pytest.raises(AddressTaken):
        importer.put(scope, session(*said(2), *said(1, first=7)))

    assert again.state == "present"
    assert history.count() == 4


def test_what_cannot_be_put_in_is_told_with_its_place_and_the_rest_goes_on(
    database_url: str, root_key: LocalRootKey
):
    class Opaque:
        pass

    hostile = AIMessage("x", additional_kwargs={"object": Opaque()})
    early = ForeignMessage(HumanMessage("early"), "row 8", datetime(1969, 1, 1, tzinfo=UTC))
    naive = ForeignMessage(HumanMessage("naive"), "row 9", datetime(2024, 1, 1))  # noqa: DTZ001
    long = ForeignMessage(HumanMessage(CANARY * 100), "row 10")
    channel = ForeignMessage(HumanMessage("x"), "row 11", channel="\n" + CANARY)
    broken = Rejected("row 6", "no JSON")
    with IsolatedMemory(
        database_url, root_key=root_key, limits=Limits(message_bytes=900)
    ) as memory:
        importer = Importer(memory)
        scope = memory.scope(user_id="alice", module_id="tutor")
        found = [*said(1), broken, ForeignMessage(hostile, "row 7"), early, naive, long, channel]

        [outcome] = importer.put(scope, session(*found, *said(1, first=1)))
        [malformed] = importer.put(scope, replace(session(), id="x" * 300))
        [nothing] = importer.put(scope, replace(session(broken), id="tuesday"))
        [titled] = importer.put(scope, replace(session(title="Empty"), id="wednesday"))

        assert [message.text for message in scope.chat_history("monday").messages] == [
            "message 0",
            "message 1",
        ]
    places = [one.place for one in importer.rejected]
    assert places == [*(f"row {number}" for number in (6, 7, 8, 9, 10, 11)), "rows", "row 6"]
    assert CANARY not in "".join(one.reason for one in importer.rejected)
    assert (outcome.records, titled.state) == (2, "copied")
    assert malformed == nothing == PutOutcome("rejected", 0)


def test_a_session_without_times_has_that_of_the_import_and_is_found_again(
    scope: ScopedMemory, importer: Importer
):
    found = [ForeignMessage(message, "row") for message in EVERY_KIND]
    before = datetime.now(UTC)

    outcomes = [importer.put(scope, session(*found))[0].state for _ in range(2)]

    assert outcomes == ["copied", "present"]
    assert all(line.said_at >= before for line in scope.chat_history("monday").timed())


def test_what_is_read_back_otherwise_ends_the_import(
    memory: IsolatedMemory,
    scope: ScopedMemory,
    importer: Importer,
    monkeypatch: pytest.MonkeyPatch,
):
    """A message that is lost on its way in is noticed by who reads, not by who wrote."""
    encode = import_messages.encode_message

    def losing(message: Any, *args: Any) -> bytes:
        return encode(message.model_copy(update={"additional_kwargs": {}}), *args)

    monkeypatch.setattr(import_messages, "encode_message", losing)
    with pytest.raises(ImportNotVerified) as caught:
        importer.put(scope, session(ForeignMessage(EVERY_KIND[2], "row 3")))

    assert "message 1" in str(caught.value)
    assert memory.roll_back(TOKEN).counts == {"session": 1}


# --- who must not -------------------------------------------------------------------------------


def test_an_erased_user_stays_erased_unless_readmitted(
    memory: IsolatedMemory, scope: ScopedMemory, importer: Importer
):
    scope.chat_history("old").add_user_message("Forget me.")
    memory.erase_user("alice")

    with pytest.raises(UserWasErased):
        importer.put(scope, session(*said(2)))
    fresh = memory.scope(user_id="alice", module_id="tutor")
    assert fresh.chat_history("monday").count() == 0

    with memory.bulk_import(TOKEN, source="test", readmit=["alice"]) as bulk:
        bulk.put(scope.scope, session(*said(2)), on_reject=print)
    assert memory.scope(user_id="alice", module_id="tutor").chat_history("monday").count() == 2


def test_nothing_comes_in_for_a_user_who_alone_has_the_keys(
    memory: IsolatedMemory, scope: ScopedMemory, importer: Importer
):
    scope.chat_history("old").add_user_message("Mine.")
    lock(memory)
    memory.lock("alice")

    with pytest.raises(MemoryLocked):
        importer.put(scope, session(*said(2)))


def test_nothing_of_an_import_is_readable_in_the_database(sqlite_url: str, root_key: LocalRootKey):
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        scope = memory.scope(user_id="alice", module_id="tutor")
        found = ForeignMessage(HumanMessage(CANARY), CANARY, BEGAN)
        Importer(memory).put(scope, ForeignSession(CANARY, CANARY, [found], title=CANARY))
        attacker = Attacker(sqlite_url)
        rows = [repr(row) for table in ("records", "sessions", "scopes")
                for row in attacker(f"SELECT * FROM {table}")]  # fmt: skip
        attacker.close()

    assert not [row for row in rows if CANARY in row]


# --- threads ------------------------------------------------------------------------------------


class DeltaState(TypedDict):
    messages: Annotated[
        list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=3)
    ]
    sums: Annotated[list[int], operator.add]


def delta_graph() -> StateGraph[Any]:
    def answer(state: DeltaState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"heard {len(state['messages'])}")], "sums": [1]}

    return StateGraph(DeltaState).add_node("answer", answer).add_edge(START, "answer")


def asking_graph() -> StateGraph[Any]:
    def ask(_: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"You said {interrupt({'sure': True})}.")]}

    def spread(_: MessagesState) -> list[Send]:
        return [Send("part", {"number": number}) for number in range(2)]

    def part(state: Any) -> dict[str, Any]:
        return {"messages": [AIMessage(f"part {state['number']}")]}

    inner = StateGraph(MessagesState).add_node("ask", ask).add_edge(START, "ask")
    outer = StateGraph(MessagesState).add_node("part", part)
    outer.add_node("inner", inner.compile()).add_conditional_edges(START, spread)
    return outer.add_edge("part", "inner")


CONFIG: Any = {"configurable": {"thread_id": "chat-1"}}


@pytest.mark.parametrize("graph", [delta_graph, asking_graph])
def test_a_thread_is_the_same_step_by_step_and_goes_on_where_it_stopped(
    memory: IsolatedMemory,
    scope: ScopedMemory,
    importer: Importer,
    graph: Callable[[], StateGraph[Any]],
):
    theirs = InMemorySaver()
    before = graph().compile(checkpointer=theirs)
    for number in range(4 if graph is delta_graph else 1):
        before.invoke({"messages": [("human", f"turn {number}")]}, CONFIG)

    [outcome] = importer.put(scope, foreign_thread(theirs, "chat-1", title="A thread"))

    after = graph().compile(checkpointer=scope.checkpointer())
    assert after.get_state(CONFIG, subgraphs=True) == before.get_state(CONFIG, subgraphs=True)
    assert [*after.get_state_history(CONFIG)] == [*before.get_state_history(CONFIG)]
    going_on = Command(resume="yes") if graph is asking_graph else {"messages": [("human", "on")]}
    ended = [
        [message.text for message in one.invoke(going_on, CONFIG)["messages"]]
        for one in (before, after)
    ]
    assert ended[0] == ended[1]
    assert (outcome.state, importer.rejected) == ("copied", [])
    memory.verify()


def test_a_thread_that_went_on_at_its_source_is_continued_and_one_that_went_on_here_is_present(
    memory: IsolatedMemory, scope: ScopedMemory, importer: Importer
):
    theirs = InMemorySaver()
    graph = asking_graph().compile(checkpointer=theirs)
    graph.invoke({"messages": [("human", "hi")]}, CONFIG)
    stopped = foreign_thread(theirs, "chat-1")
    first = importer.put(scope, stopped)[0].state
    graph.invoke(Command(resume="yes"), CONFIG)

    states = [importer.put(scope, foreign_thread(theirs, "chat-1"))[0].state for _ in range(2)]

    ours = asking_graph().compile(checkpointer=scope.checkpointer())
    assert ours.get_state(CONFIG) == graph.get_state(CONFIG)
    assert [first, *states] == ["copied", "continued", "present"]
    ours.invoke({"messages": [("human", "more")]}, CONFIG)
    assert importer.put(scope, stopped)[0].state == "present"
    graph.invoke({"messages": [("human", "otherwise")]}, CONFIG)
    with pytest.raises(AddressTaken):
        importer.put(scope, foreign_thread(theirs, "chat-1"))
    memory.verify()


def test_a_hostile_checkpoint_is_rejected_and_the_others_go_in(
    scope: ScopedMemory, importer: Importer
):
    theirs = InMemorySaver()
    delta_graph().compile(checkpointer=theirs).invoke({"messages": [("human", "hi")]}, CONFIG)
    good, *_ = foreign_checkpoints(theirs, "chat-1")
    plain = dict(good.checkpoint)
    hostile = [
        replace(good, id="../../etc", checkpoint={**plain, "id": "../../etc"}),
        replace(good, checkpoint={**plain, "channel_values": [CANARY]}),
        replace(good, checkpoint={**plain, "channel_versions": {CANARY: ["0", CANARY]}}),
        replace(good, metadata=CANARY),
        replace(good, checkpoint={**plain, "channel_values": {"x": lambda: CANARY}}),
        good,
        good,
    ]
    thread = replace(foreign_thread(theirs, "chat-1"), checkpoints=hostile)

    [outcome] = importer.put(scope, thread)

    assert (outcome.state, outcome.records, len(importer.rejected)) == ("copied", 1, 6)
    assert CANARY not in "".join(map(repr, importer.rejected))
    assert len([*scope.checkpointer().list(CONFIG)]) == 1


# --- items, documents, profiles -------------------------------------------------------------------


def test_items_come_in_with_their_times_and_end_when_they_would_have(
    memory: IsolatedMemory, scope: ScopedMemory, importer: Importer
):
    ends = datetime.now(UTC) + timedelta(hours=1)
    found = [
        ForeignItem(("a", "b"), f"key {number}", {"number": number, "list": [1, {"x": None}]},
                    f"row {number}", BEGAN, BEGAN + timedelta(number), 3600.0, ends)
        for number in range(40)
    ]  # fmt: skip
    over = replace(found[0], key="over", expires_at=BEGAN, place="row 50")
    other = replace(found[0], value={"other": True}, place="row 51")

    outcomes = importer.put(scope, *found, over, other, replace(found[1], namespace=("langgraph",)))
    again = importer.put(scope, *found)

    item = scope.store().get(("a", "b"), "key 7", refresh_ttl=False)
    assert item is not None
    assert (item.value, item.created_at, item.updated_at) == (
        {"number": 7, "list": [1, {"x": None}]},
        BEGAN,
        BEGAN + timedelta(7),
    )
    assert [one.state for one in outcomes] == ["copied"] * 40 + ["rejected"] * 3
    assert {one.state for one in again} == {"present"}
    with pytest.raises(AddressTaken):
        importer.put(scope, other)
    memory.verify()


def test_documents_keep_their_embeddings_and_get_one_where_they_have_none(
    memory: IsolatedMemory, scope: ScopedMemory
):
    embeddings = DeterministicFakeEmbedding(size=8)
    importer = Importer(memory, embeddings=embeddings)
    found = [
        ForeignDocument("notes", f"id {number}", f"text {number}", {"number": number}, "row",
                        embeddings.embed_query(f"text {number}") if number % 2 else None)
        for number in range(20)
    ]  # fmt: skip
    short = replace(found[0], id="short", embedding=[1.0, 2.0], place="row 30")

    outcomes = importer.put(scope, *found, short)
    again = importer.put(scope, *found)

    store = scope.vector_store(embeddings, collection="notes")
    for number in (6, 7):
        [nearest] = store.similarity_search(f"text {number}", k=1)
        assert (nearest.id, nearest.metadata) == (f"id {number}", {"number": number})
    assert [one.state for one in outcomes] == ["copied"] * 20 + ["rejected"]
    assert {one.state for one in again} == {"present"}
    memory.verify()


def test_documents_are_as_old_here_as_they_were(memory: IsolatedMemory, scope: ScopedMemory):
    embeddings = DeterministicFakeEmbedding(size=8)
    old = datetime.now(UTC) - timedelta(days=40)
    found = ForeignDocument("notes", "1", "text", {}, "row", embeddings.embed_query("text"), old)
    Importer(memory).put(scope, found, replace(found, id="2", stored_at=None))
    memory.retention.keep("document", days=30)

    assert memory.sweep().counts == {"document": 1}
    store = scope.vector_store(embeddings, collection="notes")
    assert [one.id for one in store.documents()] == ["2"]


def test_a_profile_comes_in_part_by_part_each_once(
    memory: IsolatedMemory, scope: ScopedMemory, importer: Importer
):
    scope.profile().set_attribute("level", 2)
    facts = [
        ForeignFact("Likes tea.", "notes", BEGAN),
        ForeignFact("likes  TEA."),
        ForeignFact(" "),
    ]
    unit = ForeignProfile("alice", "file", facts, ["chess"], {"level": 3, "city": "Bonn"}, "Short.")

    outcomes = [importer.put(scope, unit)[0] for _ in range(2)]

    contents = scope.profile().contents()
    [fact] = contents.facts
    assert (fact.text, fact.time, fact.sources[0].kind) == ("Likes tea.", BEGAN, "notes")
    assert [one.name for one in contents.interests] == ["chess"]
    assert (dict(contents.attributes), contents.summary) == ({"level": 2, "city": "Bonn"}, "Short.")
    assert [one.state for one in outcomes] == ["copied", "present"]
    assert {one.place for one in importer.rejected} == {"file, facts 3", "file, attributes 1"}


def test_an_import_counts_as_no_use_of_the_day(memory: IsolatedMemory, importer: Importer):
    importer.put(memory.scope(user_id="carol", module_id="tutor"), session(*said(3)))

    assert memory.stats().total.messages == 3
    assert sum(day.active_users for day in memory.stats(days=1).days) == 0
