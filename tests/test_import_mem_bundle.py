"""Memory of other programs: a `.mem` bundle, written by the format's own package or by us."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from portable_memory.exporter import BundleExporter
from portable_memory.inmemory import InMemoryStore
from portable_memory.records import (
    PortableContext,
    PortableCore,
    PortableEntity,
    PortableEpisode,
    PortableFact,
    PortablePreference,
)
from portable_memory.tombstone import Tombstone, TombstoneOp

from langmem_isolated import IsolatedMemory
from langmem_isolated.errors import SourceRefused
from langmem_isolated.importers import Field, Import, Mapping, detect_source, source_specs

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)
EPISODE = PortableEpisode(
    id="e1", event_time=MOMENT, mention_time=MOMENT, ingestion_time=MOMENT, source_type="chat",
    actors=["user"], summary="A test", details="I have a test.", sensitivity="low", metadata={},
    categories=[], importance=0.5, confidence=0.7, lifecycle_state="HOT", extraction_state="done",
    access_count=0, pinned=False, vault_refs=[], context_id="c1", speaker="user",
)  # fmt: skip
OWNER = Mapping(user="ann", module="chat")


FACT = PortableFact(
    id="f1", episode_id="", subject="user", predicate="has", obj="a dog", text="Has a dog.",
    t_valid_from=MOMENT, confidence=0.7, importance=0.5, created_at=MOMENT,
)  # fmt: skip


class Program(InMemoryStore):
    """Another program, with a record of each kind."""

    def export_contexts(self) -> list[PortableContext]:
        return [PortableContext(id="c1", label="School", archived=True, created_at=MOMENT)]

    def export_preferences(self) -> list[PortablePreference]:
        return [PortablePreference(key="tone", value="short")]

    def export_core_blocks(self) -> list[PortableCore]:
        return [PortableCore(id="human", content="Ann, 14.", char_budget=100, version=1)]

    def export_facts(self) -> list[PortableFact]:
        over = replace(FACT, id="f2", text="Is 13.", superseded_by="f1")
        return [FACT, over, replace(FACT, id="f3", subject="Bob", text="Bob sings.")]


def exported(path: Path) -> None:
    """Write a bundle of another program."""
    store = Program()
    for episode in (
        EPISODE,
        replace(EPISODE, id="e2", event_time=MOMENT.replace(hour=13), details="Good luck.",
                speaker="assistant"),
        replace(EPISODE, id="e3", event_time=MOMENT.replace(hour=14), details="Me too.",
                speaker="Bob"),
        replace(EPISODE, id="e4", details="The sky was red.", speaker=None, source_type="note"),
        replace(EPISODE, id="e5", details="Deleted."),
    ):  # fmt: skip
        store.episodes[episode.id] = episode
    store.entities["n1"] = PortableEntity(
        id="n1", entity_type="person", canonical_name="Bob", aliases=[], summary="A friend",
        sensitivity="low", updated_at=MOMENT,
    )  # fmt: skip
    store.tombstones = [
        Tombstone(id="t1", op=TombstoneOp.DELETE, target_kind="episode", target_id="e5",
                  deleted_at=MOMENT, actor="ann"),
    ]  # fmt: skip
    BundleExporter().export(store, path)


def test_a_bundle_of_another_program_becomes_sessions_a_profile_and_items(
    memory: IsolatedMemory, tmp_path: Path
):
    exported(tmp_path / "memory.mem")
    scope = memory.scope(user_id="ann", module_id="chat")

    with detect_source(tmp_path / "memory.mem").make(str(tmp_path / "memory.mem")) as source:
        receipt = Import(memory, source, OWNER, folder=tmp_path).run()
        notes = source.notes()

    assert receipt.is_whole
    said = scope.chat_history("c1").timed()
    assert [one.message for one in said] == [
        HumanMessage("I have a test.", id="e1"),
        AIMessage("Good luck.", id="e2"),
        HumanMessage("Bob: Me too.", name="Bob", id="e3"),
    ]
    assert said[0].said_at == MOMENT
    [session] = scope.sessions(archived=True)
    assert (session.title, session.created) == ("School", MOMENT)
    profile = scope.profile()
    assert [fact.text for fact in profile.facts()] == ["Has a dog."]
    assert (profile.attributes(), profile.summary()) == ({"tone": "short"}, "Ann, 14.")
    store = scope.store()
    assert {item.key for item in store.search((), limit=20)} == {"e4", "n1", "f3"}
    assert notes == {"deleted by a tombstone": 1, "facts that hold no longer": 1}
    memory.roll_back(bytes.fromhex(receipt.token))
    assert scope.sessions(archived=True) == []


def test_an_export_of_ours_in_the_format_has_its_sessions_again_with_all_fields(
    memory: IsolatedMemory, tmp_path: Path
):
    scope = memory.scope(user_id="ann", module_id="chat")
    call: Any = {"name": "look", "args": {"at": 1}, "id": "call-1"}
    said = [
        HumanMessage("What is there?", id="one"),
        AIMessage("", tool_calls=[call], id="two"),
        ToolMessage("A dog.", tool_call_id="call-1", id="three"),
    ]
    scope.chat_history("monday").add_messages(said)
    memory.export_user("ann", tmp_path / "ann.mem")

    with source_specs()["mem"].make(str(tmp_path / "ann.mem")) as source:
        mapping = Mapping(user="bea", module=Field("module"))
        Import(memory, source, mapping, folder=tmp_path).run()

    assert memory.scope(user_id="bea", module_id="chat").chat_history("monday").messages == said


def test_a_session_and_a_thread_of_one_name_both_come(memory: IsolatedMemory, tmp_path: Path):
    """Many applications have one id for both."""
    scope = memory.scope(user_id="ann", module_id="chat")
    scope.chat_history("monday").add_user_message("In the session.")
    graph = StateGraph(MessagesState).add_node("answer", lambda _: {}).add_edge(START, "answer")
    bound = scope.bind(graph.compile())
    bound.invoke({"messages": ["In the thread."]}, {"configurable": {"thread_id": "monday"}})
    memory.export_user("ann", tmp_path / "ann.mem")

    with source_specs()["mem"].make(str(tmp_path / "ann.mem")) as source:
        moving = Import(
            memory, source, Mapping(user="bea", module=Field("module")), folder=tmp_path
        )
        receipts = moving.run(), moving.run()

    assert [receipt.units for receipt in receipts] == [{"copied": 2}, {"present": 2}]
    bea = memory.scope(user_id="bea", module_id="chat")
    assert [one.content for one in bea.chat_history("monday").messages] == ["In the session."]
    (other,) = [one for one in bea.sessions() if one.id != "monday"]
    assert other.title == "monday"
    assert [one.content for one in bea.chat_history(other.id).messages] == ["In the thread."]


@pytest.mark.parametrize("change", ["changed", "removed", "version"])
def test_a_bundle_that_is_not_as_it_was_exported_is_refused(tmp_path: Path, change: str):
    path = tmp_path / "memory.mem"
    exported(path)
    if change == "changed":
        with (path / "items" / "episode.jsonl").open("a") as file:
            file.write("{}\n")
    elif change == "removed":
        (path / "audit" / "tombstones.jsonl").unlink()
    else:
        manifest = path / "manifest.json"
        manifest.write_text(manifest.read_text().replace('"format":"1.', '"format":"2.'))

    with pytest.raises(SourceRefused):
        source_specs()["mem"].make(str(path))
