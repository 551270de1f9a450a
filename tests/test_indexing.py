import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from langchain_core.vectorstores import VectorStore

from langmem_isolated import IsolatedMemory, IsolatedRecordManager, ScopedMemory, indexing
from langmem_isolated.errors import ScopeError, ValueNotStorable
from tests.conftest import Attacker, Door
from tests.embeddings import NGramEmbeddings
from tests.lasting import alice, lasting, lasting_url, newcomer

FIXTURES = (alice, lasting, lasting_url)


@pytest.fixture
def manager(alice: ScopedMemory) -> IsolatedRecordManager:
    return alice.record_manager()


Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Lets the machine's clock show what a test says, in seconds."""
    return lambda seconds: monkeypatch.setattr(indexing, "now", lambda: round(seconds * 1_000_000))


# --- records --------------------------------------------------------------------------------------


async def test_what_was_recorded_exists_and_is_listed(manager: IsolatedRecordManager, door: Door):
    await door(manager, "create_schema")
    assert await door(manager, "exists", ["a", "b"]) == [False, False]
    assert await door(manager, "list_keys") == []

    await door(manager, "update", ["a", "b", "c"])
    await door(manager, "delete_keys", ["b", "never there"])

    assert await door(manager, "exists", ["a", "b", "c", "a"]) == [True, False, True, True]
    assert sorted(await door(manager, "list_keys")) == ["a", "c"]


async def test_times_tell_what_was_recorded_before_from_what_came_after(
    manager: IsolatedRecordManager, door: Door
):
    times = [await door(manager, "get_time")]
    for key in ("a", "b", "c"):
        await door(manager, "update", [key])
        times.append(await door(manager, "get_time"))

    assert times == sorted(times)
    for number, moment in enumerate(times):
        assert await door(manager, "list_keys", before=moment) == ["a", "b", "c"][:number]
        assert await door(manager, "list_keys", after=moment) == ["a", "b", "c"][number:]
    assert await door(manager, "list_keys", after=times[1], before=times[2]) == ["b"]
    await door(manager, "update", ["a"])
    assert await door(manager, "list_keys", before=times[3]) == ["b", "c"]
    assert times[3] == pytest.approx(time.time(), abs=60)


async def test_keys_are_listed_by_their_sources(manager: IsolatedRecordManager, door: Door):
    keys = [str(number) for number in range(150)]
    await door(manager, "update", keys, group_ids=[f"source {key}" for key in keys])
    await door(manager, "update", ["none", "empty"], group_ids=[None, ""])
    await door(manager, "update", ["0"], group_ids=["source 1"])
    await door(manager, "update", ["2"])

    async def of(*sources: str | None, **more: Any) -> list[str]:
        return sorted(await door(manager, "list_keys", group_ids=sources, **more))

    assert await of("source 1") == ["0", "1"]
    assert await of("source 0", "source 2") == []
    assert await of("source 3", "source 4", "source 3") == ["3", "4"]
    assert await of(*(f"source {key}" for key in keys)) == sorted(set(keys) - {"2"})
    assert await of(None) == ["2", "none"]
    assert await of("") == ["empty"]
    assert await of() == []
    assert len(await of(*(f"source {key}" for key in keys), limit=100)) == 100
    assert len(await door(manager, "list_keys", limit=7)) == 7
    assert await door(manager, "list_keys", limit=0) == []


async def test_as_many_sources_as_keys_are_needed(manager: IsolatedRecordManager, door: Door):
    with pytest.raises(ValueError, match="as many group_ids as keys"):
        await door(manager, "update", ["a", "b"], group_ids=["source"])

    await door(manager, "update", [], group_ids=[])
    assert await door(manager, "list_keys") == []


async def test_keys_without_an_exact_form_are_refused(manager: IsolatedRecordManager, door: Door):
    for keys in (["lone \ud800", object()], [object()]):
        with pytest.raises(ValueNotStorable):
            await door(manager, "update", ["fine", *keys])

    assert await door(manager, "list_keys") == []


async def test_managers_of_other_names_are_apart(alice: ScopedMemory, door: Door):
    one, other = alice.record_manager("one"), alice.record_manager("other")
    await door(one, "update", ["a"], group_ids=["source"])
    await door(alice.byte_store("one"), "mset", [("b", b"")])

    assert one.namespace == "one"
    assert await door(other, "list_keys", group_ids=["source"]) == []
    assert await door(other, "exists", ["a"]) == [False]
    await door(other, "delete_keys", ["a"])
    assert await door(one, "list_keys", group_ids=["source"]) == ["a"]
    assert await door(one, "list_keys") == ["a"]


