"""With `plaintext_cache_seconds` a thread's elements stay opened: what a warm read may give."""

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import get_checkpoint_id
from langgraph.graph import START, MessagesState, StateGraph

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._storage.threads import reading
from langmem_isolated.checkpointer import IsolatedCheckpointSaver
from langmem_isolated.checkpointer.opened_elements import OpenedElements
from langmem_isolated.errors import MemoryLocked, RecordDoesNotOpen
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.locks import lock, unlock
from tests.test_checkpointer_delta import delta_graph
from tests.threads import ALLOWED, Point, at, comparable, put, same, values_at

LONG = "x" * 200


def said(*numbers: int) -> list[AnyMessage]:
    return [HumanMessage(f"message {number} {LONG}", id=str(number)) for number in numbers]


def opened(url: str, **options: Any) -> IsolatedMemory:
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), **options)


def saver_of(memory: IsolatedMemory) -> IsolatedCheckpointSaver:
    return alice(memory).checkpointer(allow=ALLOWED)


def alice(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


def kept(memory: IsolatedMemory) -> int:
    """How many threads have elements that stay opened."""
    assert memory._context.plaintext_cache is not None
    return len(memory._context.plaintext_cache._entries)


def messages_of(saver: IsolatedCheckpointSaver, config: RunnableConfig) -> list[Any]:
    found: list[Any] = values_at(saver, config)["messages"]
    return found


def without_elements(attacker: Attacker) -> None:
    attacker("DELETE FROM records WHERE kind = ?", int(Kind.ELEMENT))


@pytest.fixture(params=["sqlite"])
def url(request: pytest.FixtureRequest) -> str:
    """A fresh database; what depends on its kind asks for both."""
    found: str = request.getfixturevalue(f"{request.param}_url")
    return found


on_both = pytest.mark.parametrize("url", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def warm(url: str) -> Iterator[IsolatedMemory]:
    with opened(url, plaintext_cache_seconds=600) as memory:
        yield memory


@pytest.fixture
def attacker(warm: IsolatedMemory, url: str) -> Iterator[Attacker]:
    warm.open()
    attacker = Attacker(url)
    yield attacker
    attacker.close()


@pytest.fixture
def other(warm: IsolatedMemory, url: str) -> Iterator[IsolatedMemory]:
    """Another process on the same database, that keeps nothing opened."""
    warm.open()
    with opened(url) as memory:
        yield memory


# What is read -------------------------------------------------------------------------------------


@on_both
async def test_a_warm_thread_gives_what_was_authenticated_and_a_cold_one_reads_its_rows(
    warm: IsolatedMemory, other: IsolatedMemory, attacker: Attacker, door: Door
):
    put(saver_of(other), at("t"), {"messages": said(1, 2, 3), "other": [LONG, {"deep": LONG}]})
    before = await door(saver_of(warm), "get_tuple", at("t"))
    without_elements(attacker)

    assert same(comparable(await door(saver_of(warm), "get_tuple", at("t"))), comparable(before))
    with pytest.raises(RecordDoesNotOpen):
        await door(saver_of(other), "get_tuple", at("t"))
    with pytest.raises(RecordDoesNotOpen):
        await door(saver_of(warm), "verify_thread", "t")


def test_what_was_just_stored_needs_not_be_opened(warm: IsolatedMemory, attacker: Attacker):
    first = put(saver_of(warm), at("t"), {"messages": said(1, 2)})
    saver_of(warm).put_writes(first, [("messages", said(3)[0])], "task")
    without_elements(attacker)

    found = saver_of(warm).get_tuple(at("t"))

    assert found is not None
    assert found.checkpoint["channel_values"]["messages"] == said(1, 2)
    assert found.pending_writes == [("task", "messages", said(3)[0])]


def test_by_default_nothing_stays_opened(other: IsolatedMemory, attacker: Attacker):
    put(saver_of(other), at("t"), {"messages": said(1, 2)})
    assert messages_of(saver_of(other), at("t")) == said(1, 2)
    without_elements(attacker)

    with pytest.raises(RecordDoesNotOpen):
        saver_of(other).get_tuple(at("t"))


@on_both
def test_of_what_another_process_adds_only_that_is_read(
    warm: IsolatedMemory, other: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    first = put(saver_of(warm), at("t"), {"messages": said(1, 2)})
    put(saver_of(other), first, {"messages": said(1, 2, 3)})
    asked: list[set[int]] = []
    elements = reading.elements

    def noted(*args: Any) -> Any:
        asked.append(set(args[3]))
        return elements(*args)

    monkeypatch.setattr(reading, "elements", noted)

    assert messages_of(saver_of(warm), at("t")) == said(1, 2, 3)
    assert messages_of(saver_of(warm), at("t")) == said(1, 2, 3)
    assert [numbers for numbers in asked if numbers] == [{2}]


@on_both
def test_a_thread_that_was_begun_anew_elsewhere_gives_nothing_of_the_former(
    warm: IsolatedMemory, other: IsolatedMemory
):
    """Its elements have the same numbers."""
    put(saver_of(warm), at("t"), {"messages": said(1, 2)})
    saver_of(other).delete_thread("t")
    assert saver_of(warm).get_tuple(at("t")) is None
    put(saver_of(other), at("t"), {"messages": said(7, 8)})

    assert messages_of(saver_of(warm), at("t")) == said(7, 8)


def test_behind_a_sweep_of_another_process_everything_is_opened_again(
    warm: IsolatedMemory, other: IsolatedMemory, attacker: Attacker
):
    first = put(saver_of(warm), at("t"), {"messages": said(1, 2)})
    put(saver_of(warm), first, {"messages": said(2, 3)})
    saver_of(other).prune(["t"])
    assert messages_of(saver_of(warm), at("t")) == said(2, 3)
    saver_of(other).prune(["t"], keep_last=1)
    without_elements(attacker)
    # The second sweep found nothing: the generation is that of the first.
    assert messages_of(saver_of(warm), at("t")) == said(2, 3)

    put(saver_of(other), first, {"n": 1})
    saver_of(other).prune(["t"])

    assert values_at(saver_of(warm), at("t")) == {"n": 1}
    assert kept(warm) == 0


@pytest.mark.parametrize("change", ["row", "body"])
def test_the_rows_that_lead_to_warm_elements_are_authenticated_at_each_read(
    warm: IsolatedMemory, attacker: Attacker, change: str
):
    put(saver_of(warm), at("t"), {"messages": said(1, 2)})
    assert messages_of(saver_of(warm), at("t")) == said(1, 2)
    if change == "row":
        attacker("UPDATE sessions SET count = count + 1")
    else:
        attacker("UPDATE records SET sealed = ? WHERE kind = ?", b"x" * 99, int(Kind.CHECKPOINT))

    with pytest.raises(RecordDoesNotOpen):
        saver_of(warm).get_tuple(at("t"))


def test_where_an_older_state_was_put_back_and_seen_numbers_that_are_given_anew_are_read_anew(
    warm: IsolatedMemory, other: IsolatedMemory, attacker: Attacker
):
    columns = "row_mac, next_sequence, count, size, members, updated_at"
    first = put(saver_of(warm), at("t"), {"messages": said(1)})
    [row] = attacker(f"SELECT {columns} FROM sessions")
    put(saver_of(warm), first, {"messages": said(1, 2)})
    assert messages_of(saver_of(warm), at("t")) == said(1, 2)

    attacker("DELETE FROM records WHERE kind = ? AND key = ?", int(Kind.ELEMENT), bytes(7) + b"\1")
    last = get_checkpoint_id(saver_of(warm).get_tuple(at("t")).config)  # type: ignore[union-attr]
    attacker("DELETE FROM records WHERE kind = ? AND key = ?", int(Kind.CHECKPOINT), raw(last))
    attacker(f"UPDATE sessions SET {columns.replace(',', ' = ?,')} = ?", *row)
    assert messages_of(saver_of(warm), at("t")) == said(1)
    put(saver_of(other), first, {"messages": said(1, 9)})

    assert messages_of(saver_of(warm), at("t")) == said(1, 9)


def raw(checkpoint_id: str | None) -> bytes:
    return bytes.fromhex(str(checkpoint_id).replace("-", ""))


# What the application does to it ------------------------------------------------------------------


def talkative() -> list[Any]:
    """Messages with containers in containers, some with objects of types beside JSON's."""
    return [
        AIMessage(
            [{"type": "text", "text": LONG, "annotations": [{"from": [1, 2]}]}],
            id="a",
            additional_kwargs={"deep": {"list": [{"leaf": 1}]}},
            response_metadata={"headers": {"trace": ["a"]}},
            tool_calls=[{"name": "search", "args": {"where": {"city": ["x"]}}, "id": "c"}],
            usage_metadata={"input_tokens": 1, "output_tokens": 1, "total_tokens": 2},
        ),
        ToolMessage(LONG, tool_call_id="c", id="b", artifact=[Document("d", metadata={"n": [1]})]),
        ToolMessage(LONG, tool_call_id="d", id="c", artifact=Point([1], {"k": [2]})),
        HumanMessage(LONG, id="d"),
        AIMessage(LONG, id="e"),
        HumanMessage(LONG, id="f", later_field={"list": [1]}),  # type: ignore[call-arg]
    ]


CHANGES: dict[str, Callable[[list[Any]], object]] = {
    "a field": lambda m: setattr(m[3], "content", "changed"),
    "content blocks": lambda m: m[0].content[0]["annotations"][0]["from"].append(3),
    "nested kwargs": lambda m: m[0].additional_kwargs["deep"]["list"][0].update(leaf=2),
    "empty kwargs": lambda m: m[3].additional_kwargs.update(new=1),
    "arguments of a call": lambda m: m[0].tool_calls[0]["args"]["where"]["city"].clear(),
    "invalid calls": lambda m: m[0].invalid_tool_calls.append({}),
    "metadata": lambda m: m[0].response_metadata["headers"]["trace"].append("b"),
    "usage": lambda m: m[0].usage_metadata.update(input_tokens=5),
    "a field of a later version": lambda m: m[5].later_field["list"].append(2),
    "empty calls": lambda m: m[4].tool_calls.append({"name": "f", "args": {}, "id": "c"}),
    "empty metadata": lambda m: m[4].response_metadata.update(new=1),
    "a new field": lambda m: setattr(m[4], "later_field", 1),
    "a document": lambda m: m[1].artifact[0].metadata["n"].append(2),
    "a dataclass": lambda m: m[2].artifact.x.append(2),
    "fields that were set": lambda m: m[3].model_fields_set.add("name"),
    "the list": lambda m: m.pop(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_application_changes_in_place_no_other_read_gives(
    sqlite_url: str, root_key: LocalRootKey, change: str
):
    with opened(sqlite_url, plaintext_cache_seconds=600) as memory:
        put(saver_of(memory), at("t"), {"messages": talkative()})
        running, mine = (messages_of(saver_of(memory), at("t")) for _ in range(2))

        CHANGES[change](mine)

        assert not alike(mine, running)
        assert alike(running, messages_of(saver_of(memory), at("t")))
        put(saver_of(memory), at("t"), {"messages": mine})
        assert messages_of(saver_of(memory), at("t")) == mine


def alike(one: list[Any], other: list[Any]) -> bool:
    fields = [[message.model_fields_set for message in each] for each in (one, other)]
    return same(one, other) and fields[0] == fields[1]


def test_what_an_application_hands_in_may_be_changed_behind_it(sqlite_url: str):
    with opened(sqlite_url, plaintext_cache_seconds=600) as memory:
        given = talkative()
        expected = copy.deepcopy(given)
        put(saver_of(memory), at("t"), {"messages": given})
        for change in CHANGES.values():
            change(given)

        assert messages_of(saver_of(memory), at("t")) == expected


@on_both
def test_threads_that_read_and_go_on_at_once_never_see_each_others_changes(
    warm: IsolatedMemory,
):
    begin = put(saver_of(warm), at("t"), {"messages": said(*range(50))})
    failed = threading.Event()

    def run(number: int) -> None:
        for turn in range(10):
            found = messages_of(saver_of(warm), begin)
            if found != said(*range(50)):
                failed.set()
            for message in found:
                message.content = f"run {number} turn {turn}"
                message.additional_kwargs["run"] = number
            put(saver_of(warm), at(f"of {number}"), {"messages": found[:3]})

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(run, range(6)))

    assert not failed.is_set()
    for number in range(6):
        assert {m.content for m in messages_of(saver_of(warm), at(f"of {number}"))} == {
            f"run {number} turn 9"
        }


# What LangGraph does with it ----------------------------------------------------------------------


def counselling(saver: Any) -> Any:
    """A graph with a graph in it that remembers."""

    def answer(state: MessagesState) -> dict[str, Any]:
        number = len(state["messages"])
        return {"messages": [AIMessage(f"answer {number} {LONG}", id=f"a{number}")]}

    inner = StateGraph(MessagesState)
    inner.add_node("answer", answer)
    inner.add_edge(START, "answer")
    builder = StateGraph(MessagesState)
    builder.add_node("inner", inner.compile(checkpointer=True))
    builder.add_edge(START, "inner")
    return builder.compile(checkpointer=saver)


@pytest.mark.parametrize("make", [counselling, delta_graph])
async def test_a_warm_saver_leads_a_graph_where_a_cold_one_leads_it(
    sqlite_url: str, make: Callable[[Any], Any]
):
    """Turns, time travel, forks, updates, removed and replaced messages, subgraphs, a prune."""
    with opened(sqlite_url, plaintext_cache_seconds=600) as warm, opened(sqlite_url) as cold:
        graph, config = make(saver_of(warm)), at("t")

        def agree() -> None:
            for found in saver_of(cold).list(None):
                again = saver_of(warm).get_tuple(found.config)
                assert same(comparable(again), comparable(found))
            states = [make(s).get_state(config).values for s in (saver_of(warm), saver_of(cold))]
            assert same(*states)

        graph.invoke({"messages": said(0)}, config)
        graph.invoke({"messages": said(1)}, config)
        await graph.ainvoke({"messages": said(2)}, config)
        past = [*graph.get_state_history(config, limit=5)][4].config
        graph.invoke(None, past)
        graph.invoke({"messages": said(30)}, past)
        agree()
        graph.update_state(config, {"messages": [RemoveMessage(id="0")]})
        graph.update_state(config, {"messages": [HumanMessage(LONG + "replaced", id="30")]})
        graph.invoke({"messages": said(4)}, config)
        agree()
        assert kept(warm)
        saver_of(cold).prune(["t"], keep_last=2)
        graph.invoke({"messages": said(5)}, config)
        agree()


# What stays, and for how long ---------------------------------------------------------------------


@pytest.mark.parametrize("end", ["delete", "prune", "runs", "erase", "close", "clear"])
def test_nothing_of_a_thread_stays_opened_once_it_is_gone(warm: IsolatedMemory, end: str):
    first = put(saver_of(warm), at("t"), {"messages": said(1)}, run_id="run")
    put(saver_of(warm), first, {"messages": said(2)})
    assert kept(warm) == 1

    if end == "delete":
        saver_of(warm).delete_thread("t")
    elif end == "prune":
        saver_of(warm).prune(["t"])
    elif end == "runs":
        saver_of(warm).delete_for_runs(["run"])
    elif end == "erase":
        warm.erase_user("alice")
    elif end == "close":
        warm.close()
    else:
        alice(warm).clear()

    assert kept(warm) == 0


def test_a_warm_thread_of_a_user_who_locks_is_opened_for_nobody(warm: IsolatedMemory):
    put(saver_of(warm), at("t"), {"messages": said(1)})
    lock(warm)
    assert kept(warm) == 0
    with pytest.raises(MemoryLocked):
        saver_of(warm).get_tuple(at("t"))

    with unlock(warm):
        assert messages_of(saver_of(warm), at("t")) == said(1)
        assert kept(warm) == 1

    assert kept(warm) == 0
    with pytest.raises(MemoryLocked):
        saver_of(warm).get_tuple(at("t"))


def test_what_a_read_opened_before_the_user_locked_does_not_stay(
    warm: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    put(saver_of(warm), at("t"), {"messages": said(1)})
    lock(warm)
    keep = OpenedElements.keep

    def locked_meanwhile(*args: Any) -> None:
        lent.lock()
        keep(*args)

    lent = unlock(warm)
    monkeypatch.setattr(OpenedElements, "keep", locked_meanwhile)

    assert messages_of(saver_of(warm), at("t")) == said(1)
    assert kept(warm) == 0


def test_nobody_else_gets_anything_of_a_warm_thread(warm: IsolatedMemory):
    put(saver_of(warm), at("t"), {"messages": said(1)})

    for user, module in (("bob", "tutor"), ("alice", "coach")):
        scope = warm.scope(user_id=user, module_id=module)
        assert scope.checkpointer().get_tuple(at("t")) is None
        put(scope.checkpointer(), at("t"), {"messages": said(5)})
        assert messages_of(scope.checkpointer(), at("t")) == said(5)


def test_who_was_erased_and_comes_again_finds_nothing_of_the_former_life(warm: IsolatedMemory):
    put(saver_of(warm), at("t"), {"messages": said(1)})
    warm.erase_user("alice")

    put(saver_of(warm), at("t"), {"messages": said(2)})

    assert messages_of(saver_of(warm), at("t")) == said(2)


def test_what_exceeds_the_bytes_is_not_kept(sqlite_url: str):
    options = {"plaintext_cache_seconds": 600, "plaintext_cache_bytes": 5_000}
    with opened(sqlite_url, **options) as memory:
        put(saver_of(memory), at("short"), {"messages": said(1)})
        assert kept(memory) == 1

        for turn in range(1, 40):
            put(saver_of(memory), at("long"), {"messages": said(*range(turn))})
            assert memory._context.plaintext_cache is not None
            assert memory._context.plaintext_cache._entries.size <= 5_000

        assert messages_of(saver_of(memory), at("long")) == said(*range(39))


def test_text_is_counted_by_the_memory_that_it_takes(warm: IsolatedMemory):
    """Four bytes a character, where one of them is an emoji."""
    put(saver_of(warm), at("t"), {"messages": [HumanMessage("x" * 10_000 + "\U0001f600", id="1")]})

    assert warm._context.plaintext_cache is not None
    assert 40_000 < warm._context.plaintext_cache._entries.size < 42_000


def test_keys_may_be_rotated_while_a_thread_is_warm(warm: IsolatedMemory, other: IsolatedMemory):
    first = put(saver_of(warm), at("t"), {"messages": said(1)})
    other.rotate_keys("alice")

    assert messages_of(saver_of(warm), at("t")) == said(1)
    put(saver_of(warm), first, {"messages": said(1, 2)})
    assert messages_of(saver_of(warm), at("t")) == said(1, 2)
    assert messages_of(saver_of(other), at("t")) == said(1, 2)
