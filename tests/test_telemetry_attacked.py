"""Telemetry attacked: failing observers, names made of ids, wrong counts, calls untold of."""

import asyncio
import inspect
import logging
import os
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import Generation
from langchain_core.vectorstores import InMemoryVectorStore
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Sampler

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated.errors import SessionNotFound
from langmem_isolated.telemetry import instrument, uninstrument
from tests.conftest import ROOT_KEY, Door
from tests.embeddings import NGramEmbeddings
from tests.tracing import Telemetry

EMBEDDINGS = NGramEmbeddings()
OPERATIONS, OBSERVERS = "langmem_isolated.operations", "langmem_isolated.observers"
DURATION, RECORDS = "gen_ai.client.operation.duration", "langmem_isolated.records"


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Of one kind: what is told of does not depend on it."""
    return sqlite_url


@pytest.fixture
def scope(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


# --- what observers raise


class Broken(Exception):
    """Raised by what observes."""


def broken(*_: object, **__: object) -> Any:
    """Fail, and quote what no one may see."""
    raise Broken("alice")


BREAKS: dict[str, tuple[type, str]] = {
    "processor, at the start": (SpanProcessor, "on_start"),
    "processor, at the end": (SpanProcessor, "on_end"),
    "exporter": (SpanExporter, "export"),
    "sampler": (Sampler, "should_sample"),
}


def broken_tracers(what: str) -> TracerProvider:
    base, method = BREAKS[what]
    methods = {method: broken, "get_description": lambda _: "broken"}
    made: Any = type("OfTheApplication", (base,), methods)()
    if isinstance(made, Sampler):
        return TracerProvider(sampler=made)
    tracers = TracerProvider()
    is_exporter = isinstance(made, SpanExporter)
    tracers.add_span_processor(SimpleSpanProcessor(made) if is_exporter else made)
    return tracers


@pytest.mark.parametrize("what", BREAKS)
async def test_what_observers_raise_breaks_no_operation(
    memory: IsolatedMemory,
    scope: ScopedMemory,
    door: Door,
    what: str,
    caplog: pytest.LogCaptureFixture,
):
    """What was stored and yet raised would be stored again."""
    instrument(memory, tracer_provider=broken_tracers(what))
    history = scope.chat_history("monday")

    for _ in range(3):
        await door(history, "add_messages", [HumanMessage("6 times 7?"), AIMessage("42")])
    with pytest.raises(SessionNotFound):
        await door(scope.sessions, "rename", "no such", "title")

    assert len(await door(history, "messages")) == 6
    ours = [record.getMessage() for record in caplog.records if record.name == OBSERVERS]
    # The SDK itself reports what exporters raise.
    assert len(ours) == (0 if what == "exporter" else 1)
    assert "alice" not in "".join(ours)
    assert all("(Broken)" in one for one in ours)
    memory.close()


@pytest.mark.parametrize("instrument_name", ["create_counter", "create_histogram"])
def test_what_meters_raise_breaks_no_operation(
    memory: IsolatedMemory,
    scope: ScopedMemory,
    monkeypatch: pytest.MonkeyPatch,
    instrument_name: str,
    caplog: pytest.LogCaptureFixture,
):
    meters = MeterProvider()
    meter = meters.get_meter("any")
    made = getattr(meter, instrument_name)("any")
    monkeypatch.setattr(
        type(made), "add" if instrument_name == "create_counter" else "record", broken
    )
    instrument(memory, meter_provider=meters)

    scope.chat_history("monday").add_user_message("Hi")

    uninstrument(memory)
    assert scope.chat_history("monday").count() == 1
    assert [one.name for one in caplog.records if one.name == OBSERVERS] == [OBSERVERS]
    meters.shutdown()


class Refusing(logging.Handler):
    """Raises at every record, as none should."""

    emit = broken


def test_a_handler_that_raises_breaks_no_operation(
    scope: ScopedMemory, caplog: pytest.LogCaptureFixture
):
    logger, handler = logging.getLogger(OPERATIONS), Refusing()
    logger.addHandler(handler)
    with caplog.at_level(logging.DEBUG, OPERATIONS):
        scope.chat_history("monday").add_user_message("Hi")
        assert scope.chat_history("monday").count() == 1
    logger.removeHandler(handler)


def test_a_record_factory_with_our_fields_breaks_no_operation(
    scope: ScopedMemory, caplog: pytest.LogCaptureFixture
):
    """Applications set fields on all records; `logging` refuses to overwrite them."""
    factory = logging.getLogRecordFactory()

    def with_fields(*args: Any, **named: Any) -> logging.LogRecord:
        record = factory(*args, **named)
        record.kind = "of the application"
        return record

    logging.setLogRecordFactory(with_fields)
    try:
        with caplog.at_level(logging.DEBUG, OPERATIONS):
            scope.chat_history("monday").add_user_message("Hi")
    finally:
        logging.setLogRecordFactory(factory)

    assert scope.chat_history("monday").count() == 1


def test_an_operations_own_error_is_the_one_that_is_raised(
    memory: IsolatedMemory, scope: ScopedMemory
):
    instrument(memory, tracer_provider=broken_tracers("processor, at the end"))
    ours = StopIteration("of the application")

    def refuse(_: object) -> Any:
        raise ours

    with pytest.raises(StopIteration) as caught:
        scope.profile().update_attribute("visits", refuse)

    assert caught.value is ours
    assert not isinstance(caught.value.__context__, Broken)


def test_being_interrupted_is_no_failure_of_an_observer(
    memory: IsolatedMemory, scope: ScopedMemory, telemetry: Telemetry
):
    def interrupt(_: object) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scope.profile().update_attribute("visits", interrupt)

    (span,) = telemetry.spans
    assert span.attributes["error.type"] == "KeyboardInterrupt"
    assert not trace.get_current_span().is_recording()


# --- error.type


class Refused(ValueError):
    """A class that its module has."""


def named_after(user: str) -> type[Exception]:
    return type(f"NotFor_{user}", (Refused,), {})


def test_no_class_that_is_made_at_run_time_names_an_error(
    scope: ScopedMemory, telemetry: Telemetry, caplog: pytest.LogCaptureFixture
):
    """Its name may carry an id, and each would be another series of every metric."""

    def refusing(error: Exception) -> Callable[[object], Any]:
        def refuse(_: object) -> Any:
            raise error

        return refuse

    for number in range(20):
        with pytest.raises(Refused), caplog.at_level(logging.DEBUG, OPERATIONS):
            scope.profile().update_attribute("a", refusing(named_after(f"alice{number}")()))

    assert "alice" not in telemetry.everything() + caplog.text
    assert {span.attributes["error.type"] for span in telemetry.spans} == {"Refused"}
    (point,) = telemetry.metrics()[DURATION]
    assert point["count"] == 20


# --- counts


async def test_what_is_not_there_is_not_counted_as_found(
    scope: ScopedMemory, telemetry: Telemetry, door: Door
):
    values, keys, answers = scope.byte_store(), scope.record_manager(), scope.llm_cache()
    values.mset([("a", b""), ("b", b"2")])
    keys.update(["a"])
    answers.update("prompt", "model", [Generation(text="42"), Generation(text="43")])
    telemetry.told()

    await door(values, "mget", ["a", "b", "c", "d"])
    await door(keys, "exists", ["a", "b", "c"])
    await door(answers, "lookup", "prompt", "model")
    await door(answers, "lookup", "another", "model")

    assert telemetry.told() == [
        ("search_memory", "entry", 2),
        ("search_memory", "entry", 1),
        ("search_memory", "answer", 1),
        ("search_memory", "answer", 0),
    ]


async def test_what_is_given_by_name_is_counted(
    scope: ScopedMemory, telemetry: Telemetry, door: Door
):
    await door(scope.byte_store(), "mset", key_value_pairs=[("a", b"1"), ("b", b"2")])
    await door(scope.record_manager(), "update", time_at_least=1.0, keys=["a", "b", "c"])
    await door(scope.byte_store(), "mdelete", keys=["a"])

    assert [count for *_, count in telemetry.told()] == [2, 3, 1]


async def test_what_is_given_once_is_not_used_up(
    scope: ScopedMemory, telemetry: Telemetry, door: Door
):
    await door(scope.chat_history("monday"), "add_messages", iter([HumanMessage("a")]))
    await door(scope.profile(), "add_facts", (text for text in ("Likes go.", "Likes chess.")))

    assert scope.chat_history("monday").count() == 1
    assert len(scope.profile().facts()) == 2
    assert [kind for _, kind, _ in telemetry.told()][:2] == ["message", "profile"]


async def test_what_cannot_be_counted_is_stored_all_the_same(
    scope: ScopedMemory, telemetry: Telemetry, door: Door
):
    class Uncounted(list[tuple[str, bytes]]):
        """A caller's own."""

        __len__ = broken

    await door(scope.byte_store(), "mset", Uncounted([("a", b"1")]))

    assert scope.byte_store().mget(["a"]) == [b"1"]
    assert telemetry.told()[0] == ("upsert_memory", "entry", None)


