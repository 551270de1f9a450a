"""Canary adapters: how a canary is written through each adapter, and how it is looked for.

Everybody writes under the same names: sessions, threads, namespaces, keys, ids. What one looks at
is all that the adapter shows, as text, in which every canary but those that may be read is a leak.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from langchain_core.embeddings import Embeddings
from langchain_core.language_models import FakeListChatModel
from langchain_core.outputs import Generation
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.base import empty_checkpoint

from langmem_isolated.errors import IsolationViolation, NotShared, ScopeError

_NAME = "shared"
_AT: Any = {"configurable": {"thread_id": _NAME, "checkpoint_ns": ""}}
_KEY = ((_NAME,), _NAME)


class Place(NamedTuple):
    """One of the scopes that canaries are written to."""

    memory: Any
    """The application's memory."""
    scoped: Any
    """Its memory of this scope."""
    user: str
    module: str
    shared_store: Any
    """A third-party vector store that all places share."""


Relation = Callable[[Place, Place], bool]


def own(writer: Place, reader: Place) -> bool:
    """What one scope wrote is read there alone."""
    return (writer.user, writer.module) == (reader.user, reader.module)


def of_user(writer: Place, reader: Place) -> bool:
    """What one module of a user wrote is read in all modules of the user."""
    return writer.user == reader.user


def of_module(writer: Place, reader: Place) -> bool:
    """What was published for a module is read by all its users."""
    return writer.module == reader.module


def of_nobody(_: Place, __: Place) -> bool:
    """What is not kept, or not shown."""
    return False


class CanaryAdapter(NamedTuple):
    """How a canary goes through one adapter.

    ``write`` takes the place and the canary; ``look`` gives all that the adapter shows there.
    """

    name: str
    write: Callable[[Place, str], object]
    look: Callable[[Place], object]
    is_readable: Relation = own


