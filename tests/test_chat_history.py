import asyncio
import inspect
import subprocess
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    get_buffer_string,
    trim_messages,
)
from langchain_core.messages.utils import count_tokens_approximately

from langmem_isolated import IsolatedChatMessageHistory, IsolatedMemory, Page, chat_history
from langmem_isolated._adapters import appending
from langmem_isolated._database.transactions import Transaction
from langmem_isolated._runtime import clock
from langmem_isolated._storage.sessions import statements
from langmem_isolated._storage.sessions.reading import LATEST
from langmem_isolated.errors import ValueNotStorable
from tests.conftest import Attacker, Door
from tests.lasting import lasting, lasting_url, newcomer

FIXTURES = (lasting, lasting_url)

CALL = {"name": "add", "args": {"a": 1}, "id": "call-0", "type": "tool_call"}


@pytest.fixture
def history(memory: IsolatedMemory) -> IsolatedChatMessageHistory:
    return memory.scope(user_id="alice", module_id="tutor").chat_history("monday")


def numbered(count: int, start: int = 0) -> list[BaseMessage]:
    return [HumanMessage(str(number)) for number in range(start, start + count)]


def texts(messages: list[BaseMessage]) -> list[str]:
    return [str(message.content) for message in messages]


# --- reading and writing --------------------------------------------------------------------------


async def test_what_is_added_is_read_back_in_order(history: IsolatedChatMessageHistory, door: Door):
    said = [HumanMessage("What is 7 times 6?"), AIMessage("42", id="run-1")]
    more = [HumanMessage("Thanks"), SystemMessage(""), AIMessage([])]

    await door(history, "add_messages", said)
    await door(history, "add_messages", more)

    assert await door(history, "messages") == said + more


async def test_a_session_that_nobody_wrote_to_is_empty(
    history: IsolatedChatMessageHistory, memory: IsolatedMemory, door: Door
):
    assert await door(history, "messages") == []
    assert await door(history, "last", 3) == []
    assert await door(history, "page") == Page([], None)
    assert await door(history, "count") == 0
    assert await door(history, "window", max_tokens=10) == []
    assert str(history) == ""
    await door(history, "clear")
    await door(history, "add_messages", [])
    assert await door(memory.scope(user_id="alice", module_id="tutor").sessions, "__call__") == []
    assert await door(memory, "modules", user_id="alice") == []


async def test_single_messages_and_bare_text_can_be_added(
    history: IsolatedChatMessageHistory, door: Door
):
    await door(history, "add_message", SystemMessage("Be kind."))
    await door(history, "add_user_message", "Hello")
    await door(history, "add_user_message", HumanMessage("again", name="alice"))
    await door(history, "add_ai_message", "Hi")
    await door(history, "add_ai_message", AIMessage("there", id="run-1"))

    assert await door(history, "messages") == [
        SystemMessage("Be kind."),
        HumanMessage("Hello"),
        HumanMessage("again", name="alice"),
        AIMessage("Hi"),
        AIMessage("there", id="run-1"),
    ]


async def test_streamed_chunks_stay_chunks(history: IsolatedChatMessageHistory, door: Door):
    call = {"name": "add", "args": '{"a": 1', "id": "call-1", "index": 0}
    chunk = AIMessageChunk("4", id="run-1", tool_call_chunks=[call], chunk_position="last")
    answer = ToolMessage("2", tool_call_id="call-1", artifact={"steps": (1, b"\x00")})

    await door(history, "add_messages", [chunk, answer])

    read = await door(history, "messages")
    assert read == [chunk, answer]
    assert [type(message) for message in read] == [AIMessageChunk, ToolMessage]
    assert read[1].artifact == {"steps": (1, b"\x00")}


async def test_messages_is_a_list_of_the_callers_own(
    history: IsolatedChatMessageHistory, door: Door
):
    await door(history, "add_messages", numbered(2))
    first = await door(history, "messages")

    first[0].content = "changed"
    first.append(HumanMessage("never said"))

    assert texts(await door(history, "messages")) == ["0", "1"]