async def test_documents_embedded_anew_are_one_operation_by_both_doors(
    scope: ScopedMemory, telemetry: Telemetry, door: Door
):
    store = scope.vector_store(EMBEDDINGS)
    store.add_documents([Document("Fractions."), Document("Ratios.")], ids=["1", "2"])
    telemetry.told()

    await door(store, "reembed", batch_size=1)

    assert telemetry.told() == [("update_memory", "document", 2)]


async def test_a_recall_tells_of_embeddings_that_it_keeps_alone(
    scope: ScopedMemory, telemetry: Telemetry, door: Door
):
    scope.chat_history("monday").add_user_message("I like chess.")
    telemetry.told()

    for _ in range(2):
        await door(scope, "recall", "chess", embeddings=EMBEDDINGS)

    assert telemetry.told() == [
        ("upsert_memory", "embedding", 1),
        ("search_memory", "message", 1),
        ("search_memory", "message", 1),
    ]


def test_pages_are_told_of_as_they_are_read_and_lend_nobody_their_span(
    scope: ScopedMemory, telemetry: Telemetry
):
    """A generator that is left half way holds no span open, and is in no one's way."""
    values = scope.byte_store()
    values.mset([(f"{number:04}", b"") for number in range(1500)])
    telemetry.told()

    with closing(values.yield_keys()) as keys:  # type: ignore[type-var]
        next(keys)
        assert not trace.get_current_span().is_recording()
    first = telemetry.told()
    everything = len([*values.yield_keys()])

    assert everything == 1500
    assert len(first) == 1
    assert sum(count for *_, count in telemetry.told()) == 1500