class Everywhere(Embeddings):
    """Embeddings by which every text is as near as any other, so that a search finds them all."""

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The same vector for each."""
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:  # noqa: ARG002
        """The same vector for any."""
        return [1.0, 0.0, 0.0, 1.0]


_EMBEDDINGS = Everywhere()


def _say(place: Place, canary: str) -> None:
    place.scoped.chat_history(_NAME).add_user_message(canary)


def _heard(place: Place) -> object:
    return place.scoped.chat_history(_NAME).messages


def _name_session(place: Place, canary: str) -> None:
    place.scoped.sessions.create(f"{_NAME} title", title=canary)


def _sessions(place: Place) -> object:
    return [(one.id, one.title) for one in place.scoped.sessions(limit=1_000, archived=None)]


def _checkpoint(place: Place, canary: str) -> None:
    new = empty_checkpoint() | {"channel_values": {"said": canary}, "channel_versions": {"said": 1}}
    config = place.scoped.checkpointer().put(_AT, new, {"note": canary}, {"said": 1})
    place.scoped.checkpointer().put_writes(config, [("said", canary)], "task")


def _checkpoints(place: Place) -> object:
    saver = place.scoped.checkpointer()
    return [*saver.list(None), saver.get_tuple(_AT)]


def _put_item(place: Place, canary: str) -> None:
    place.scoped.store().put((_NAME,), _NAME, {"text": canary})


def _items(place: Place) -> object:
    store = place.scoped.store()
    return [store.get((_NAME,), _NAME), store.search((), limit=1_000), store.list_namespaces()]


def _add_document(place: Place, canary: str) -> None:
    place.scoped.vector_store(_EMBEDDINGS).add_texts([canary], ids=[_NAME])


def _documents(place: Place) -> object:
    store = place.scoped.vector_store(_EMBEDDINGS, levels=["private"])
    return [store.similarity_search("canary", k=1_000), store.get_by_ids([_NAME])]


def _retrieved(place: Place) -> object:
    return place.scoped.retriever(_EMBEDDINGS, k=1_000).invoke("canary")


def _words(place: Place) -> object:
    return place.scoped.bm25_retriever(k=1_000).invoke("canary")


def _publish(place: Place, canary: str) -> None:
    project = place.scoped.scope.project_id
    publisher = place.memory.publisher(module_id=place.module, project_id=project)
    publisher.vector_store(_EMBEDDINGS, collection="published").add_texts([canary])


def _published(place: Place) -> object:
    store = place.scoped.vector_store(_EMBEDDINGS, collection="published")
    return store.similarity_search("canary", k=1_000)


def _add_elsewhere(place: Place, canary: str) -> None:
    _wrapped(place).add_texts([canary], ids=[_NAME])


def _wrapped(place: Place) -> Any:
    return place.scoped.vector_store(wrapping=place.shared_store, seal=True, levels=["private"])


def _elsewhere(place: Place) -> object:
    store = _wrapped(place)
    return [store.similarity_search("canary", k=1_000), store.get_by_ids([_NAME])]


def _recalled(place: Place) -> object:
    return [one.text for one in place.scoped.recall("canary", limit=1_000)]


def _tool(place: Place) -> object:
    return place.scoped.recall_tool(limit=100, max_characters=100_000).invoke({"query": "canary"})


def _answer(place: Place, canary: str) -> None:
    place.scoped.llm_cache().update("prompt", "model", [Generation(text=canary)])


def _answers(place: Place) -> object:
    return place.scoped.llm_cache().lookup("prompt", "model")


def _write_node(place: Place, canary: str) -> None:
    place.scoped.node_cache().set({_KEY: (canary, None)})


def _nodes(place: Place) -> object:
    return place.scoped.node_cache().get([_KEY])


def _set_bytes(place: Place, canary: str) -> None:
    place.scoped.byte_store().mset([(_NAME, canary.encode())])


def _bytes(place: Place) -> object:
    store = place.scoped.byte_store()
    return [store.mget([_NAME]), *store.yield_keys()]


def _index(place: Place, canary: str) -> None:
    place.scoped.record_manager().update([canary])


def _indexed(place: Place) -> object:
    return place.scoped.record_manager().list_keys()


def _record(place: Place, canary: str) -> None:
    handler = place.scoped.callback_handler(f"{_NAME} chain")
    chain = RunnableLambda(str) | FakeListChatModel(responses=[canary])
    chain.invoke("canary", {"callbacks": [handler]})


def _recorded(place: Place) -> object:
    return place.scoped.chat_history(f"{_NAME} chain").messages


def _learn(place: Place, canary: str) -> None:
    place.scoped.profile().add_fact(canary)


def _known(place: Place) -> object:
    tool = place.scoped.profile_tool(writes=False, max_characters=100_000)
    facts = [fact.text for fact in place.scoped.profile().facts()]
    return [facts, tool.invoke({"action": "list"})]


def _learn_together(place: Place, canary: str) -> None:
    place.scoped.cross_module().add_fact(canary)


def _known_together(place: Place) -> object:
    return [fact.text for fact in place.scoped.cross_module().facts()]


def _say_off_the_record(place: Place, canary: str) -> None:
    with place.scoped.ephemeral() as ephemeral:
        ephemeral.chat_history(_NAME).add_user_message(canary)


def _everything_said(place: Place) -> object:
    sessions = place.scoped.sessions(limit=1_000, archived=None)
    return [place.scoped.chat_history(one.id).messages for one in sessions]


def _statistics(place: Place) -> object:
    return [place.scoped.stats().as_dict(), place.memory.stats(largest=1_000).as_dict()]


def _nothing(_: Place, __: str) -> None:
    """Another adapter has written it."""


ADAPTERS: tuple[CanaryAdapter, ...] = (
    CanaryAdapter("chat_history", _say, _heard),
    CanaryAdapter("sessions", _name_session, _sessions),
    CanaryAdapter("checkpointer", _checkpoint, _checkpoints),
    CanaryAdapter("store", _put_item, _items),
    CanaryAdapter("vector_store", _add_document, _documents),
    CanaryAdapter("retriever", _add_document, _retrieved),
    CanaryAdapter("bm25_retriever", _add_document, _words),
    CanaryAdapter("publisher", _publish, _published, of_module),
    CanaryAdapter("wrapped vector_store", _add_elsewhere, _elsewhere),
    CanaryAdapter("recall", _say, _recalled),
    CanaryAdapter("recall_tool", _say, _tool),
    CanaryAdapter("llm_cache", _answer, _answers),
    CanaryAdapter("node_cache", _write_node, _nodes),
    CanaryAdapter("byte_store", _set_bytes, _bytes),
    CanaryAdapter("record_manager", _index, _indexed),
    CanaryAdapter("callback_handler", _record, _recorded),
    CanaryAdapter("profile_tool", _learn, _known),
    CanaryAdapter("cross_module", _learn_together, _known_together, of_user),
    CanaryAdapter("ephemeral", _say_off_the_record, _everything_said, of_nobody),
    CanaryAdapter("stats", _nothing, _statistics, of_nobody),
)
LEFT_OUT = {
    "middleware": "it writes what the chat history writes, and reads by recall and profile",
    "bind": "it gives a graph the checkpointer, the store and the node cache",
}
"""Adapters that have no canary of their own, and why."""


def refusals(places: list[Place]) -> Iterator[tuple[str, type[Exception], Callable[[], object]]]:
    """Calls that must be refused: what each is, with which error, and the call."""
    place = places[0]
    other = next(one for one in places if one.user != place.user)
    scope = other.scoped.scope
    another = {"user_id": scope.user_id, "module_id": scope.module_id,
               "project_id": scope.project_id}  # fmt: skip
    yield (
        "a config that names another user", IsolationViolation,
        lambda: place.scoped.checkpointer().get_tuple(
            {"configurable": {**_AT["configurable"], **another}}
        ),
    )  # fmt: skip
    yield "a call without a scope", ScopeError, lambda: place.memory.checkpointer().get_tuple(_AT)
    yield (
        "an empty user id", ScopeError,
        lambda: place.memory.scope(user_id="", module_id=place.module),
    )  # fmt: skip
    sibling = next(one for one in places if one.user == place.user and one is not place)
    yield (
        "another module's sessions without a grant", NotShared,
        lambda: place.scoped.shared_from(sibling.module).sessions(),
    )  # fmt: skip
