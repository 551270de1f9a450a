"""Import: what was exported is there again, exact, once, and nothing that is not allowed."""

import asyncio
import base64
import json
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, TypedDict

import ormsgpack
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from langchain_core.outputs import Generation
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.store.base import PutOp
from langgraph.types import Command, interrupt

from langmem_isolated import IsolatedMemory, Limits, LocalRootKey, ScopedMemory
from langmem_isolated._codecs.checkpoints import layout
from langmem_isolated._codecs.forms import ARRAY, OBJECT, PATTERN, TEXT
from langmem_isolated._codecs.headers import decode_header, encode_header
from langmem_isolated._database.database import Database
from langmem_isolated.errors import (
    DatabaseLocked,
    ImportConflict,
    ImportRefused,
    KeyDestroyed,
    ScopeError,
    UserWasErased,
)
from langmem_isolated.lifecycle.imports import archive as archives
from langmem_isolated.lifecycle.imports.putting import Put
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
def source(tmp_path: Path) -> Iterator[IsolatedMemory]:
    """A memory to export from, where one kind of database is as good as the other."""
    with IsolatedMemory(f"sqlite:///{tmp_path}/s.db", root_key=LocalRootKey(ROOT_KEY)) as source:
        yield source


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
    # Documents in third-party stores do not come along, nor do notes of these stores.
    assert (first.pop("stores"), again.pop("stores")) == (["InMemoryVectorStore"], [])
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


def moved(source: IsolatedMemory, tmp_path: Path) -> Path:
    """A folder with all that fills the inventory."""
    fill(source, tutor(source), None)
    operate(source, None)
    source.export_user("alice", tmp_path / "alice")
    return tmp_path / "alice"


# --- where and for whom ---------------------------------------------------------------------------


async def test_it_is_the_same_from_a_coroutine_and_from_a_zip_file(
    source: IsolatedMemory, target: IsolatedMemory, door: Door, tmp_path: Path
):
    chat(source, "hello")
    source.export_user("alice", tmp_path / "a.zip")

    imported = await door(target, "import_user", tmp_path / "a.zip")

    assert (imported.user_id, imported.counts["messages"]) == ("alice", 1)
    assert "alice" not in repr(imported)
    assert tutor(target).chat_history("s").messages[0].content == "hello"


def test_another_user_and_project_are_named(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)

    imported = target.import_user(folder, user_id="anna", project_id="shop")

    assert imported.user_id == "anna"
    scope = target.scope(user_id="anna", module_id="tutor", project_id="shop")
    assert scope.chat_history("s").messages[0].content == "a secret"
    assert target.modules("alice") == []
    (policy,) = target.retention.list()
    assert (policy.user_id, policy.project_id) == ("anna", "shop")
    again = target.export_user("anna", tmp_path / "again", project_id="shop")
    assert again.counts == imported.counts