async def test_a_search_by_words_finds_what_it_returns(
    scope: ScopedMemory, telemetry: Telemetry, door: Door
):
    """Not what it read to rank it."""
    scope.vector_store(EMBEDDINGS).add_texts(["Fractions.", "Ratios.", "Sums."])
    telemetry.told()

    await door(scope.bm25_retriever(), "invoke", "fractions")

    assert telemetry.told() == [("search_memory", "document", 1)]


@pytest.mark.parametrize("is_given_vector_store", [True, False])
async def test_a_retriever_that_is_not_ours_is_told_of_once(
    scope: ScopedMemory, telemetry: Telemetry, door: Door, is_given_vector_store: bool
):
    """What it searches itself, nobody else could tell of."""
    theirs = InMemoryVectorStore(EMBEDDINGS)
    if is_given_vector_store:
        scope.vector_store(wrapping=theirs).add_texts(["Fractions."])
        retriever = scope.retriever(theirs)
    else:
        theirs.add_documents(scope.stamped([Document("Fractions.")]))
        retriever = scope.retriever(theirs.as_retriever())
    telemetry.told()

    assert len(await door(retriever, "invoke", "fractions")) == 1

    assert telemetry.told() == [("search_memory", "document", 1)]


# --- what is not told of otherwise: one call of a user is one operation


