"""Import: what was exported is there again, exact, once, and nothing that is not allowed."""

import asyncio
import base64
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypedDict

import ormsgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.outputs import Generation
from langgraph.checkpoint.base import CheckpointTuple
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.types import Command, interrupt

from langmem_isolated import IsolatedMemory, Limits, LocalRootKey, ScopedMemory
from langmem_isolated._codecs.forms import ARRAY, OBJECT, TEXT
from langmem_isolated._codecs.values import encode_value
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database.database import Database
from langmem_isolated.errors import (
    DatabaseLocked,
    ImportConflict,
    ImportRefused,
    ScopeError,
    UserWasErased,
)
from langmem_isolated.lifecycle.imports import archive as archives
from langmem_isolated.lifecycle.imports import putting
from tests.archives import edited, everything, in_order, lines, sealed, zipped
from tests.command_line import error_line, run
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.test_cli import url_of
from tests.test_inventory import fill, operate
from tests.threads import Model, Point

OTHER_KEY = bytes(range(1, 33))


@pytest.fixture
def other(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path
) -> Iterator[IsolatedMemory]:
    """A memory with another root key on the other kind of database."""
    is_sqlite = database_url.startswith("sqlite")
    url = request.getfixturevalue("postgres_url") if is_sqlite else f"sqlite:///{tmp_path}/other.db"
    with IsolatedMemory(url, root_key=LocalRootKey(OTHER_KEY)) as other:
        yield other


@pytest.fixture
def target(tmp_path: Path) -> Iterator[IsolatedMemory]:
    """A memory with another root key, where one kind of database is as good as the other."""
    with IsolatedMemory(f"sqlite:///{tmp_path}/t.db", root_key=LocalRootKey(OTHER_KEY)) as target:
        yield target


def tutor(memory: IsolatedMemory, user: str = "alice") -> ScopedMemory:
    return memory.scope(user_id=user, module_id="tutor")


def chat(memory: IsolatedMemory, *texts: str, session: str = "s", user: str = "alice") -> None:
    messages = [HumanMessage(text) for text in texts]
    tutor(memory, user).chat_history(session).add_messages(messages)


class State(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]
    answer: str


def graph(saver: Any) -> Any:
    """One that asks a person in the middle of its work."""

    def ask(state: State) -> dict[str, Any]:
        return {"answer": interrupt("may I?"), "messages": [AIMessage("I asked", id="a")]}

    def end(state: State) -> dict[str, Any]:
        return {"messages": [AIMessage(f"you said {state['answer']}")]}

    built = StateGraph(State)
    built.add_node("ask", ask)
    built.add_node("end", end)
    built.add_edge(START, "ask")
    built.add_edge("ask", "end")
    built.add_edge("end", END)
    return built.compile(checkpointer=saver)


def at(thread: str) -> Any:
    return {"configurable": {"thread_id": thread}}


UNUSUAL = [
    HumanMessage("plain", id="1"),
    AIMessage("tools", tool_calls=[{"name": "t", "args": {"n": 1.5}, "id": "c"}], id="2"),
    ToolMessage("bytes", artifact={"raw": b"\x00\xff", 3: (1, 2)}, tool_call_id="c"),
    HumanMessage("a lone surrogate \ud800"),
    HumanMessage("no number", additional_kwargs={"n": math.nan, "big": 2**70}),
    HumanMessage("looks like ours", additional_kwargs={"v": {"type": "bytes", "value": "AA=="}}),
    HumanMessage("the same id again", id="1"),
]


def lived_in(memory: IsolatedMemory) -> None:
    """A user who has all there is, in two modules and what both share."""
    scope = tutor(memory)
    fill(memory, scope, None)
    operate(memory, None)
    scope.chat_history("unusual", channel="ai").add_messages(UNUSUAL)
    _sessions(scope)
    _threads(scope)
    _store(scope)
    scope.cross_module().add_fact("what all modules know")
    published = memory.publisher(user_id="alice").vector_store(NGramEmbeddings())
    published.add_texts(["for all modules"])
    documents = scope.vector_store(NGramEmbeddings(), collection="notes")
    documents.add_documents([Document("first", metadata={"n": 1}, id="one")])
    documents.add_documents([Document("second", metadata={"raw": b"\x00"}, id="two")])
    profile = scope.profile()
    fact = profile.add_fact("likes maths")
    profile.add_fact("has a dog")
    profile.correct(fact, "likes mathematics")
    profile.set_attribute("grade", 5)
    profile.add_interest("chess")
    profile.set_summary("A pupil.")
    scope.llm_cache().update("prompt", "other model", [Generation(text="answer")])
    scope.byte_store("files").mset([("a", b"\x01\x80\xff"), ("b", b"")])
    index = scope.record_manager("docs")
    index.create_schema()
    index.update(["k1", "k2"], group_ids=["source", None])
    memory.quotas.set(tokens=1000, per="day", user_id="alice")
    memory.retention.keep("item", user_id="alice", module_id="tutor", age=timedelta(days=1000))