@pytest.mark.parametrize("name", ["", "a\x00", None, 7])
def test_a_malformed_name_is_refused(alice: ScopedMemory, name: Any):
    with pytest.raises(ScopeError):
        alice.record_manager(name)


async def test_asking_and_forgetting_make_no_keys(memory: IsolatedMemory, door: Door):
    manager = memory.scope(user_id="nobody", module_id="tutor").record_manager()

    assert await door(manager, "get_time") == pytest.approx(time.time(), abs=60)
    await door(manager, "exists", ["a"])
    await door(manager, "list_keys")
    await door(manager, "update", [])
    await door(manager, "delete_keys", ["a"])

    assert memory.modules(user_id="nobody") == []


# --- a clock that never goes back -----------------------------------------------------------------


async def test_a_clock_set_back_takes_nothing_for_out_of_date(
    manager: IsolatedRecordManager, door: Door, clock: Clock
):
    clock(2_000_000)
    await door(manager, "update", ["old"])
    start = await door(manager, "get_time")

    clock(1_000_000)
    await door(manager, "update", ["new"], time_at_least=start)
    later = await door(manager, "get_time")
    await door(manager, "update", ["newest"])

    assert later > start > 2_000_000
    assert await door(manager, "list_keys", before=start) == ["old"]
    assert await door(manager, "list_keys", before=later) == ["old", "new"]
    assert await door(manager, "list_keys", after=later) == ["newest"]


async def test_a_machine_that_is_slow_does_not_date_back_what_another_indexes(
    manager: IsolatedRecordManager, door: Door, clock: Clock
):
    clock(1_000.0)
    slow = await door(manager, "get_time")
    clock(1_005.0)
    start = await door(manager, "get_time")
    await door(manager, "update", ["both"], time_at_least=start)

    clock(1_000.1)
    await door(manager, "update", ["both"], time_at_least=slow)

    assert await door(manager, "list_keys", before=start) == []


async def test_times_that_no_clock_shows_do_no_harm(manager: IsolatedRecordManager, door: Door):
    await door(manager, "update", ["a"], time_at_least=-5.0)

    assert await door(manager, "list_keys", before=float("inf"), after=float("-inf")) == ["a"]
    assert await door(manager, "list_keys", before=-1e300) == []
    assert await door(manager, "list_keys", after=1e300) == []
    await door(manager, "update", ["b"], time_at_least=float("inf"))
    assert await door(manager, "list_keys") == ["a", "b"]
    moment = await door(manager, "get_time")
    await door(manager, "update", ["c"], time_at_least=moment)
    assert await door(manager, "exists", ["a", "b", "c"]) == [True, True, True]


# --- against LangChain's own ----------------------------------------------------------------------

KEYS = st.lists(st.sampled_from("abcdef"), max_size=4, unique=True)
SOURCES = st.sampled_from(["x", "y", "", None])
STEPS = st.one_of(
    st.tuples(st.just("update"), KEYS, st.lists(SOURCES, min_size=4, max_size=4)),
    st.tuples(st.just("delete"), KEYS, st.none()),
    st.tuples(st.just("mark"), st.none(), st.none()),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(STEPS, max_size=12), sources=st.lists(SOURCES, min_size=1, max_size=3))
def test_it_lists_what_langchains_own_lists(
    lasting: IsolatedMemory, steps: list[Any], sources: list[str | None]
):
    ours = newcomer(lasting).record_manager()
    theirs: Any = InMemoryRecordManager("n")
    marks = []
    for name, keys, group_ids in steps:
        if name == "update":
            for one in (ours, theirs):
                one.update(keys, group_ids=group_ids[: len(keys)])
        elif name == "delete":
            ours.delete_keys(keys)
            theirs.delete_keys([key for key in keys if key in theirs.records])
        else:
            marks.append((ours.get_time(), theirs.get_time()))

    for asked in (
        {},
        {"group_ids": sources},
        *({"before": mark} for mark in marks),
        *({"after": mark, "group_ids": sources} for mark in marks),
    ):
        listed = [
            sorted(one.list_keys(**{  # type: ignore[arg-type]
                name: value[number] if isinstance(value, tuple) else value
                for name, value in asked.items()
            }))
            for number, one in enumerate((ours, theirs))
        ]  # fmt: skip
        assert listed[0] == listed[1]
    assert ours.exists([*"abcdef"]) == theirs.exists([*"abcdef"])