async def test_what_was_added_does_not_follow_its_object(
    history: IsolatedChatMessageHistory, door: Door
):
    said = HumanMessage("before", additional_kwargs={"tags": ["a"]})
    await door(history, "add_messages", [said])

    said.content = "after"
    said.additional_kwargs["tags"].append("b")

    [read] = await door(history, "messages")
    assert (read.content, read.additional_kwargs) == ("before", {"tags": ["a"]})


async def test_two_objects_for_one_session_see_the_same(memory: IsolatedMemory, door: Door):
    """Whichever wrote last, and whatever each has seen before."""
    scoped = memory.scope(user_id="alice", module_id="tutor")
    one, other = scoped.chat_history("monday"), scoped.chat_history("monday")

    for number in range(6):
        writer, reader = (one, other) if number % 2 else (other, one)
        await door(writer, "add_messages", numbered(1, start=number))
        assert texts(await door(reader, "messages")) == [str(n) for n in range(number + 1)]
    await door(one, "clear")
    await door(other, "add_messages", numbered(1))
    assert texts(await door(one, "messages")) == ["0"]
    await door(scoped.sessions, "delete", "monday")
    await door(one, "add_messages", numbered(2))
    assert texts(await door(other, "messages")) == ["0", "1"]


async def test_what_was_stored_is_there_for_the_next_process(
    database_url: str, root_key: Any, door: Door
):
    for number in range(3):
        with IsolatedMemory(database_url, root_key=root_key) as memory:
            history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
            assert texts(await door(history, "messages")) == [str(n) for n in range(number)]
            await door(history, "add_messages", numbered(1, start=number))


async def test_long_messages_and_long_sessions_come_back(
    history: IsolatedChatMessageHistory, door: Door
):
    said = [HumanMessage("long " * 50_000), *numbered(1000)]

    await door(history, "add_messages", said)

    assert await door(history, "messages") == said


async def test_any_iterable_of_messages_can_be_added(
    history: IsolatedChatMessageHistory, door: Door
):
    await door(history, "add_messages", tuple(numbered(2)))

    assert texts(await door(history, "messages")) == ["0", "1"]


# --- clear ----------------------------------------------------------------------------------------


async def test_clear_removes_the_messages_of_this_session_and_keeps_its_title(
    memory: IsolatedMemory, attacker: Attacker, door: Door
):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    await door(scoped.sessions, "create", "monday", title="Algebra", channel="general")
    monday, tuesday = scoped.chat_history("monday"), scoped.chat_history("tuesday")
    await door(tuesday, "add_messages", numbered(2))
    await door(monday, "add_messages", numbered(3))

    await door(monday, "clear")

    assert await door(monday, "messages") == []
    assert await door(monday, "count") == 0
    assert texts(await door(tuesday, "messages")) == ["0", "1"]
    [cleared] = [s for s in await door(scoped.sessions, "__call__") if s.id == "monday"]
    assert (cleared.title, cleared.channel) == ("Algebra", "general")
    assert (cleared.messages, cleared.size) == (0, 0)
    assert attacker("SELECT count(*) FROM records") == [(2,)]
    await door(monday, "add_messages", numbered(1, start=7))
    assert texts(await door(monday, "messages")) == ["7"]


# --- reading a part -------------------------------------------------------------------------------


class Fetched:
    """How many rows came from the database, and in how many queries."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.rows = 0
        self.queries = 0
        for method in ("rows", "row"):
            monkeypatch.setattr(Transaction, method, self._counting(getattr(Transaction, method)))

    def _counting(self, original: Any) -> Any:
        def counted(transaction: Transaction, *arguments: Any, **values: Any) -> Any:
            result = original(transaction, *arguments, **values)
            self.queries += 1
            self.rows += len(result) if isinstance(result, list) else 1
            return result

        return counted


async def test_reading_a_part_fetches_no_more_than_that_part(
    history: IsolatedChatMessageHistory, door: Door, monkeypatch: pytest.MonkeyPatch
):
    """Of a session of 1,000 messages, in one query each, which gives the session's row, too."""
    history.add_messages(numbered(1000))
    for name, arguments, options, expected in [
        ("last", (5,), {}, range(995, 1000)),
        ("page", (), {"limit": 7}, range(993, 1000)),
        ("page", (), {"before": 500, "limit": 7}, range(493, 500)),
        ("page", (), {"before": 3, "limit": 7}, range(3)),
        ("count", (), {}, None),
    ]:
        with monkeypatch.context() as patched:
            fetched = Fetched(patched)
            result = await door(history, name, *arguments, **options)
        if expected is None:
            assert result == 1000
        else:
            read = result if name == "last" else result.messages
            assert texts(read) == [str(number) for number in expected]
        assert fetched.rows <= 1 + len(expected or [])
        assert fetched.queries == 1