def _sessions(scope: ScopedMemory) -> None:
    sessions = scope.sessions
    sessions.create("titled", title="Fractions", channel="web", idle=timedelta(days=9))
    scope.chat_history("titled").add_messages([HumanMessage(str(n)) for n in range(12)])
    sessions.pin("titled")
    sessions.create("closed", absolute=timedelta(days=900))
    sessions.close("closed")
    sessions.archive("closed")
    sessions.create("short", channel_limits={"ai": 3, "general": 5})
    for n in range(9):
        scope.chat_history("short", channel="ai").add_messages([AIMessage(f"ai {n}")])
        scope.chat_history("short", channel="general").add_messages([HumanMessage(f"me {n}")])
    cleared = scope.chat_history("cleared")
    cleared.add_messages([HumanMessage("gone")])
    cleared.clear()


def _threads(scope: ScopedMemory) -> None:
    asking = graph(scope.checkpointer())
    asking.invoke({"messages": [HumanMessage("hello " * 300, id="h")]}, at("asked"))
    asking.invoke({"messages": [HumanMessage("again", id="g")]}, at("done"))
    asking.invoke(Command(resume="yes"), at("done"))


def _store(scope: ScopedMemory) -> None:
    store = scope.store(index={"embed": NGramEmbeddings(), "dims": 64})
    store.put(("facts", "school"), "level", {"text": "fractions and decimals"})
    store.put(("facts",), "pets", {"text": "a dog called Bello", "none": None, "f": 1.0}, ttl=999)
    store.put(("facts",), "odd", {"raw": b"\x00", "when": timedelta(1)}, index=False)
    store.put(("facts",), "pets", {"text": "a dog called Bella"}, ttl=999)


def both_ways(source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path, **how: Any) -> None:
    """Export, import elsewhere, and export again: all lines are the same."""
    first = source.export_user("alice", tmp_path / "first")

    imported = target.import_user(tmp_path / "first", **how)
    again = target.export_user(imported.user_id, tmp_path / "again")

    assert imported.counts == first.counts == again.counts
    assert not any(imported.skipped.values())
    assert everything(tmp_path / "again") == everything(tmp_path / "first")
    for kind, name in (("messages", "session"), ("documents", "collection")):
        assert in_order(tmp_path / "again", kind, name) == in_order(tmp_path / "first", kind, name)


def test_a_user_is_record_by_record_the_same_in_another_kind_of_database(
    memory: IsolatedMemory, other: IsolatedMemory, tmp_path: Path
):
    lived_in(memory)

    both_ways(memory, other, tmp_path)

    first, again = (
        json.loads((tmp_path / name / "data" / "about.json").read_text())
        for name in ("first", "again")
    )
    different = {name for name in first if first[name] != again[name]}
    assert different <= {"exported_at", "statistics"}
    assert tutor(other).verify() == tutor(memory).verify()


def read_by_everyone(memory: IsolatedMemory) -> dict[str, Any]:
    """What an application sees of the user."""
    scope = tutor(memory)
    embeddings = NGramEmbeddings()
    asking = graph(scope.checkpointer())
    store = scope.store(index={"embed": embeddings, "dims": 64})
    notes = scope.vector_store(embeddings, collection="notes")
    return {
        "messages": {
            # As text: no number is equal to itself.
            one.id: [*map(repr, scope.chat_history(one.id).messages)]
            for one in scope.sessions(archived=None)
        },
        "sessions": [str(one) for one in scope.sessions(archived=None)],
        "channels": [*map(repr, scope.recent({"ai": 20, "general": 3}))],
        "state": asking.get_state(at("asked")),
        "history": [[*asking.get_state_history(at(thread))] for thread in ("asked", "done")],
        "threads": [str(one) for one in scope.checkpointer().threads()],
        "search": [
            (one.namespace, one.key, one.value, one.created_at, one.updated_at, one.score)
            for one in store.search(("facts",), query="dog", limit=10)
        ],
        "documents": [
            (one.id, one.page_content, one.metadata, round(score, 6))
            for one, score in notes.similarity_search_with_score("second", k=5)
        ],
        "facts": scope.profile().facts(),
        "interests": scope.profile().interests(),
        "attributes": scope.profile().attributes(),
        "cached": scope.llm_cache().lookup("prompt", "other model"),
        "bytes": scope.byte_store("files").mget(["a", "b"]),
        "indexed": sorted(scope.record_manager("docs").list_keys(group_ids=["source"])),
        "receipts": memory.receipts("alice"),
        "grants": memory.grants.list(user_id="alice"),
        "policies": memory.retention.list(),
        "quotas": memory.quotas.list(user_id="alice"),
    }


def test_applications_see_the_same_as_before(
    memory: IsolatedMemory, other: IsolatedMemory, tmp_path: Path
):
    lived_in(memory)
    before = read_by_everyone(memory)

    memory.export_user("alice", tmp_path / "a.zip")
    other.import_user(tmp_path / "a.zip")

    after = read_by_everyone(other)
    for name, value in before.items():
        assert after[name] == value, name
    resumed = graph(tutor(other).checkpointer()).invoke(Command(resume="no"), at("asked"))
    assert resumed["messages"][-1].content == "you said no"