# --- with LangChain's index, and a vector store of the scope --------------------------------------


class Shelf:
    """One user's documents, indexed through either door."""

    def __init__(self, scoped: ScopedMemory) -> None:
        self.manager = scoped.record_manager()
        self.store: VectorStore = scoped.vector_store(NGramEmbeddings())

    def index(self, texts: dict[str, str], cleanup: Any, **more: Any) -> Any:
        options = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "blake2b", **more}
        return index(documents(texts), self.manager, self.store, **options)

    async def aindex(self, texts: dict[str, str], cleanup: Any, **more: Any) -> Any:
        options = {"cleanup": cleanup, "source_id_key": "source", "key_encoder": "blake2b", **more}
        return await aindex(documents(texts), self.manager, self.store, **options)

    def texts(self) -> list[str]:
        return sorted(one.page_content for one in self.store.similarity_search("", k=1_000))


def documents(texts: dict[str, str]) -> list[Document]:
    return [Document(text, metadata={"source": source}) for text, source in texts.items()]


def counts(result: Any) -> tuple[int, int, int]:
    """How many were added, skipped and deleted."""
    return result["num_added"], result["num_skipped"], result["num_deleted"]


CLEANUPS = {"full": ["a2", "c"], "incremental": ["a2", "b", "c"], "scoped_full": ["a2", "b", "c"],
            None: ["a1", "a2", "b", "c"]}  # fmt: skip


@pytest.mark.parametrize("cleanup", CLEANUPS)
async def test_index_adds_skips_and_cleans_up_what_is_the_scopes_own(
    alice: ScopedMemory, lasting: IsolatedMemory, door: Door, cleanup: Any
):
    bob = lasting.scope(user_id=f"bob of {alice.scope.user_id}", module_id="tutor")
    hers, his = Shelf(alice), Shelf(bob)
    for shelf in (hers, his):
        first = await door(shelf, "index", {"a1": "a", "a2": "a", "b": "b"}, cleanup)
        assert counts(first) == (3, 0, 0)

    second = await door(hers, "index", {"a2": "a", "c": "a"}, cleanup)

    assert counts(second) == (1, 1, 4 - len(CLEANUPS[cleanup]))
    assert hers.texts() == CLEANUPS[cleanup]
    assert his.texts() == ["a1", "a2", "b"]
    assert counts(await door(his, "index", {"a1": "a", "a2": "a", "b": "b"}, cleanup)) == (0, 3, 0)


async def test_indexing_nothing_with_full_cleanup_empties_the_scope_and_no_other(
    alice: ScopedMemory, door: Door
):
    hers, other = Shelf(alice), Shelf(alice.module("planner"))
    texts = {f"text {number}": "a" for number in range(250)}
    for shelf in (hers, other):
        await door(shelf, "index", texts, "full", batch_size=50)

    result = await door(hers, "index", {}, "full", cleanup_batch_size=60)

    assert counts(result) == (0, 0, 250)
    assert hers.texts() == []
    assert other.texts() == sorted(texts)


async def test_indexing_again_and_again_ends_with_what_was_given_last(
    alice: ScopedMemory, door: Door
):
    """Runs that follow each other within a millisecond are told apart, too."""
    shelf = Shelf(alice)
    for number in range(12):
        kept = {f"text {number}": "a", f"text {number + 1}": "a"}
        await door(shelf, "index", kept, "incremental")
        assert shelf.texts() == sorted(kept)


async def test_a_clock_set_back_while_indexing_loses_no_document(
    alice: ScopedMemory, door: Door, clock: Clock
):
    shelf = Shelf(alice)
    clock(2_000_000)
    await door(shelf, "index", {"a": "a", "b": "b"}, "full")
    clock(1_000_000)

    result = await door(shelf, "index", {"b": "b", "c": "c"}, "full")

    assert counts(result) == (1, 1, 1)
    assert shelf.texts() == ["b", "c"]


async def test_indexing_stores_no_source_and_no_key_in_the_clear(
    memory: IsolatedMemory, door: Door, attacker: Attacker
):
    shelf = Shelf(memory.scope(user_id="alice", module_id="tutor"))
    await door(shelf, "index", {"Quokka text": "Quokka source"}, "full")
    (key,) = await door(shelf.manager, "list_keys")

    stored = repr(
        [
            [bytes(value) if isinstance(value, memoryview) else value for value in row]
            for row in attacker("SELECT parent, key, alias, tag, sealed FROM records")
        ]
    )
    assert "Quokka" not in stored
    assert key not in stored