async def test_a_window_fetches_no_more_than_its_budget_reaches(
    history: IsolatedChatMessageHistory, door: Door, monkeypatch: pytest.MonkeyPatch
):
    history.add_messages(numbered(1000))
    with monkeypatch.context() as patched:
        fetched = Fetched(patched)
        window = await door(history, "window", max_tokens=10, token_counter=len)

    assert texts(window) == [str(number) for number in range(990, 1000)]
    assert fetched.rows < 100


def test_the_database_looks_at_no_more_rows_than_it_returns(
    memory: IsolatedMemory, attacker: Attacker
):
    """By its own account: the key leads to the session, and the order is that of the key."""
    history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
    history.add_messages(numbered(2000))
    attacker("ANALYZE")
    statement, names = memory._database.statements.compiled(statements.PAGE)
    values = {"scope_id": b"s", "digest": b"d", "before": b"b", "limit": 5}

    def plan(transaction: Transaction) -> str:
        explain = "EXPLAIN " if transaction.is_postgres else "EXPLAIN QUERY PLAN "
        cursor = transaction._open_cursor(transaction.connection)
        cursor.execute(explain + statement, [values[name] for name in names])
        return "\n".join(str(row) for row in cursor.fetchall())

    told = memory._database.read(plan)

    assert "Seq Scan on records" not in told
    assert "SCAN records" not in told
    assert "USE TEMP B-TREE FOR ORDER BY" not in told


@pytest.mark.parametrize("limit", [1, 7, 10, 100])
async def test_pages_cover_a_long_session_once_each(
    history: IsolatedChatMessageHistory, door: Door, limit: int
):
    history.add_messages(numbered(70))
    pages, before = [], None
    while True:
        page = await door(history, "page", before=before, limit=limit)
        pages.append(texts(page.messages))
        before = page.before
        if before is None:
            break
        # What is said meanwhile does not shift what is older.
        history.add_user_message("meanwhile")

    assert [text for page in reversed(pages) for text in page] == [str(n) for n in range(70)]
    assert len(pages) == -(-70 // limit)


async def test_the_ends_of_paging(history: IsolatedChatMessageHistory, door: Door):
    history.add_messages(numbered(3))

    assert await door(history, "page", limit=0) == Page([], 3)
    assert await door(history, "page", before=0) == Page([], None)
    for far in (99, LATEST, 2**100):
        assert texts((await door(history, "page", before=far)).messages) == ["0", "1", "2"]
        assert texts((await door(history, "page", limit=far)).messages) == ["0", "1", "2"]
    assert await door(history, "last", 0) == []
    for options in ({"limit": -1}, {"before": -1}, {"limit": 1, "before": -5}):
        with pytest.raises(ValueError, match="0 or more"):
            await door(history, "page", **options)
    with pytest.raises(ValueError, match="0 or more"):
        await door(history, "last", -1)


# --- token budgets --------------------------------------------------------------------------------

conversations = st.lists(
    st.one_of(
        st.builds(HumanMessage, st.text(max_size=30)),
        st.builds(AIMessage, st.text(max_size=30)),
        st.builds(AIMessage, st.lists(st.text(max_size=10), max_size=3)),
        st.builds(SystemMessage, st.text(max_size=10)),
        st.builds(ToolMessage, st.text(max_size=10), tool_call_id=st.just("call-1")),
    ),
    max_size=25,
)
kinds = st.none() | st.sampled_from(
    ["human", "ai", "tool", "system", HumanMessage, ("human", "tool"), (AIMessage, "system")]
)


def characters(messages: list[BaseMessage]) -> int:
    return sum(len(str(message.content)) for message in messages)


def one_each(message: BaseMessage) -> int:
    """Counters may take a single message: `trim_messages` looks at the annotation."""
    return len(message.text)


COUNTERS = [len, characters, one_each, "approximate", count_tokens_approximately]


@pytest.mark.parametrize(
    "counter", COUNTERS, ids=lambda counter: getattr(counter, "__name__", counter)
)
def test_a_window_is_what_trimming_the_whole_session_keeps(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch, counter: Any
):
    """For pages of any size: a window is read in several."""
    scoped = memory.scope(user_id="alice", module_id="tutor")

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        conversations,
        st.integers(0, 120),
        st.sampled_from([1, 2, 3, 64]),
        kinds,
        kinds,
        st.booleans(),
        st.booleans(),
    )
    def equal(
        said: list[BaseMessage],
        budget: int,
        page_size: int,
        start_on: Any,
        end_on: Any,
        include_system: bool,
        allow_partial: bool,
    ):
        monkeypatch.setattr(chat_history, "_WINDOW_PAGE", page_size)
        history = scoped.chat_history("window")
        history.clear()
        history.add_messages(said)
        options = {
            "start_on": start_on,
            "end_on": end_on,
            "include_system": include_system,
            "allow_partial": allow_partial,
        }

        window = history.window(max_tokens=budget, token_counter=counter, **options)

        assert window == trim_messages(
            said, strategy="last", max_tokens=budget, token_counter=counter, **options
        )

    equal()


