"""What applications do every day, through every adapter; what each call answers."""

import re
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from langmem_isolated import IsolatedMemory, ScopedMemory
from langmem_isolated.lifecycle.verification.canary_adapters import ADAPTERS, Everywhere, Place

THREAD: Any = {"configurable": {"thread_id": "essay", "checkpoint_ns": ""}}
_WRAPPED = "wrapped vector_store"
# Ids that were drawn, and times.
_RANDOM = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{16}|\d{4}-\d\d-\d\dT[^\"]+"
)


def everyday(memory: IsolatedMemory, user: str = "alice") -> list[object]:
    """Let a user come, and use everything; what a database of any kind answers alike."""
    tutor = memory.scope(user_id=user, module_id="tutor")
    place = Place(memory, tutor, user, "tutor", None)
    found: list[object] = []
    for adapter in ADAPTERS:
        # Statistics are of all scopes, what is wrapped is elsewhere.
        if adapter.name not in ("stats", _WRAPPED):
            adapter.write(place, f"said by {adapter.name}")
            looked = adapter.look(place)
            if adapter.name not in ("checkpointer", "store"):  # these answer with times
                found.append(f"{adapter.name}: {_RANDOM.sub('', repr(looked))}")
    for part in (_talk, _think, _keep, _know, _share):
        found += part(memory, tutor, user)
    return found


def _talk(memory: IsolatedMemory, tutor: ScopedMemory, user: str) -> Iterator[object]:
    history = tutor.chat_history("monday")
    for number in range(3):
        history.add_messages([HumanMessage(f"q{number}", id=f"q-{number}"), AIMessage("a")])
    history.add_message(HumanMessage("q0", id="q-0"))  # once more
    yield history.messages
    yield history.page(limit=2).messages
    yield [history.last(2), history.count()]
    # As another process: nothing is known of what was stored.
    with_others = memory.scope(user_id=user, module_id="tutor").chat_history("monday")
    with_others.add_user_message("from elsewhere")
    limited = tutor.sessions.create("limited", channel_limits={"ai": 2})
    for number in range(4):
        tutor.chat_history(limited).add_message(AIMessage(f"{number}"))
    yield tutor.chat_history(limited).messages
    tutor.sessions.rename("monday", "Tables")
    tutor.sessions.set_summary("monday", "They spoke of tables.")
    yield [(one.id, one.title) for one in tutor.sessions(limit=3)]
    yield tutor.sessions.count()
    tutor.chat_history("monday").clear()
    tutor.sessions.delete(limited)
    yield tutor.chat_history("monday").messages


def _think(memory: IsolatedMemory, tutor: ScopedMemory, user: str) -> Iterator[object]:
    saver, config = tutor.checkpointer(), THREAD
    said: list[Any] = []
    for step in range(3):
        said = [*said, HumanMessage(f"Write an essay, part {step}. " * 20, id=f"m-{step}")]
        new = empty_checkpoint() | {
            "channel_values": {"messages": said},
            "channel_versions": {"messages": step + 1},
        }
        config = saver.put(config, new, {"source": "loop", "step": step}, {"messages": step + 1})  # type: ignore[typeddict-item]
        saver.put_writes(config, [("messages", "a draft")], f"task-{step}")
        saver.put_writes(config, [("messages", "another")], f"task-{step}")
    yield [one.checkpoint["channel_values"] for one in saver.list(THREAD, limit=2)]
    saver.copy_thread("essay", "copy")
    saver.prune(["essay"])
    found = saver.get_tuple(THREAD)
    assert found is not None
    yield found.checkpoint["channel_values"]
    saver.delete_for_runs(["no run"])
    saver.delete_thread("copy")
    yield saver.get_tuple({"configurable": {**THREAD["configurable"], "thread_id": "copy"}})
    yield saver.verify_thread("essay")


def _keep(memory: IsolatedMemory, tutor: ScopedMemory, user: str) -> Iterator[object]:
    store = tutor.store(index={"embed": Everywhere(), "dims": 4})
    for number in range(3):
        store.put(("facts", "of all"), f"k{number}", {"n": number, "text": "a cat"})
    store.put(("facts",), "brief", {"n": 9}, ttl=5)
    found = [
        store.search(("facts",), filter={"n": {"$gt": 0}}),
        store.search(("facts",), query="cat"),
        [store.get(("facts", "of all"), "k1")],
    ]
    yield [[item and item.value for item in items] for items in found]
    yield store.list_namespaces(max_depth=1)
    store.delete(("facts", "of all"), "k1")
    store.sweep()
    yield store.get(("facts", "of all"), "k1")
    documents = tutor.vector_store(Everywhere())
    documents.add_texts(["fractions", "numbers"], [{"n": 1}, {"n": 2}], ids=["d1", "d2"])
    documents.add_texts(["fractions again"], [{"n": 3}], ids=["d1"])
    yield [one.page_content for one in documents.similarity_search("x", filter={"n": {"$gte": 2}})]
    documents.delete(["d2"])
    yield [one.id for one in documents.get_by_ids(["d1", "d2"])]


def _know(memory: IsolatedMemory, tutor: ScopedMemory, user: str) -> Iterator[object]:
    profile = tutor.profile()
    fact = profile.add_fact("Learns at night.")
    profile.set_attribute("grade", 7)
    yield [one.text for one in profile.facts()]
    profile.correct(fact, "Learns by day.")
    profile.remove_attribute("grade")
    cache = tutor.byte_store("notes")
    cache.mset([("a", b"1"), ("b", b"2")])
    cache.mdelete(["a"])
    yield [*cache.yield_keys()]
    tutor.llm_cache(ttl=timedelta(hours=1)).clear()
    yield sorted(memory.modules(user))


def _share(memory: IsolatedMemory, tutor: ScopedMemory, user: str) -> Iterator[object]:
    planner = tutor.module("planner")
    planner.chat_history("plans").add_ai_message("plan")
    memory.grants.allow(user_id=user, from_module="tutor", to_module="planner", kinds=["message"])
    yield [one.id for one in planner.shared_from("tutor").sessions()]
    tutor.clear()
    yield tutor.chat_history("monday").messages
