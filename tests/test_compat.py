"""Private names of LangChain and LangGraph: each does what we need it for, as installed."""

from contextvars import copy_context
from typing import Any, TypedDict

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import tracing_v2_callback_var
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph

from langmem_isolated._adapters.compat import copied_graph, dismiss_tracers, relevance_of
from langmem_isolated._codecs.compat import SAFE_MSGPACK_TYPES, DeltaSnapshot


class State(TypedDict):
    number: int


def test_a_copied_graph_keeps_what_its_strict_mode_allows():
    builder = StateGraph(State)
    builder.add_node("node", lambda state: state)
    builder.add_edge(START, "node")
    graph = builder.compile()
    graph._serde_allowlist = {("a module", "A")}
    saver = InMemorySaver()

    copied = copied_graph(graph, {"checkpointer": saver})

    assert (copied.checkpointer, copied._serde_allowlist) == (saver, {("a module", "A")})
    assert graph.checkpointer is None


def test_a_store_tells_how_relevant_its_scores_are():
    class Known(InMemoryVectorStore):
        def _select_relevance_score_fn(self) -> Any:
            return lambda score: score / 2

    assert relevance_of(Known(DeterministicFakeEmbedding(size=4)))(1.0) == 0.5


def test_dismissed_tracers_are_told_nothing():
    told: list[str] = []

    class Tracer(BaseCallbackHandler):
        def on_chain_start(self, *_: Any, **__: Any) -> None:
            told.append("began")

    def run() -> None:
        RunnableLambda(lambda text: text).invoke("secret")

    def run_silently() -> None:
        dismiss_tracers()
        run()

    context = copy_context()
    context.run(tracing_v2_callback_var.set, Tracer())
    context.copy().run(run_silently)
    assert told == []
    context.copy().run(run)
    assert told == ["began"]


def test_langgraphs_safe_types_are_modules_and_names():
    assert SAFE_MSGPACK_TYPES
    assert all(isinstance(part, str) for name in SAFE_MSGPACK_TYPES for part in name)


def test_a_snapshot_of_a_delta_channel_has_its_value():
    assert DeltaSnapshot([1]).value == [1]
