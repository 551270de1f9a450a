"""Telemetry: spans and metrics of every operation, by the conventions, and log records at DEBUG."""

import asyncio
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import Generation
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.base import empty_checkpoint
from opentelemetry import trace
from opentelemetry.trace import StatusCode

import langmem_isolated
from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._adapters.observed_jobs import NAMES
from langmem_isolated._storage.scoped_database import ScopedDatabase
from langmem_isolated.errors import RecordDoesNotOpen, SessionNotFound
from langmem_isolated.lifecycle import digest_of
from langmem_isolated.lifecycle.verification.canary_adapters import ADAPTERS, CanaryAdapter, Place
from langmem_isolated.telemetry import instrument, uninstrument
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.test_docs import PAGES
from tests.tracing import Telemetry

PACKAGE = Path(langmem_isolated.__file__).parent
THREAD: Any = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}
EMBEDDINGS = NGramEmbeddings()


@pytest.fixture
def database_url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """Of one kind: what is told of does not depend on it. A test on the other asks for it."""
    is_postgres = "postgres_url" in request.fixturenames
    return request.getfixturevalue("postgres_url") if is_postgres else sqlite_url


@pytest.fixture
def scope(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def saved(scope: ScopedMemory) -> Any:
    new = empty_checkpoint() | {"channel_values": {"a": 1}, "channel_versions": {"a": 1}}
    return scope.checkpointer().put(THREAD, new, {}, {"a": 1})


async def test_what_a_chat_history_does(scope: ScopedMemory, telemetry: Telemetry, door: Door):
    history = scope.chat_history("monday")

    await door(history, "add_messages", [HumanMessage("6 times 7?"), AIMessage("42")])
    await door(history, "messages")
    await door(history, "last", 1)
    await door(history, "count")
    await door(history, "clear")

    assert telemetry.told() == [
        ("create_memory", "message", 2),
        ("search_memory", "message", 2),
        ("search_memory", "message", 1),
        ("search_memory", "message", 2),
        ("delete_memory", "message", None),
    ]


async def test_what_sessions_do(scope: ScopedMemory, telemetry: Telemetry, door: Door):
    sessions = scope.sessions

    await door(sessions, "create", "monday", title="Sums")
    await door(sessions, "__call__")
    await door(sessions, "rename", "monday", "Products")
    await door(sessions, "delete", "monday")

    assert telemetry.told() == [
        ("create_memory", "session", 1),
        ("search_memory", "session", 1),
        ("update_memory", "session", 1),
        ("delete_memory", "session", 1),
    ]


async def test_what_a_checkpointer_does(scope: ScopedMemory, telemetry: Telemetry, door: Door):
    saver, config = scope.checkpointer(), saved(scope)

    await door(saver, "put_writes", config, [("a", 2), ("b", 3)], "task")
    await door(saver, "get_tuple", THREAD)
    await door(saver, "copy_thread", "t", "u")
    await door(saver, "prune", ["u"])
    await door(saver, "delete_thread", "t")

    assert telemetry.told() == [
        ("upsert_memory", "checkpoint", 1),
        ("upsert_memory", "write", 2),
        ("search_memory", "checkpoint", 1),
        ("create_memory", "thread", 1),
        ("delete_memory", "checkpoint", None),
        ("delete_memory", "thread", 1),
    ]


async def test_what_a_store_does(scope: ScopedMemory, telemetry: Telemetry, door: Door):
    store = scope.store()

    await door(store, "put", ("facts",), "school", {"level": 3})
    await door(store, "get", ("facts",), "school")
    await door(store, "get", ("facts",), "home")
    await door(store, "search", ("facts",))
    await door(store, "delete", ("facts",), "school")

    assert telemetry.told() == [
        ("upsert_memory", "item", 1),
        ("search_memory", "item", 1),
        ("search_memory", "item", 0),
        ("search_memory", "item", 1),
        ("delete_memory", "item", 1),
    ]


@pytest.mark.parametrize("is_wrapped", [False, True])
async def test_what_a_vector_store_does(
    scope: ScopedMemory, telemetry: Telemetry, door: Door, is_wrapped: bool
):
    theirs = InMemoryVectorStore(EMBEDDINGS) if is_wrapped else None
    store = scope.vector_store(wrapping=theirs) if theirs else scope.vector_store(EMBEDDINGS)
    telemetry.told()

    await door(
        store, "add_documents", [Document("Fractions."), Document("Ratios.")], ids=["1", "2"]
    )
    await door(store, "similarity_search", "fractions", k=1)
    await door(store, "get_by_ids", ["1", "3"])
    await door(store, "delete", ["1"])
    await door(store, "clear")

    assert telemetry.told() == [
        ("upsert_memory", "document", 2),
        ("search_memory", "document", 1),
        ("search_memory", "document", 1),
        ("delete_memory", "document", 1),
        ("delete_memory", "document", None),
    ]


async def test_what_recall_does(scope: ScopedMemory, telemetry: Telemetry, door: Door):
    scope.chat_history("monday").add_user_message("I like chess.")
    telemetry.told()

    await door(scope, "recall", "chess")

    assert telemetry.told() == [("search_memory", "message", 1)]


async def test_what_caches_and_indexes_do(scope: ScopedMemory, telemetry: Telemetry, door: Door):
    answers, values, keys = scope.llm_cache(), scope.byte_store(), scope.record_manager()

    await door(answers, "update", "prompt", "model", [Generation(text="42")])
    await door(answers, "lookup", "prompt", "model")
    await door(answers, "clear")
    await door(values, "mset", [("a", b"1"), ("b", b"2")])
    await door(values, "mget", ["a", "c"])
    await door(values, "mdelete", ["a"])
    await door(keys, "update", ["a", "b", "c"])
    await door(keys, "list_keys")
    await door(keys, "delete_keys", ["a"])

    assert telemetry.told() == [
        ("upsert_memory", "answer", 1),
        ("search_memory", "answer", 1),
        ("delete_memory", "answer", None),
        ("upsert_memory", "entry", 2),
        ("search_memory", "entry", 1),
        ("delete_memory", "entry", 1),
        ("upsert_memory", "entry", 3),
        ("search_memory", "entry", 3),
        ("delete_memory", "entry", 1),
    ]


async def test_what_a_profile_does(scope: ScopedMemory, telemetry: Telemetry, door: Door):
    profile = scope.profile()

    fact = await door(profile, "add_fact", "Likes chess.")
    await door(profile, "facts")
    await door(profile, "correct", fact, "Likes go.")
    await door(profile, "remove", fact.id)

    assert telemetry.told() == [
        ("upsert_memory", "profile", 1),
        ("search_memory", "profile", 1),
        ("update_memory", "profile", 1),
        ("delete_memory", "profile", 1),
    ]


async def test_what_operators_do(
    memory: IsolatedMemory, scope: ScopedMemory, telemetry: Telemetry, door: Door, tmp_path: Any
):
    scope.chat_history("monday").add_user_message("Hi")
    telemetry.told()

    await door(memory, "sweep")
    await door(memory, "stats")
    await door(memory, "export_user", "alice", output=tmp_path / "alice.zip")
    await door(memory.retention, "keep", "message", days=30)
    await door(memory.retention, "hold", "bob", reason="Case 7", by="Legal")
    await door(memory, "clear_user", "alice")
    await door(memory, "erase_user", "alice")

    told = telemetry.told()
    assert [(name, kind) for name, kind, _ in told] == [
        ("sweep", "installation"),
        ("stats", "installation"),
        ("export", "user"),
        ("policy", "policy"),
        ("hold", "policy"),
        ("delete_memory", "user"),
        ("delete_memory_store", "user"),
    ]
    assert {name: count for name, _, count in told}["delete_memory"] == 2


@pytest.fixture
def unobserved(
    memory: IsolatedMemory, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> list[Any]:
    """What is run on records outside of any operation that is told of."""
    found: list[Any] = []
    run = ScopedDatabase.run_with_keys

    def watching(records: Any, keys: Any, door: Any, operation: Any, *args: Any, **named: Any):
        is_ours = records.operations is memory._context.database.operations
        if is_ours and not trace.get_current_span().is_recording():
            found.append(operation)
        return run(records, keys, door, operation, *args, **named)

    monkeypatch.setattr(ScopedDatabase, "run_with_keys", watching)
    return found


async def test_an_agent_with_middleware_touches_no_records_unobserved(
    memory: IsolatedMemory, scope: ScopedMemory, unobserved: list[Any], door: Door
):
    memory.quotas.set(tokens=10**6, per="day")
    answers = GenericFakeChatModel(messages=iter([AIMessage("42"), AIMessage("56")]))
    summaries = GenericFakeChatModel(messages=iter([AIMessage("Sums.")] * 9))
    middleware = scope.middleware(
        recall=3, profile=True, summarize_with=summaries, summarize_after=1
    )
    agent = scope.bind(create_agent(answers, middleware=[middleware]))

    for text in ("6 times 7?", "7 times 8?"):
        await door(agent, "invoke", {"messages": [("human", text)]}, THREAD)

    assert unobserved == []


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.name)
def test_no_adapter_touches_records_unobserved(
    memory: IsolatedMemory, telemetry: Telemetry, unobserved: list[Any], adapter: CanaryAdapter
):
    """Every adapter that verification flies canaries through, those yet to come included."""
    theirs = InMemoryVectorStore(EMBEDDINGS)
    place = Place(memory, memory.scope(user_id="a", module_id="m"), "a", "m", theirs)

    adapter.write(place, "canary")
    adapter.look(place)

    assert unobserved == []
    assert adapter.name == "ephemeral" or telemetry.spans


def test_every_job_has_a_name_of_ours():
    """Others are told as "read": an application may call what an operator reads anything."""
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    jobs = set(re.findall(r'audit\.job\(\s*"(\w+)"', sources))

    assert len(jobs) > 10
    assert jobs - set(NAMES) == set()


def test_every_operation_and_kind_is_on_the_page_about_telemetry():
    page = PAGES["docs/how-to/telemetry.md"]
    sources = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    told = set(re.findall(r'(?:observed|observing)\(\s*"(\w+)",\s*"(\w+)"', sources))

    assert len(told) > 30
    assert {name for pair in told for name in pair if f"`{name}`" not in page} == set()


def test_a_span_tells_whose_memory_by_the_digest_that_operators_compute(
    memory: IsolatedMemory, telemetry: Telemetry
):
    for user, module in (("alice", "tutor"), ("alice", "planner"), ("bob", "tutor")):
        memory.scope(user_id=user, module_id=module).chat_history("monday").add_user_message("Hi")

    scopes = [span.attributes["langmem_isolated.scope"] for span in telemetry.spans]
    stores = [span.attributes["gen_ai.memory.store.id"] for span in telemetry.spans]
    owner = memory.scope(user_id="alice", module_id="tutor")._records.owner
    assert scopes[0] == digest_of(memory._context, owner)
    assert len(set(scopes)) == 3
    assert stores == [f"{scope}/message" for scope in scopes]


def test_spans_have_the_conventions_name_and_kind(scope: ScopedMemory, telemetry: Telemetry):
    scope.chat_history("monday").add_user_message("Hi")

    (span,) = telemetry.spans
    assert (span.name, span.kind) == ("create_memory", trace.SpanKind.INTERNAL)
    assert set(span.attributes) == {
        "gen_ai.operation.name",
        "gen_ai.provider.name",
        "gen_ai.memory.store.id",
        "gen_ai.memory.record.count",
        "langmem_isolated.kind",
        "langmem_isolated.scope",
    }


def test_of_an_error_the_type_is_told_and_nothing_else(scope: ScopedMemory, telemetry: Telemetry):
    with pytest.raises(SessionNotFound):
        scope.sessions.rename("no such", "title")

    (span,) = telemetry.spans
    assert span.attributes["error.type"] == "SessionNotFound"
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert list(span.events) == []
    (point,) = telemetry.metrics()["gen_ai.client.operation.duration"]
    assert point["attributes"]["error.type"] == "SessionNotFound"


def test_tampering_shows_in_metrics(scope: ScopedMemory, telemetry: Telemetry, attacker: Attacker):
    scope.chat_history("monday").add_user_message("Hi")
    attacker("UPDATE records SET sealed = ? WHERE kind = 3", bytes(64))

    with pytest.raises(RecordDoesNotOpen):
        _ = scope.chat_history("monday").messages

    points = telemetry.metrics()["gen_ai.client.operation.duration"]
    assert [point["attributes"].get("error.type") for point in points] == [
        None,
        "RecordDoesNotOpen",
    ]


def test_metrics_add_up_and_name_no_scope(memory: IsolatedMemory, telemetry: Telemetry):
    for user in ("alice", "bob"):
        history = memory.scope(user_id=user, module_id="tutor").chat_history("monday")
        history.add_messages([HumanMessage("6 times 7?"), AIMessage("42")])

    metrics = telemetry.metrics()
    ours = {
        "gen_ai.operation.name": "create_memory",
        "gen_ai.provider.name": "langmem_isolated",
        "langmem_isolated.kind": "message",
    }
    (took,), (moved,) = (
        metrics["gen_ai.client.operation.duration"],
        metrics["langmem_isolated.records"],
    )
    assert (took["count"], moved["value"]) == (2, 4)
    assert took["attributes"] == moved["attributes"] == ours
    assert {0.00025, 0.01, 0.16, 81.92} <= set(took["explicit_bounds"])


async def test_spans_are_children_of_their_callers(
    postgres_url: str, scope: ScopedMemory, telemetry: Telemetry, door: Door
):
    history = scope.chat_history("monday")

    async def request(number: int) -> int:
        with telemetry.tracer.start_as_current_span(f"request {number}") as parent:
            for _ in range(number + 1):
                await door(history, "count")
            return parent.get_span_context().span_id

    parents = await asyncio.gather(*map(request, range(3)))

    children = [span.parent and span.parent.span_id for span in telemetry.spans]
    assert [children.count(parent) for parent in parents] == [1, 2, 3]


async def test_what_an_operation_calls_is_its_child(
    scope: ScopedMemory, telemetry: Telemetry, door: Door
):
    """As a key service is, or an embedding model in a wrapped store."""
    inside: list[trace.Span] = []

    await door(scope.profile(), "update_attribute", "visits", lambda _: inside.append(_span()) or 1)

    (span,) = telemetry.spans
    assert [one.get_span_context().span_id for one in inside] == [span.context.span_id]


def _span() -> trace.Span:
    return trace.get_current_span()


def test_two_memories_tell_their_own(memory: IsolatedMemory, telemetry: Telemetry):
    other = Telemetry()
    with IsolatedMemory("sqlite://", root_key=LocalRootKey(ROOT_KEY)) as second:
        other.watch(second)
        second.scope(user_id="alice", module_id="tutor").chat_history("monday").count()
        memory.scope(user_id="alice", module_id="tutor").store().get(("facts",), "school")

    assert telemetry.told() == [("search_memory", "item", 0)]
    assert other.told() == [("search_memory", "message", 0)]
    other.close()


def test_a_memory_that_is_uninstrumented_tells_nothing(
    memory: IsolatedMemory, scope: ScopedMemory, telemetry: Telemetry
):
    uninstrument(memory)
    uninstrument(memory)

    scope.chat_history("monday").add_user_message("Hi")

    assert telemetry.told() == []


def test_instrumented_again_it_tells_the_new_providers_alone(
    memory: IsolatedMemory, scope: ScopedMemory, telemetry: Telemetry
):
    other = Telemetry()
    other.watch(memory)

    scope.chat_history("monday").add_user_message("Hi")

    assert telemetry.told() == []
    assert other.told() == [("create_memory", "message", 1)]
    other.close()


def test_canaries_of_a_verification_are_nobodys_operations(
    memory: IsolatedMemory, scope: ScopedMemory, telemetry: Telemetry
):
    """They try what must be refused, too: that is no alarm."""
    scope.chat_history("monday").add_user_message("Hi")
    telemetry.told()

    assert memory.verify().check("canaries").examined > 80

    assert {(name, kind) for name, kind, _ in telemetry.told()} == {
        ("stats", "installation"),
        ("verify", "installation"),
    }


def test_without_providers_nothing_fails(memory: IsolatedMemory, scope: ScopedMemory):
    instrument(memory)

    scope.chat_history("monday").add_user_message("Hi")

    assert scope.chat_history("monday").count() == 1


def test_what_is_off_the_record_is_not_told_of(scope: ScopedMemory, telemetry: Telemetry):
    with scope.ephemeral() as ephemeral:
        ephemeral.chat_history("monday").add_user_message("Between you and me")

    assert telemetry.told() == []


@pytest.mark.parametrize("given", ["alice", None])
def test_what_is_no_memory_is_refused(given: Any):
    with pytest.raises(TypeError, match="takes an IsolatedMemory, got") as caught:
        instrument(given)

    assert "alice" not in str(caught.value)


def test_without_the_api_the_extra_is_named():
    code = "import sys; sys.modules['opentelemetry'] = None; import langmem_isolated.telemetry"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert "pip install 'langmem-isolated[otel]'" in run.stderr.splitlines()[-1]


# --- what stands between a caller and a method must not be seen


@pytest.mark.parametrize("is_instrumented", [False, True])
@pytest.mark.parametrize(
    "call",
    [
        lambda scope: scope.sessions.create("monday", "Sums"),
        lambda scope: scope.profile().add_interest(),
        lambda scope: scope.profile().set_attribute("level"),
    ],
)
def test_a_call_of_the_wrong_shape_is_still_explained(
    memory: IsolatedMemory,
    scope: ScopedMemory,
    is_instrumented: bool,
    call: Callable[[ScopedMemory], object],
):
    if is_instrumented:
        instrument(memory)

    with pytest.raises(TypeError, match="It is called as"):
        call(scope)


# --- log records


def test_at_debug_every_operation_is_a_record_with_four_fields(
    scope: ScopedMemory, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.DEBUG, "langmem_isolated.operations"):
        scope.chat_history("monday").add_messages([HumanMessage("6 times 7?"), AIMessage("42")])
        with pytest.raises(SessionNotFound):
            scope.sessions.rename("no such", "title")

    ours = [one for one in caplog.records if one.name == "langmem_isolated.operations"]
    plain = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
    assert [set(vars(one)) - plain for one in ours] == [
        {"operation", "kind", "count", "milliseconds"}
    ] * 2
    assert [(one.getMessage(), one.operation, one.kind, one.count) for one in ours] == [
        ("An operation ended.", "create_memory", "message", 2),
        ("An operation failed.", "update_memory", "session", None),
    ]
    assert all(one.milliseconds >= 0 for one in ours)


def test_above_debug_no_record_is_made(scope: ScopedMemory, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, "langmem_isolated.operations"):
        scope.chat_history("monday").add_user_message("Hi")

    assert [one for one in caplog.records if one.name == "langmem_isolated.operations"] == []