async def test_a_window_looks_on_until_it_finds_what_it_must_end_on(
    history: IsolatedChatMessageHistory, door: Door
):
    """Further back than a page, and no further than the budget."""
    history.add_messages([HumanMessage("question"), *(AIMessage(str(n)) for n in range(200))])

    window = await door(history, "window", max_tokens=10, token_counter=len, end_on="human")

    assert texts(window) == ["question"]


async def test_messages_that_are_alike_do_not_make_a_window_longer(
    history: IsolatedChatMessageHistory, door: Door, monkeypatch: pytest.MonkeyPatch
):
    history.add_messages([HumanMessage("ok")] * 1000)
    with monkeypatch.context() as patched:
        fetched = Fetched(patched)
        window = await door(history, "window", max_tokens=3, token_counter=len)

    assert texts(window) == ["ok"] * 3
    assert fetched.rows < 100


# --- message ids ----------------------------------------------------------------------------------


def with_ids(*ids: str | None) -> list[BaseMessage]:
    return [HumanMessage(f"{id_}", id=id_) for id_ in ids]


async def test_by_default_a_message_is_stored_as_often_as_it_is_added(
    history: IsolatedChatMessageHistory, door: Door
):
    await door(history, "add_messages", with_ids("1", "2"))
    await door(history, "add_messages", with_ids("1", "3", "3", "1"))
    await door(history, "add_messages", with_ids("1"))

    read = await door(history, "messages")
    assert texts(read) == ["1", "2", "1", "3", "3", "1", "1"]
    assert [message.id for message in read] == ["1", "2", "1", "3", "3", "1", "1"]


async def test_an_idempotent_history_stores_an_id_once(memory: IsolatedMemory, door: Door):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    history = scoped.chat_history("monday", idempotent=True)

    await door(history, "add_messages", with_ids("1", "2"))
    await door(history, "add_messages", with_ids("1", "3", "3", "1"))
    await door(history, "add_messages", with_ids("1", "2", "3"))
    await door(history, "add_messages", with_ids("4", "1", "5"))

    assert texts(await door(history, "messages")) == ["1", "2", "3", "4", "5"]
    assert await door(history, "count") == 5