def test_an_archive_of_one_module_brings_that_one_and_no_grants(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    moved(source, tmp_path)
    source.export_user("alice", tmp_path / "one", module_id="tutor")
    granted = len(lines(tmp_path / "one", "grants"))

    imported = target.import_user(tmp_path / "one")

    assert target.modules("alice") == ["tutor"]
    assert imported.counts["grants"] == 0
    assert imported.skipped == {"grants": granted}
    assert granted == 2


def test_who_has_nothing_is_imported_as_nobody(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    source.export_user("nobody", tmp_path / "n")

    imported = target.import_user(tmp_path / "n")

    assert not any(imported.counts.values())
    assert target.modules("nobody") == []


def test_lines_of_an_archive_that_names_no_module_are_refused(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    about = json.loads((folder / "data" / "about.json").read_text())
    (folder / "data" / "about.json").write_text(json.dumps({**about, "statistics": []}))
    sealed(folder)

    assert "out of order" in refused(target, folder).why


def test_what_has_expired_since_is_left_out_and_counted(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    scope = tutor(source)
    scope.sessions.create("s", idle=timedelta(seconds=90))
    chat(source, "soon gone")
    scope.store().put(("facts",), "one", {"n": 1}, ttl=1)
    scope.llm_cache(ttl=timedelta(seconds=90)).update("p", "m", [Generation(text="answer")])
    chat(source, "stays", session="other")
    source.export_user("alice", tmp_path / "a")
    for kind in ("sessions", "items", "entries"):
        edited(tmp_path / "a", kind, _expired)

    imported = target.import_user(tmp_path / "a")

    assert imported.skipped == {"sessions": 1, "messages": 1, "items": 1, "entries": 1}
    assert [one.id for one in tutor(target).sessions()] == ["other"]
    assert tutor(target).store().search(()) == []


def _expired(there: list[dict[str, Any]]) -> None:
    for line in there:
        if line["expires_at"]:
            line["expires_at"] = "2020-01-01T00:00:00.000000+00:00"


def test_a_user_who_was_erased_comes_back_by_name_alone_and_as_new(
    memory: IsolatedMemory, attacker: Attacker, tmp_path: Path
):
    chat(memory, "hello")
    memory.export_user("alice", tmp_path / "a")
    former = attacker("SELECT scope_id, birth FROM scopes WHERE level = 1")
    memory.erase_user("alice")

    for how in ({}, {"readmit": ["bob"]}):
        with pytest.raises(UserWasErased):
            memory.import_user(tmp_path / "a", **how)
    assert memory.modules("alice") == []

    memory.import_user(tmp_path / "a", readmit=["bob", "alice"])
    assert tutor(memory).chat_history("s").messages[0].content == "hello"
    assert attacker("SELECT scope_id, birth FROM scopes WHERE level = 1") != former


def test_a_user_who_is_erased_meanwhile_stays_erased(
    source: IsolatedMemory, other: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    for number in (1, 4):
        left = [number]

        def erase(done: int, left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                other.erase_user("alice")

        with pytest.raises(KeyDestroyed):
            other.import_user(folder, progress=erase, readmit=["alice"])
        assert other.modules("alice") == []
        assert other.stats().total.users == 0


def test_a_user_who_is_erased_just_before_anything_is_put_in_stays_erased(
    source: IsolatedMemory,
    other: IsolatedMemory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    folder, real = moved(source, tmp_path), Put.begin
    other.scope(user_id="alice", module_id="tutor").chat_history("hers").add_user_message("hi")

    def begin(put: Put, *args: Any) -> None:
        other.erase_user("alice")
        real(put, *args)

    monkeypatch.setattr(Put, "begin", begin)
    with pytest.raises(UserWasErased):
        other.import_user(folder)
    assert other.stats().total.sessions == other.stats().total.items == 0


def test_receipts_of_merges_come_with_it_and_undo_nothing(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    target.import_user(folder)

    (receipt,) = target.receipts("alice")
    undone = target.undo(receipt)

    assert undone.removed == {}
    assert target.scope(user_id="alice", module_id="planner").sessions() != []


# --- names that are taken -------------------------------------------------------------------------

TAKEN = {
    "session": lambda scope: scope.chat_history("s").add_messages([HumanMessage("mine")]),
    "thread": lambda scope: graph(scope.checkpointer()).invoke({"messages": []}, at("t")),
    "collection": lambda scope: scope.vector_store(NGramEmbeddings()).add_texts(["mine"]),
    "item": lambda scope: scope.store().put(("facts",), "one", {"text": "mine"}),
    "entry": lambda scope: scope.llm_cache().update("prompt", "model", [Generation(text="mine")]),
}


@pytest.mark.parametrize("what", TAKEN)
def test_a_name_that_is_taken_is_refused_before_anything_is_written(
    memory: IsolatedMemory, other: IsolatedMemory, tmp_path: Path, what: str
):
    folder = moved(memory, tmp_path)
    TAKEN[what](tutor(other))
    before = other.export_user("alice", tmp_path / "before")

    with pytest.raises(ImportConflict, match="Nothing was imported") as refused:
        other.import_user(folder)

    assert refused.value.what == what
    assert re.fullmatch(r"data/\w+\.jsonl", refused.value.file)
    assert other.export_user("alice", tmp_path / "after").counts == before.counts
    assert everything(tmp_path / "after") == everything(tmp_path / "before")


def test_an_import_that_is_done_finds_its_names_taken(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    target.import_user(folder)

    with pytest.raises(ImportConflict):
        target.import_user(folder)
    with pytest.raises(ImportConflict):
        source.import_user(folder)

    target.import_user(folder, user_id="alice-2")
    assert tutor(target, "alice-2").chat_history("s").messages[0].content == "a secret"


def test_other_things_that_the_user_has_stay(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    chat(source, "imported")
    source.export_user("alice", tmp_path / "a")
    chat(target, "mine", session="mine")
    tutor(target).store().put(("facts",), "mine", {"n": 1})

    target.import_user(tmp_path / "a")

    assert {one.id for one in tutor(target).sessions()} == {"mine", "s"}
    assert tutor(target).store().get(("facts",), "mine") is not None


def test_a_session_that_came_between_look_and_import_stays_as_it_is(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    chat(source, "one", session="a")
    chat(source, "two", session="b")
    tutor(source).store().put(("facts",), "one", {"n": 1})
    source.export_user("alice", tmp_path / "a")
    first, second = (line["id"] for line in lines(tmp_path / "a", "sessions"))
    came: list[int] = []

    def come(done: int) -> None:
        if not came:
            chat(target, "mine", session=second)
        came.append(done)

    with pytest.raises(ImportConflict, match="goes on behind it") as refused:
        target.import_user(tmp_path / "a", progress=come)
    assert (refused.value.file, refused.value.line) == ("data/sessions.jsonl", 2)
    assert [one.content for one in tutor(target).chat_history(second).messages] == ["mine"]

    tutor(target).sessions.delete(second)
    target.import_user(tmp_path / "a")
    texts = {n: tutor(target).chat_history(n).messages[0].content for n in (first, second)}
    assert set(texts.values()) == {"one", "two"}


# --- ended in the middle --------------------------------------------------------------------------


# Each step by itself takes a minute.
EVERY = int(os.environ.get("EVERY_STEP_OF_IMPORT", "4"))


class Ended(Exception):
    """In place of what kills a process."""


@pytest.mark.parametrize("is_committed", [False, True])
def test_ended_at_any_step_it_goes_on_and_everything_is_there_once(
    source: IsolatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_committed: bool
):
    moved(source, tmp_path)
    chat(source, *map(str, range(600)), session="long")
    tutor(source).store().batch([PutOp(("many",), str(n), {"n": n}) for n in range(600)])
    source.export_user("alice", tmp_path / "a")
    expected, verified = everything(tmp_path / "a"), tutor(source).verify()
    write, left = Database.write, [0]

    def ending(self: Database, *args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0 and not is_committed:
            raise Ended
        result = write(self, *args, **kwargs)
        if left[0] == 0:
            raise Ended
        return result

    monkeypatch.setattr(Database, "write", ending)
    step = is_over = 0
    while not is_over:
        step += EVERY
        with _new(tmp_path, step) as target:
            left[0] = step
            try:
                target.import_user(tmp_path / "a")
                is_over = True
            except Ended:
                _nothing_is_half(target)
                left[0] = 0
                is_over = _again(target, tmp_path / "a")
            left[0] = 0
            target.export_user("alice", tmp_path / f"again-{step}")
            assert tutor(target).verify() == verified
        assert everything(tmp_path / f"again-{step}") == expected
    assert step > 20


def _new(tmp_path: Path, number: int) -> IsolatedMemory:
    """A memory on a copy of an empty database, which takes less than to make one."""
    empty = tmp_path / "empty.db"
    if not empty.exists():
        with IsolatedMemory(f"sqlite:///{empty}", root_key=LocalRootKey(OTHER_KEY)):
            pass
    shutil.copy(empty, tmp_path / f"{number}.db")
    return IsolatedMemory(f"sqlite:///{tmp_path}/{number}.db", root_key=LocalRootKey(OTHER_KEY))


def _again(target: IsolatedMemory, folder: Path) -> bool:
    """Import it once more; whether it was done before, but for who asked to be told so."""
    try:
        target.import_user(folder)
    except ImportConflict:
        return True
    return False


def _nothing_is_half(target: IsolatedMemory) -> None:
    scope = tutor(target)
    scope.verify()
    for session in scope.sessions():
        assert len(scope.chat_history(session.id).messages) == session.messages
        assert session.messages in (2, 600)


KILLED = """
import os, signal, sys
from langmem_isolated import IsolatedMemory, LocalRootKey
memory = IsolatedMemory(sys.argv[1], root_key=LocalRootKey(bytes(range(1, 33))))
left = [int(sys.argv[3])]
def told(done):
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
memory.import_user(sys.argv[2], progress=told)
"""


def test_a_killed_process_leaves_what_the_next_goes_on_with(source: IsolatedMemory, tmp_path: Path):
    folder = moved(source, tmp_path)
    url = f"sqlite:///{tmp_path}/t.db"

    for number in (1, 3, 5):
        command = [sys.executable, "-c", KILLED, url, str(folder), str(number)]
        killed = subprocess.run(command, check=False, capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr

    with IsolatedMemory(url, root_key=LocalRootKey(OTHER_KEY)) as target:
        told: list[int] = []
        imported = target.import_user(folder, progress=told.append)
        assert told == sorted(told)
        assert told[-1] == sum(imported.counts.values())
        target.export_user("alice", tmp_path / "again")
    assert everything(tmp_path / "again") == everything(folder)


async def test_cancelled_it_ends_behind_a_batch_and_goes_on(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    chat(source, *map(str, range(5000)))
    source.export_user("alice", tmp_path / "a")
    begun, loop, told = asyncio.Event(), asyncio.get_running_loop(), []

    def tell(done: int) -> None:
        told.append(done)
        loop.call_soon_threadsafe(begun.set)

    task = asyncio.create_task(target.aimport_user(tmp_path / "a", progress=tell))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    seen = len(told)
    await asyncio.sleep(0.5)

    assert len(told) <= seen + 2
    assert told[-1] < 5000
    assert tutor(target).sessions() == []
    await target.aimport_user(tmp_path / "a")
    assert len(tutor(target).chat_history("s").messages) == 5000


def test_two_processes_at_once_end_with_everything_once(
    memory: IsolatedMemory, other: IsolatedMemory, tmp_path: Path
):
    chat(memory, *map(str, range(3000)))
    tutor(memory).store().put(("facts",), "one", {"n": 1})
    memory.export_user("alice", tmp_path / "a")
    inner: list[BaseException] = []

    def come(done: int) -> None:
        if not inner:
            inner.append(KeyboardInterrupt())
            other.import_user(tmp_path / "a")

    with pytest.raises((DatabaseLocked, ImportConflict)):
        other.import_user(tmp_path / "a", progress=come)

    other.export_user("alice", tmp_path / "again")
    assert everything(tmp_path / "again") == everything(tmp_path / "a")


def test_who_was_overtaken_puts_nothing_in_that_was_removed_since(
    source: IsolatedMemory, other: IsolatedMemory, tmp_path: Path
):
    tutor(source).store().batch([PutOp(("many",), str(n), {"n": n}) for n in range(1100)])
    source.export_user("alice", tmp_path / "a")
    store, told = tutor(other).store(), []

    def come(done: int) -> None:
        told.append(done)
        if len(told) == 1:
            other.import_user(tmp_path / "a")
            store.batch([PutOp(("many",), str(n), None) for n in range(1100)])

    with pytest.raises(DatabaseLocked, match="Another process"):
        other.import_user(tmp_path / "a", progress=come)
    assert store.search(("many",), limit=1) == []


# --- archives that are not what was exported ------------------------------------------------------


def refused(target: IsolatedMemory, path: Path, **how: Any) -> ImportRefused:
    """What an import says that is refused, and has written nothing and told no content."""
    with pytest.raises(ImportRefused) as refusal:
        target.import_user(path, **how)
    assert target.modules("alice") == []
    assert "secret" not in str(refusal.value)
    return refusal.value


def test_a_line_that_was_changed_is_noticed_by_its_sha256(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    path = folder / "data" / "messages.jsonl"
    path.write_text(path.read_text().replace("a secret", "a se_ret"))

    refusal = refused(target, folder)

    assert (refusal.file, refusal.line) == ("data/messages.jsonl", None)
    assert "SHA-256" in refusal.why


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("bagit.txt", "BagIt-Version: 9.9\n"),
        ("bag-info.txt", "Payload-Oxum: 1.1\n"),
        ("manifest-sha256.txt", ""),
        ("tagmanifest-sha256.txt", "x\n"),
        ("data/about.json", "{}"),
    ],
)
def test_a_file_that_tells_of_the_others_must_fit(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path, name: str, text: str
):
    folder = moved(source, tmp_path)
    (folder / name).write_text(text)

    refused(target, folder)


@pytest.mark.parametrize("kind", ["messages", "sessions", "checkpoints", "items", "grants"])
def test_a_file_that_is_missing_or_shorter_is_noticed(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path, kind: str
):
    folder = moved(source, tmp_path)
    path = folder / "data" / f"{kind}.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    sealed(folder)
    refused(target, folder)

    path.unlink()
    sealed(folder)
    assert refused(target, folder).file == f"data/{kind}.jsonl"


def test_a_later_format_is_told(source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path):
    folder = moved(source, tmp_path)
    about = json.loads((folder / "data" / "about.json").read_text())
    (folder / "data" / "about.json").write_text(json.dumps({**about, "format": 2}))
    sealed(folder)

    assert "format 1" in refused(target, folder).why


def _replace(name: str, value: Any) -> Any:
    def edit(there: list[dict[str, Any]]) -> None:
        there[-1][name] = value

    return edit


def _drop(name: str) -> Any:
    return lambda there: there[-1].pop(name)


def _twice(there: list[dict[str, Any]]) -> None:
    there.append(there[-1])


def _header(line: dict[str, Any], **fields: Any) -> None:
    """Change what is sealed of a session or thread."""
    header = decode_header(base64.b64decode(line["stored"]))
    line["stored"] = base64.b64encode(encode_header(header._replace(**fields))).decode()


def _write(there: list[dict[str, Any]], structure: Any = ("task", "", [])) -> dict[str, Any]:
    """What a task has written, made from a checkpoint where there is none."""
    writes = ormsgpack.packb([[], ormsgpack.packb(structure)])
    line = next(one for one in reversed(there) if one["record"] == "checkpoint")
    stored = base64.b64encode(b"\x01" + writes).decode()
    there.append({**line, "record": "write", "stored": stored})
    return there[-1]


def _envelope(there: list[dict[str, Any]], **changed: Any) -> None:
    """Change what a checkpoint says of its channels."""
    line = next(one for one in reversed(there) if one["record"] == "checkpoint")
    runs, packed, *chunks = ormsgpack.unpackb(base64.b64decode(line["stored"])[1:])
    parts = ormsgpack.unpackb(packed, ext_hook=ormsgpack.Ext)
    parts[2] |= changed
    sealed = b"\x01" + ormsgpack.packb([runs, ormsgpack.packb(parts), *chunks])
    line["stored"] = base64.b64encode(sealed).decode()


def _ext(code: int, plain: Any) -> bytes:
    return ormsgpack.packb(ormsgpack.Ext(code, ormsgpack.packb(plain)))


MALFORMED = [
    ("messages", _replace("message", {"type": "human", "data": {"content": 5}}), "message"),
    ("messages", _replace("message", {"type": "nobody", "data": {"content": "x"}}), "message"),
    ("messages", _replace("message", {"type": "human", "data": {"content": "x", "id": 7}}), "mess"),
    ("messages", _replace("message", "a secret"), "an object"),
    ("messages", _replace("sequence", 7), "sequence"),
    ("messages", _replace("sequence", -1), "sequence"),
    ("messages", _replace("sequence", 2**63), "sequence"),
    ("messages", _replace("stored_at", "yesterday"), "stored_at"),
    ("messages", _replace("stored_at", "1960-01-01T00:00:00+00:00"), "1970"),
    ("messages", _replace("written_at", "2020-01-01T00:00:00+00:00"), "written_at"),
    ("messages", _replace("form", 1), "form"),
    ("messages", _replace("channel", 5), "beside"),
    ("messages", _replace("tokens", [1]), "length"),
    ("messages", _replace("found_by_id", True), "found_by_id"),
    ("messages", _replace("session", "another"), "count"),
    ("messages", _replace("module", "another"), "count"),
    ("items", _replace("module", "another"), "out of order"),
    ("messages", _drop("stored_at"), "stored_at"),
    ("messages", _twice, "sequence"),
    ("sessions", _replace("id", "another"), "id"),
    ("sessions", _replace("count", 1), "sequence"),
    ("sessions", _replace("stored", "!"), "base64"),
    ("sessions", _replace("stored", base64.b64encode(b"\x09").decode()), "version"),
    ("sessions", _replace("idle_lifetime", 0), "lifetime"),
    ("sessions", _replace("idle_lifetime", True), "idle_lifetime"),
    ("sessions", _replace("pinned", 1), "pinned"),
    ("sessions", _replace("limits", {"own": True, "channels": {"": 1}}), "channel"),
    ("sessions", _replace("limits", {"own": True, "channels": {"ai": 0}}), "limit"),
    ("sessions", _replace("next_sequence", 2**63 - 1), "next_sequence"),
    ("sessions", _replace("idle_lifetime", 2**63 - 1), "idle_lifetime"),
    ("sessions", _replace("absolute_lifetime", 2**63 - 1), "absolute_lifetime"),
    ("sessions", lambda there: _header(there[-1], summary="x", summarized=9), "summary"),
    ("sessions", lambda there: _header(there[-1], summary="x", summarized=2**70), "summary"),
    ("threads", _replace("next_sequence", 2**63 - 1), "next_sequence"),
    ("threads", _replace("count", 2), "count"),
    ("threads", _replace("next_sequence", 0), "number"),
    ("checkpoints", _replace("record", "message"), "record"),
    ("checkpoints", _replace("checkpoint", "zz"), "checkpoint"),
    ("checkpoints", _replace("stored", base64.b64encode(b"\x01\x90").decode()), "length"),
    ("checkpoints", lambda there: _write(there).update(namespace="\ud800"), "namespace"),
    ("checkpoints", lambda there: _write(there, ["task"]), "writes"),
    ("checkpoints", lambda there: _write(there, ["task", "", [1]]), "writes"),
    ("checkpoints", lambda there: _write(there, ["task", 1, []]), "writes"),
    ("checkpoints", lambda there: _body(there, [], _ext(layout.DEQUE, 5)), "deque"),
    ("checkpoints", lambda there: _body(there, [], _ext(layout.DEQUE, [[], -1])), "form"),
    ("checkpoints", lambda there: _body(there, [], _ext(layout.SEND, ["a"])), "task"),
    ("checkpoints", lambda there: _body(there, [], _ext(layout.SEND, [1, 2, None])), "node"),
    ("checkpoints", lambda there: _envelope(there, channel_versions=[]), "versions"),
    ("checkpoints", lambda there: _envelope(there, channel_versions={"a": [1]}), "versions"),
    ("checkpoints", lambda there: _envelope(there, versions_seen={"a": 5}), "versions"),
    ("items", _replace("namespace", []), "namespace"),
    ("items", _replace("namespace", ["langgraph"]), "namespace"),
    ("items", _replace("value", [1]), "value"),
    ("items", _replace("vectors", ["AAAA"]), "embedding"),
    ("items", _replace("expires_at", "2020-01-01T00:00:00+00:00"), "lifetime"),
    ("items", _replace("lifetime", 2**63 - 1), "lifetime"),
    ("items", _twice, "twice"),
    ("documents", _replace("embedding", base64.b64encode(b"\xff" * 256).decode()), "finite"),
    ("documents", _replace("embedding", "AA=="), "embedding"),
    ("documents", _replace("metadata", []), "metadata"),
    ("documents", _twice, "twice"),
    ("profiles", lambda there: there[-1]["stored"].pop("tag"), "stored"),
    ("profiles", lambda there: there[-1]["stored"].update(tag="AAAA"), "profile"),
    ("profiles", lambda there: there[-1]["stored"].update(names=[]), "form"),
    ("profiles", _twice, "twice"),
    ("entries", lambda there: there[-1]["stored"].update(value=5), "base64"),
    ("grants", lambda there: there[-1]["stored"].update(names=["AAAA"]), "granted"),
    ("policies", lambda there: there[-1]["stored"].update(value="e30="), "form"),
    ("receipts", lambda there: there[-1]["stored"].update(value="AAAA"), "form"),
]


@pytest.mark.parametrize(("kind", "edit", "told"), MALFORMED)
def test_a_malformed_line_is_refused_by_its_number(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path, kind: str, edit: Any, told: str
):
    folder = moved(source, tmp_path)
    edited(folder, kind, edit)

    refusal = refused(target, folder)

    assert told in refusal.why
    assert refusal.file
    assert refusal.file.startswith("data/")
    assert (refusal.line or 0) >= 1


@pytest.mark.parametrize(
    ("kind", "space", "changed"),
    [
        ("entries", "byte store", {"key": b"\xc0"}),
        ("entries", "byte store", {"key": b"\xd9\x01a"}),
        ("entries", "indexed documents", {"key": b"\xd9\x02k1"}),
        ("entries", "indexed documents", {"tag": b"\xd9\x06source"}),
        ("policies", "quotas", {"key": b'["tokens","day",null]'}),
        ("policies", "quotas", {"value": b"1000 "}),
    ],
)
def test_another_spelling_of_a_name_does_not_come_to_stand_beside_it(
    source: IsolatedMemory,
    target: IsolatedMemory,
    tmp_path: Path,
    kind: str,
    space: str,
    changed: dict[str, bytes],
):
    tutor(source).byte_store("files").mset([("a", b"1")])
    tutor(source).record_manager("docs").update(["k1"], group_ids=["source"])
    source.quotas.set(tokens=1000, per="day", user_id="alice")
    source.export_user("alice", tmp_path / "a")

    def edit(there: list[dict[str, Any]]) -> None:
        (line,) = (one for one in there if one["space"][0] == space)
        line["stored"].update({n: base64.b64encode(v).decode() for n, v in changed.items()})

    edited(tmp_path / "a", kind, edit)
    assert refused(target, tmp_path / "a").file == f"data/{kind}.jsonl"


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"a": NaN}', '{"a": 1}\n\n', "é", "[" * 100_000, '{"a": ' + "9" * 5000 + "}"],
)
def test_lines_that_are_no_json_are_refused(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path, text: str
):
    folder = moved(source, tmp_path)
    path = folder / "data" / "items.jsonl"
    path.write_text(path.read_text() + text + "\n")
    sealed(folder)

    refusal = refused(target, folder)

    assert refusal.file == "data/items.jsonl"
    assert refusal.line == 3


def test_a_line_is_read_up_to_a_bound(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = moved(source, tmp_path)
    edited(folder, "items", _replace("key", "k" * 3_000_000))
    monkeypatch.setattr(archives, "MOST_LINE_BYTES", 100_000)

    tracemalloc.start()
    refusal = refused(target, zipped(folder, tmp_path / "bomb.zip"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert "longer than" in refusal.why
    assert peak < 25_000_000


def test_lines_that_wait_for_their_turn_take_no_more_than_their_bytes(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    for path in (folder / "data").glob("*.jsonl"):
        path.write_text('{"module": "zz", "x": [' + "[]," * 100_000 + "0]}\n" + path.read_text())
    sealed(folder)

    tracemalloc.start()
    refused(target, zipped(folder, tmp_path / "bomb.zip"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    # Twelve lines of 0.3 MB, and one of them as lists of 64 bytes each; as lists, all are 77 MB.
    assert peak < 28_000_000


def test_a_thread_is_imported_whose_state_is_longer_than_a_line_may_be(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asking = graph(tutor(source).checkpointer())
    for number in range(4):
        asking.invoke({"messages": [HumanMessage("long " * 10_000, id=str(number))]}, at("t"))
    asking.invoke({"messages": [HumanMessage("short")]}, at("u"))
    monkeypatch.setattr(archives, "MOST_LINE_BYTES", 100_000)

    both_ways(source, target, tmp_path)

    state = graph(tutor(target).checkpointer()).get_state(at("t"))
    assert state == asking.get_state(at("t"))
    threads = tmp_path / "first" / "data" / "threads.jsonl"
    for cut in (150_000, 1):
        threads.write_bytes(threads.read_bytes()[:-cut])
        sealed(tmp_path / "first")
        with pytest.raises(ImportRefused, match=r"threads\.jsonl"):
            target.import_user(tmp_path / "first", user_id="another")


def test_what_is_beyond_a_limit_is_refused(source: IsolatedMemory, sqlite_url: str, tmp_path: Path):
    folder = moved(source, tmp_path)
    tutor(source).profile().add_fact("another")
    shutil.rmtree(folder)
    source.export_user("alice", folder)
    for name in ("message_bytes", "value_bytes", "document_bytes", "profile_entries"):
        limits = Limits(**{name: 1})
        with IsolatedMemory(sqlite_url, root_key=LocalRootKey(OTHER_KEY), limits=limits) as small:
            assert name in refused(small, folder).why


@pytest.mark.parametrize("is_zipped", [False, True])
@pytest.mark.parametrize("edit", ["another line", "a line more", "a line less"])
def test_an_archive_that_is_exchanged_after_it_was_checked_is_not_put_in(
    source: IsolatedMemory,
    target: IsolatedMemory,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    edit: str,
    is_zipped: bool,
):
    # More than what is read of a zip file at once.
    chat(source, os.urandom(50_000).hex())
    tutor(source).store().put(("facts",), "one", {"n": 1})
    source.export_user("alice", tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    path = zipped(tmp_path / "a", tmp_path / "a.zip") if is_zipped else tmp_path / "a"
    begin = Put.begin

    def exchange(self: Put, refuse_erased: Callable[[], object]) -> None:
        edits = {"another line": _replace("value", {"n": 2}), "a line more": _twice}
        edited(tmp_path / "a", "items", edits.get(edit, list.clear))
        if is_zipped:
            # In place: who renames another to its name changes nothing.
            path.write_bytes(zipped(tmp_path / "a", tmp_path / "other.zip").read_bytes())
        begin(self, refuse_erased)

    monkeypatch.setattr(Put, "begin", exchange)
    with pytest.raises(ImportRefused) as refusal:
        target.import_user(path)
    assert is_zipped or "changed since" in refusal.value.why
    assert tutor(target).store().search(("facts",)) == []

    monkeypatch.undo()
    target.import_user(tmp_path / "b")
    assert tutor(target).store().get(("facts",), "one").value == {"n": 1}


@pytest.mark.parametrize(
    "extra", ["../../evil", "/etc/evil", "alice/data/more.jsonl", "alice/bagit.txt", "other/x"]
)
def test_further_members_of_a_zip_file_are_refused_and_opened_nowhere(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path, extra: str
):
    folder = moved(source, tmp_path)
    path = zipped(folder, tmp_path / "a.zip", (extra, b"evil"))
    before = sorted(tmp_path.rglob("*"))

    assert "other" not in refused(target, path).why
    assert sorted(tmp_path.rglob("*")) == before


def test_a_file_more_in_a_folder_is_refused(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    (folder / "data" / "more.jsonl").write_text("{}\n")

    refused(target, folder)


def test_links_in_a_folder_are_refused(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    real = folder / "data" / "items.jsonl"
    real.rename(tmp_path / "elsewhere")
    real.symlink_to(tmp_path / "elsewhere")
    assert "link" in refused(target, folder).why

    real.unlink()
    (tmp_path / "elsewhere").rename(real)
    (folder / "data").rename(tmp_path / "data")
    (folder / "data").symlink_to(tmp_path / "data")
    refused(target, folder)

    (folder / "data").unlink()
    (tmp_path / "data").rename(folder / "data")
    real.unlink()
    os.mkfifo(real)
    assert "no file" in refused(target, folder).why


def test_links_in_a_zip_file_and_encrypted_members_are_refused(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                name = f"alice/{path.relative_to(folder).as_posix()}"
                info = zipfile.ZipInfo(name)
                if path.name == "items.jsonl":
                    info.external_attr = 0o120777 << 16
                archive.writestr(info, path.read_bytes())
    assert refused(target, tmp_path / "l.zip").why == "it is no file"

    with zipfile.ZipFile(tmp_path / "m.zip", "w", zipfile.ZIP_LZMA) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"alice/{path.relative_to(folder).as_posix()}")
    assert "no export is" in refused(target, tmp_path / "m.zip").why


def test_a_zip_file_that_is_cut_or_changed_is_refused(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    whole = zipped(folder, tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    refused(target, tmp_path / "cut.zip")

    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        members = [one for one in archive.infolist() if one.file_size]
    for one in members:
        # In what the file holds: of what is told before it, the list at the end counts.
        at_byte = one.header_offset + 30 + len(one.filename) + one.compress_size // 2
        changed = bytearray(whole)
        changed[at_byte] ^= 0x55
        (tmp_path / "changed.zip").write_bytes(changed)
        refused(target, tmp_path / "changed.zip")


def test_a_zip_file_with_any_other_list_of_its_files_is_refused(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    whole = zipped(folder, tmp_path / "a.zip").read_bytes()
    first = whole.index(b"PK\x01\x02")
    changed = {
        "a later version": (first + 6, b"\xff\x00"),
        "a difference": (first + 8, b"\x20\x00"),
        "encrypted strongly": (first + 8, b"\x40\x00"),
        "a name that is no text": (first + 8, b"\x00\x08", first + 46, b"\xff"),
        "an empty name": (first + 46, b"\x00"),
        "behind its end": (first + 42, b"\xff\xff\xff\x7f"),
        "before its beginning": (whole.index(b"PK\x05\x06") + 16, b"\xff\xff\xff\x7f"),
    }
    for places in changed.values():
        there = bytearray(whole)
        for at_byte, value in zip(places[::2], places[1::2], strict=True):
            there[at_byte : at_byte + len(value)] = value
        (tmp_path / "changed.zip").write_bytes(there)
        refused(target, tmp_path / "changed.zip")


def test_a_list_of_very_many_files_is_not_read(target: IsolatedMemory, tmp_path: Path):
    member = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[20] * 2, *[0] * 7, 1, *[0] * 6) + b"a"
    most = 400_000
    told = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 0, 0, most * len(member), 0, 0)
    (tmp_path / "a.zip").write_bytes(member * most + told)

    tracemalloc.start()
    refused(target, tmp_path / "a.zip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 5_000_000


@pytest.mark.parametrize("path", [None, 3, b"a.zip"])
def test_a_path_that_is_none_is_refused(target: IsolatedMemory, path: Any):
    with pytest.raises(TypeError, match="path must be"):
        target.import_user(path)


def test_arguments_that_are_none_are_refused(target: IsolatedMemory, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        target.import_user(tmp_path / "nowhere")
    with pytest.raises(ScopeError):
        target.import_user(tmp_path, user_id="")
    with pytest.raises(TypeError, match="readmit"):
        target.import_user(tmp_path, readmit="alice")
    with pytest.raises(TypeError, match="allow"):
        target.import_user(tmp_path, allow="app.Model")
    with pytest.raises(TypeError, match="progress"):
        target.import_user(tmp_path, progress=3)  # type: ignore[arg-type]
    with pytest.raises(ImportRefused):
        target.import_user(tmp_path)


# --- classes, and what would run ------------------------------------------------------------------

CANARY = """
import pathlib, tempfile
pathlib.Path({place!r}).write_text("I ran")
class Class:
    def __init__(self, *args, **kwargs):
        pathlib.Path({place!r}).write_text("I ran")
"""


def _packed(module: str, name: str, kind: str = "d") -> bytes:
    """An object of a class as it is sealed."""
    return ormsgpack.packb(ormsgpack.Ext(OBJECT, ormsgpack.packb([kind, module, name, {"x": 1}])))


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a module writes when it is imported, or its class is made."""
    place = tmp_path / "ran"
    (tmp_path / "canary_module.py").write_text(CANARY.format(place=str(place)))
    monkeypatch.syspath_prepend(tmp_path)
    return place


FORGED = {
    "an object": _packed("canary_module", "Class"),
    "a function": _packed("os", "system", "m"),
    "a nested object": ormsgpack.packb([[{"deep": ormsgpack.Ext(1, ormsgpack.packb([1]))}]])[:-1],
    "an unknown type": ormsgpack.packb(ormsgpack.Ext(63, b"\x90")),
    "an array of objects": ormsgpack.packb(
        ormsgpack.Ext(ARRAY, ormsgpack.packb(["a", "|O", [1], "C", bytes(range(8))]))
    ),
    "a broken extension": ormsgpack.packb(ormsgpack.Ext(TEXT, b"\xc1")),
}


@pytest.mark.parametrize("what", FORGED)
@pytest.mark.parametrize("kind", ["messages", "items", "documents", "checkpoints", "grants"])
def test_forged_stored_bytes_run_nothing_and_are_refused(
    source: IsolatedMemory,
    target: IsolatedMemory,
    tmp_path: Path,
    canary: Path,
    what: str,
    kind: str,
):
    folder = moved(source, tmp_path)
    edited(folder, kind, lambda there: _forge(kind, there, FORGED[what]))

    refusal = refused(target, folder)

    assert refusal.file == f"data/{kind}.jsonl"
    if what == "an object":
        assert "canary_module.Class" in refusal.why
    assert not canary.exists()
    assert "canary_module" not in sys.modules


def _forge(kind: str, there: list[dict[str, Any]], packed: bytes) -> None:
    """Put a packed value into the last record, as if it had been sealed in it."""
    line = there[-1]
    fixed = ormsgpack.packb
    if kind == "messages":
        data = b"\x82" + fixed("content") + fixed("x") + fixed("artifact") + packed
        sealed = b"\x01\x92" + fixed("human") + data
        line |= {"form": 1, "written_at": None}
    elif kind == "items":
        sealed = b"\x93\x81" + fixed("v") + packed + fixed(line["key"])
        sealed = sealed + b"".join(map(fixed, line["namespace"]))
    elif kind == "documents":
        sealed = b"\x01\x93" + fixed(line["id"]) + fixed("x") + b"\x81" + fixed("v") + packed
    elif kind == "checkpoints":
        line = next(one for one in there if one["record"] == "checkpoint")
        sealed = b"\x01" + fixed([[], packed])
    else:
        line = next(one for one in there if one["key"])
        line["stored"]["value"] = base64.b64encode(bytes(32) + packed).decode()
        return
    line["stored"] = base64.b64encode(sealed).decode()


def _element(there: list[dict[str, Any]], sealed: bytes) -> None:
    """Put something in the place of the first element of a thread."""
    line = next(one for one in there if one["record"] == "element")
    line["stored"] = base64.b64encode(sealed).decode()


def _body(there: list[dict[str, Any]], runs: list[int], packed: bytes, *chunks: list[int]) -> None:
    """Put something in the place of a checkpoint's references and values."""
    line = next(one for one in there if one["record"] == "checkpoint")
    own = ormsgpack.unpackb(base64.b64decode(line["stored"])[1:])[1]
    *outline, values = ormsgpack.unpackb(own, ext_hook=ormsgpack.Ext)
    outer = ormsgpack.packb([*outline, {**values, "more": ormsgpack.Ext(0, b"")}])
    packed = outer.replace(ormsgpack.packb(ormsgpack.Ext(0, b"")), packed)
    sealed = b"\x01" + ormsgpack.packb([runs, packed, *chunks])
    line["stored"] = base64.b64encode(sealed).decode()


_NEXT = ormsgpack.packb(ormsgpack.Ext(layout.ELEMENT, b"\x00"))
_TEXT = layout.VALUE_V1 + ormsgpack.packb("long " * 1000)
BOMBS: dict[str, Any] = {
    "a chunk of numbers that are not there": lambda there: (
        _element(there, layout.CHUNK_V1 + ormsgpack.packb([0, 20_000_000])),
        _body(there, [], b"\xc0", [0, 1]),
    ),
    "a chunk in the place of a value": lambda there: (
        _element(there, layout.CHUNK_V1 + ormsgpack.packb([])),
        _body(there, [0, 1], _NEXT),
    ),
    "one text a hundred thousand times": lambda there: (
        _element(there, _TEXT),
        _body(there, [0, 1] + [-1, 1] * 99_999, b"\xdc\xff\xff" + _NEXT * 65_535),
    ),
    "an element that refers to elements": lambda there: (
        _element(there, layout.VALUE_V1 + _NEXT),
        _body(there, [0, 1, -1, 1], _NEXT),
    ),
    "more values than numbers": lambda there: (
        _element(there, _TEXT),
        _body(there, [0, 1], b"\x92" + _NEXT * 2),
    ),
}


@pytest.mark.parametrize("what", BOMBS)
def test_references_that_could_not_be_followed_are_refused_in_bounded_memory(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path, what: str
):
    folder = moved(source, tmp_path)
    edited(folder, "checkpoints", BOMBS[what])

    tracemalloc.start()
    refusal = refused(target, folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert refusal.file == "data/checkpoints.jsonl"
    assert "refer" in refusal.why
    assert peak < 100_000_000


def test_nothing_of_an_archive_is_printed(
    source: IsolatedMemory,
    target: IsolatedMemory,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    folder = moved(source, tmp_path)
    parts = ormsgpack.packb(["a secret", int(re.DEBUG)])
    pattern = ormsgpack.packb(ormsgpack.Ext(PATTERN, parts))
    edited(folder, "items", lambda there: _forge("items", there, pattern))

    target.import_user(folder)
    found = tutor(target).store().search(("facts",))

    assert "a secret" in {getattr(one.value.get("v"), "pattern", None) for one in found}
    assert capsys.readouterr() == ("", "")


def test_caches_with_what_is_not_allowed_are_left_out(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path, canary: Path
):
    folder = moved(source, tmp_path)
    forged = base64.b64encode(b"\x01" + FORGED["an object"]).decode()
    edited(folder, "entries", lambda there: there[-1]["stored"].update(value=forged))

    imported = target.import_user(folder)

    assert imported.skipped == {"entries": 1}
    assert not canary.exists()


def test_classes_of_an_application_come_with_it_where_they_are_allowed(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    artifact = {"point": Point(1, 2), "model": Model(name="m")}
    tutor(source).chat_history("s").add_messages(
        [ToolMessage("with objects", artifact=artifact, tool_call_id="c")]
    )
    source.export_user("alice", tmp_path / "a")

    assert "tests.threads.Point" in refused(target, tmp_path / "a").why
    assert "tests.threads.Model" in refused(target, tmp_path / "a", allow=[Point]).why

    target.import_user(tmp_path / "a", allow=[Point, ("tests.threads", "Model")])
    (message,) = tutor(target).chat_history("s").messages
    assert message.artifact == artifact


# --- anything that can be said --------------------------------------------------------------------

TEXTS = st.text(st.characters(codec=None), max_size=20)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | TEXTS
    | st.binary(max_size=9)
    | st.frozensets(st.integers(), max_size=1),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(TEXTS, inner, max_size=3)
        | st.tuples(inner, inner)
    ),
    max_leaves=8,
)


# Not shrunk: each example is a second's work.
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[*HealthCheck],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
@given(st.lists(st.tuples(TEXTS, st.dictionaries(TEXTS, VALUES, max_size=3)), max_size=12))
def test_any_messages_and_items_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, said: list[tuple[str, dict[str, Any]]]
):
    folder = tmp_path_factory.mktemp("any")
    with (
        IsolatedMemory(f"sqlite:///{folder}/s.db", root_key=LocalRootKey(ROOT_KEY)) as source,
        IsolatedMemory(f"sqlite:///{folder}/t.db", root_key=LocalRootKey(OTHER_KEY)) as target,
    ):
        messages = [HumanMessage(text, additional_kwargs=extra) for text, extra in said]
        tutor(source).chat_history("s").add_messages(messages)
        for number, (_, value) in enumerate(said):
            tutor(source).store().put(("n",), str(number), value)
        both_ways(source, target, folder)
        found = tutor(target).chat_history("s").messages
        assert [*map(repr, found)] == [*map(repr, messages)]


# --- how much it takes, and the command -----------------------------------------------------------


def test_20_000_messages_of_one_session_are_imported_in_bounded_memory(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    for start in range(0, 20_000, 2000):
        chat(source, *(f"{start + n} {'x' * 200}" for n in range(2000)))
    source.export_user("alice", tmp_path / "a.zip")
    source.export_user("nobody", tmp_path / "first")
    target.import_user(tmp_path / "first")
    tracemalloc.start()
    try:
        imported = target.import_user(tmp_path / "a.zip")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert imported.counts["messages"] == 20_000
    # The messages alone are 4 MB of text, and 20 times as much as objects.
    assert peak < 16_000_000


def test_the_command_imports_and_tells_how_much(
    source: IsolatedMemory, target: IsolatedMemory, tmp_path: Path
):
    folder = moved(source, tmp_path)
    url, key = ("--database", url_of(target)), base64.b64encode(OTHER_KEY).decode()

    done = run("import", folder, "--json", *url, key=key)
    again = run("import", folder, *url, key=key)
    shown = run("import", folder, "--user", "anna", "--project", "shop", *url, key=key)
    lost = run("import", tmp_path / "nowhere", *url, key=key)
    wrong = run("import", folder, "--user", "b", "--allow", "Model", *url, key=key)

    assert json.loads(done.stdout)["counts"]["messages"] == 4
    assert "has a name that the user has already" in error_line(again)
    assert shown.exit_code == 0
    assert "messages" in shown.stdout
    assert "cannot be read" in error_line(lost)
    assert wrong.exit_code == 2
    assert target.modules("anna", project_id="shop") == ["planner", "tutor"]