def shown(memory: IsolatedMemory) -> dict[str, tuple[Any, str, tuple[Any, ...], dict[str, Any]]]:
    """Calls over a whole memory or scope, each with what it needs."""
    scope, alice = memory.scope(user_id="alice", module_id="tutor"), {"user_id": "alice"}
    guest = memory.anonymous(module_id="tutor").id
    return {
        "verify": (scope, "verify", (), {}),
        "confirm_claimed": (scope, "confirm_claimed", (), {}),
        "retention": (scope, "retention", (), {}),
        "stats": (scope, "stats", (), {}),
        "overview": (scope, "overview", (), {}),
        "collections": (scope, "collections", (), {}),
        "documents": (scope.collections, "documents", ("default",), {}),
        "remove documents": (scope.collections, "delete", ("default", ["1"]), {}),
        "users": (memory, "users", (), {}),
        "find_user": (memory, "find_user", (memory.user_digest("alice"),), {}),
        "modules": (memory, "modules", ("alice",), {}),
        "grants": (memory.grants, "list", (), alice),
        "receipts": (memory, "receipts", ("alice",), {}),
        "policies": (memory.retention, "list", (), {}),
        "holds": (memory.retention, "holds", (), {}),
        "quotas": (memory.quotas, "list", (), {}),
        "audit entries": (memory.audit, "entries", (), {}),
        "audit_log": (scope, "audit_log", (), {}),
        "anonymous": (memory, "anonymous", (), {"module_id": "tutor"}),
        "recover": (memory, "recover", (guest,), {}),
        "lock_state": (memory, "lock_state", ("alice",), {}),
        "audit verify": (memory.audit, "verify", (), {}),
        "clear_session": (scope, "clear_session", ("monday",), {}),
        "clear": (scope, "clear", (), {}),
    }


COUNTS = {
    "users": 1, "find_user": 1, "modules": 1, "documents": 1, "remove documents": 1,
    "clear_session": 3, "clear": 3,
}  # fmt: skip


async def test_each_call_over_a_memory_or_scope_is_one_operation(
    memory: IsolatedMemory, scope: ScopedMemory, telemetry: Telemetry, door: Door
):
    memory.audit.switch_on()
    scope.chat_history("monday").add_messages([HumanMessage("6 times 7?"), AIMessage("42")])
    scope.chat_history("tuesday").add_user_message("Hi")
    scope.vector_store(EMBEDDINGS).add_documents([Document("Fractions.")], ids=["1"])
    calls = shown(memory)
    telemetry.told()

    for name, (of, method, args, named) in calls.items():
        if name == "collections":
            await door(of.collections, "__call__")
        else:
            await door(of, method, *args, **named)
        ((_, kind, count),) = telemetry.told()
        assert count in {COUNTS.get(name, count), None}, name
        assert kind.isidentifier()


# Those that tell in what they call, which the tests beside this one look at.
BEHIND = {
    "IsolatedMemory": "erase_guest erase_module erase_project erase_user export_user import_user "
    "roll_back rotate_keys sweep",
    "ScopedMemory": "overview recall recent verify",
    "Retention": "hold release",
    "Quotas": "list",
    "SharedMemory": "messages recall sessions",
}
# Those that nobody is told of, as the page about telemetry says: no memory is read or written.
UNTOLD = {
    "IsolatedMemory": "close evidence_pack finish_erasure key_status key_status_of lock move_keys "
    "move_to open ping reapply_erasures rotate_root_key row_level_security user_digest",
    "ScopedMemory": "digest",
    "Retention": "start stop",
    "AuditLog": "anchor break_glass check_anchors end_break_glass permission status switch_off "
    "switch_on",
}
TELLING = "@observed(", "audit.job(", "audit.write(", "observing("