async def test_an_idempotent_history_stores_what_an_id_says_once(
    memory: IsolatedMemory, door: Door
):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    history = scoped.chat_history("monday", idempotent=True)
    said = [AIMessage("one", id="1"), AIMessage("two", id="1")]
    counted = AIMessage([{"type": "text", "text": "two"}], id="1", response_metadata={"ms": 7})

    for _ in range(2):
        await door(history, "add_messages", said)
        await door(history, "add_messages", [counted, said[1]])
    await door(history, "add_messages", [call := AIMessage("two", id="1", tool_calls=[CALL])])
    await door(history, "add_messages", [call, said[0]])

    found = await door(history, "messages")
    assert texts(found) == ["one", "two", "two"]
    assert found[0].id == "1"
    assert len({message.id for message in found}) == 3
    scoped.verify()


@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from(["1", "2", None]), st.sampled_from("ab")), max_size=4),
        max_size=4,
    )
)
@settings(max_examples=40, deadline=None)
def test_an_idempotent_history_has_each_id_with_each_text_once_and_what_has_no_id_always(
    lasting: IsolatedMemory, batches: list[list[tuple[str | None, str]]]
):
    history = newcomer(lasting).chat_history("monday", idempotent=True)

    for batch in batches:
        history.add_messages([HumanMessage(text, id=id_) for id_, text in batch])

    said = [pair for batch in batches for pair in batch]
    first = [pair for n, pair in enumerate(said) if pair[0] is None or pair not in said[:n]]
    assert texts(history.messages) == [text for _, text in first]


async def test_messages_come_with_when_and_where_they_were_said(
    history: IsolatedChatMessageHistory, door: Door
):
    before = datetime.now(UTC)
    await door(history, "add_messages", numbered(2), channel="general")
    await door(history, "add_messages", numbered(1, 2))
    after = datetime.now(UTC)

    said = await door(history, "timed")

    assert [(line.number, line.message.content, line.channel) for line in said] == [
        (1, "0", "general"), (2, "1", "general"), (3, "2", None),
    ]  # fmt: skip
    assert before <= said[0].said_at == said[1].said_at < said[2].said_at <= after
    assert await door(history, "timed", 2) == said[1:]
    assert await door(history, "timed", 0) == []
    with pytest.raises(ValueError):
        await door(history, "timed", -1)


async def test_messages_without_id_are_stored_each_time(memory: IsolatedMemory, door: Door):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    history = scoped.chat_history("monday", idempotent=True)

    for _ in range(2):
        await door(history, "add_messages", [HumanMessage("same"), HumanMessage("same", id="")])

    assert texts(await door(history, "messages")) == ["same"] * 4


async def test_both_ways_can_be_mixed_on_one_session(memory: IsolatedMemory, door: Door):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    plain = scoped.chat_history("monday")
    once = scoped.chat_history("monday", idempotent=True)

    await door(plain, "add_messages", with_ids("1", "1"))
    await door(once, "add_messages", with_ids("1", "2"))
    await door(plain, "add_messages", with_ids("2", "3"))
    await door(once, "add_messages", with_ids("3", "2", "1", "4"))

    assert texts(await door(once, "messages")) == ["1", "1", "2", "2", "3", "4"]


async def test_an_id_is_known_to_its_own_session_only_and_forgotten_with_it(
    memory: IsolatedMemory, door: Door
):
    scoped = memory.scope(user_id="alice", module_id="tutor")
    for session_id in ("monday", "tuesday"):
        history = scoped.chat_history(session_id, idempotent=True)
        await door(history, "add_messages", with_ids("1"))
        assert await door(history, "count") == 1
        await door(history, "clear")
        await door(history, "add_messages", with_ids("1"))
        assert await door(history, "count") == 1
        await door(scoped.sessions, "delete", session_id)
        await door(history, "add_messages", with_ids("1"))
        assert await door(history, "count") == 1


@pytest.mark.parametrize("idempotent", [True, False])
def test_the_same_id_added_by_many_at_once_is_stored_once_or_each_time(
    memory: IsolatedMemory, idempotent: bool
):
    def add(number: int) -> None:
        history = memory.scope(user_id="alice", module_id="tutor").chat_history(
            "monday", idempotent=idempotent
        )
        if number % 2:
            assert len(history.messages) >= 0
        history.add_messages([*with_ids("same"), HumanMessage(f"own {number}", id=f"id-{number}")])

    with ThreadPoolExecutor(16) as threads:
        list(threads.map(add, range(40)))

    read = texts(memory.scope(user_id="alice", module_id="tutor").chat_history("monday").messages)
    assert read.count("same") == (1 if idempotent else 40)
    assert sorted(set(read) - {"same"}) == sorted(f"own {number}" for number in range(40))


# --- a BaseChatMessageHistory ---------------------------------------------------------------------


def test_it_is_a_chat_message_history_of_langchain(history: IsolatedChatMessageHistory):
    assert isinstance(history, BaseChatMessageHistory)


def test_deriving_from_it_does_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")

        class Ours(IsolatedChatMessageHistory):
            pass

    assert issubclass(Ours, BaseChatMessageHistory)
    assert not inspect.isabstract(Ours)


async def test_its_text_is_the_conversation_and_its_repr_names_no_one(
    history: IsolatedChatMessageHistory,
):
    said = [HumanMessage("Hello"), AIMessage("Hi")]
    await history.aadd_messages(said)

    assert str(history) == get_buffer_string(said) == "Human: Hello\nAI: Hi"
    for name in ("monday", "alice", "tutor", "Hello"):
        assert name not in repr(history)


@pytest.mark.parametrize("removal", ["ImportError", "AttributeError"])
def test_it_works_where_langchain_no_longer_has_the_base_class(sqlite_url: str, removal: str):
    """In langchain-core 2.0 the module, or the class in it, will be gone."""
    program = f"""
        import sys, types
        if {removal!r} == "ImportError":
            sys.modules["langchain_core.chat_history"] = None
        else:
            sys.modules["langchain_core.chat_history"] = types.ModuleType("chat_history")
        import asyncio
        from langchain_core.messages import AIMessage, HumanMessage
        from langmem_isolated import IsolatedChatMessageHistory, IsolatedMemory, LocalRootKey

        assert IsolatedChatMessageHistory.__mro__[1:] == (object,)
        with IsolatedMemory({sqlite_url!r}, root_key=LocalRootKey(bytes(32))) as memory:
            history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
            history.add_messages([HumanMessage("one")])
            history.add_user_message("two")
            history.add_ai_message("three")
            history.add_message(AIMessage("four"))
            asyncio.run(history.aadd_messages([HumanMessage("five")]))
            asyncio.run(history.aadd_message(HumanMessage("six")))
            read = asyncio.run(history.aget_messages())
            assert [m.content for m in read] == ["one", "two", "three", "four", "five", "six"]
            assert read == history.messages and history.last(1) == read[-1:]
            assert str(history).startswith("Human: one")
            history.clear()
            assert history.messages == []
    """
    subprocess.run([sys.executable, "-W", "error", "-c", textwrap.dedent(program)], check=True)


async def test_a_call_that_is_cancelled_does_not_disturb_the_next(
    history: IsolatedChatMessageHistory,
):
    await history.aadd_messages(numbered(1))
    for _ in range(20):
        task = asyncio.create_task(history.aget_messages())
        await asyncio.sleep(0)
        task.cancel()
        assert texts(await history.aget_messages()) == ["0"]


async def test_what_is_no_message_is_refused_and_nothing_is_stored(
    history: IsolatedChatMessageHistory, door: Door
):
    for wrong in ("text", [None], [HumanMessage("good"), {"role": "user", "content": "bad"}]):
        with pytest.raises(ValueNotStorable):
            await door(history, "add_messages", wrong)

    assert await door(history, "messages") == []


def test_messages_of_a_generator_are_stored_also_where_the_session_is_ahead_of_the_clock(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    """They are encoded twice then, for their time follows the session's."""
    scope = memory.scope(user_id="alice", module_id="m")
    scope.chat_history("s").add_messages([HumanMessage("first")])
    behind = clock.now() - 300_000
    monkeypatch.setattr(appending, "now", lambda: behind)

    scope.chat_history("s").add_messages(HumanMessage(text) for text in ("second", "third"))  # type: ignore[arg-type]

    assert [message.text for message in scope.chat_history("s").messages] == [
        "first",
        "second",
        "third",
    ]