def test_each_call_with_two_doors_tells_or_is_named_here(
    memory: IsolatedMemory, scope: ScopedMemory
):
    """A new one fails until somebody has decided."""
    faces = (memory, scope, memory.grants, memory.retention, memory.quotas, memory.audit)
    for face in (type(one) for one in (*faces, scope.collections, scope.shared_from("planner"))):
        doors = {name for name in dir(face) if hasattr(face, f"a{name}")}
        silent = {name for name in doors if name[0] != "_" and not _tells(getattr(face, name))}
        named = f"{BEHIND.get(face.__name__, '')} {UNTOLD.get(face.__name__, '')}"
        assert silent == set(named.split()), face.__name__


def _tells(method: Any) -> bool:
    return inspect.isfunction(method) and any(sign in inspect.getsource(method) for sign in TELLING)


# --- threads, tasks, processes


async def test_a_cancelled_call_is_told_of_as_it_ended(
    scope: ScopedMemory, telemetry: Telemetry, memory: IsolatedMemory
):
    history = scope.chat_history("monday")
    call = asyncio.ensure_future(history.aadd_messages([HumanMessage("Hi")]))
    await asyncio.sleep(0)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await memory.aclose()

    stored = [one for one in telemetry.told() if one[0] == "create_memory"]
    assert stored in ([], [("create_memory", "message", 1)])


async def test_what_is_cancelled_while_a_model_answers_leaves_no_span_open(
    scope: ScopedMemory, telemetry: Telemetry
):
    scope.chat_history("monday").add_user_message("I like chess.")
    telemetry.told()
    asked = asyncio.Event()

    class Silent(NGramEmbeddings):
        """Never answers."""

        async def aembed_query(self, text: str) -> list[float]:
            asked.set()
            await asyncio.sleep(3600)
            return self.embed_query(text)

    call = asyncio.ensure_future(scope.arecall("chess", embeddings=Silent()))
    await asked.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call

    (span,) = telemetry.spans
    assert span.attributes["error.type"] == "CancelledError"
    assert not trace.get_current_span().is_recording()


def test_a_forked_child_is_observed_and_tells_the_parent_nothing(
    scope: ScopedMemory, telemetry: Telemetry
):
    history = scope.chat_history("monday")
    history.add_user_message("Hi")
    telemetry.told()

    child = os.fork()
    if child == 0:
        status = 1
        try:
            history.add_user_message("from the child")
            status = 0 if telemetry.told() == [("create_memory", "message", 1)] else 2
        finally:
            os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert telemetry.told() == []
    assert history.count() == 2


def test_uninstrumented_while_an_operation_runs(
    memory: IsolatedMemory, scope: ScopedMemory, telemetry: Telemetry
):
    scope.profile().update_attribute("visits", lambda _: uninstrument(memory) or 1)
    scope.chat_history("monday").add_user_message("Hi")

    assert telemetry.told() == [("upsert_memory", "profile", 1)]


# --- who is told


def test_two_memories_of_one_provider_add_up(memory: IsolatedMemory, telemetry: Telemetry):
    """As most processes have it: one provider, and an instrument of a name is one series."""
    with IsolatedMemory("sqlite://", root_key=LocalRootKey(ROOT_KEY)) as second:
        telemetry.watch(second)
        telemetry.watch(memory)
        for one in (memory, second):
            one.scope(user_id="alice", module_id="tutor").chat_history("monday").count()

    (point,) = telemetry.metrics()[DURATION]
    assert point["count"] == 2
    assert RECORDS not in telemetry.metrics()


@pytest.mark.parametrize("name", ["tracer_provider", "meter_provider"])
def test_what_is_no_provider_is_refused_and_nothing_changed(
    memory: IsolatedMemory, scope: ScopedMemory, telemetry: Telemetry, name: str
):
    providers: Any = {name: "http://alice:4317"}

    with pytest.raises(TypeError, match=f"{name} must be a provider") as caught:
        instrument(memory, **providers)

    assert "alice" not in str(caught.value)
    assert scope.chat_history("monday").count() == 0
    assert telemetry.told() == [("search_memory", "message", 0)]


def test_uninstrument_speaks_of_itself():
    with pytest.raises(TypeError, match=r"uninstrument\(\) takes an IsolatedMemory"):
        uninstrument(object())  # type: ignore[arg-type]
