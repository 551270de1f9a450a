"""How the kit drives an application: what runs meet, what is seen, and what is refused."""

import asyncio
import logging
import operator
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypedDict

import pytest
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from pydantic import BaseModel

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.errors import IsolationViolation
from langmem_isolated.testing import (
    FAILURE,
    Canary,
    EchoChatModel,
    LeakFound,
    NothingSeen,
    Request,
    aassert_isolated,
    assert_isolated,
)
from langmem_isolated.testing.sightings import Eye, Turn, Watch
from langmem_isolated.testing.visible import texts_in
from tests.leaky_applications import LEAKS, isolated_thread

MODEL = EchoChatModel()


def echo(user: str, session: str, text: str) -> str:
    return MODEL.invoke(text).text


async def aecho(user: str, session: str, text: str) -> str:
    return (await MODEL.ainvoke(text)).text


# What meets.


def test_all_users_are_in_the_application_at_once_in_threads_of_their_own():
    inside: Counter[str] = Counter()
    together, threads = set(), set()

    def app(user: str, session: str, text: str) -> str:
        inside[user] += 1
        threads.add(threading.current_thread().name)
        reply = echo(user, session, text)
        together.add(frozenset(one for one, times in inside.items() if times))
        inside[user] -= 1
        return reply

    report = assert_isolated(app)

    assert max(map(len, together)) == 5
    assert {f"user {number}" for number in range(5)} <= threads
    assert report.succeeded.keys() == {"call", "asyncio.to_thread"}


def test_a_thread_meets_one_user_after_another():
    met: dict[str, set[str]] = {}

    def app(user: str, session: str, text: str) -> str:
        met.setdefault(threading.current_thread().name, set()).add(user)
        return echo(user, session, text)

    assert_isolated(app)

    assert all(len(met[f"user {number}"]) > 2 for number in range(5))


def test_runs_are_cancelled_in_the_midst_and_made_again():
    began: Counter[str] = Counter()
    ended: Counter[str] = Counter()

    async def app(user: str, session: str, text: str) -> str:
        began[text] += 1
        # Longer than until the cancellation: timers end in their order on any machine.
        await asyncio.sleep(0.02)
        reply = await aecho(user, session, text)
        ended[text] += 1
        return reply

    assert_isolated(app)

    assert [text for text in began if began[text] > ended[text] and not ended[text]]
    assert [text for text in began if began[text] > ended[text] > 0]


def test_all_users_ask_the_same_and_send_the_same_ids_of_sessions():
    said: dict[str, set[str]] = {}
    sessions: dict[str, set[str]] = {}

    def app(user: str, session: str, text: str) -> str:
        said.setdefault(user, set()).add(text)
        sessions.setdefault(user, set()).add(session)
        return echo(user, session, text)

    assert_isolated(app, sessions=("monday", "tuesday"))

    assert len(set.intersection(*said.values())) == 1
    assert all(ids == {"monday", "tuesday"} for ids in sessions.values())
    assert all([text for text in texts if FAILURE in text] for texts in said.values())


def test_two_runs_say_the_same_in_the_same_order():
    def said() -> list[tuple[str, ...]]:
        calls: list[tuple[str, ...]] = []

        async def app(user: str, session: str, text: str) -> str:
            calls.append((user, session, text))
            return await aecho(user, session, text)

        assert_isolated(app, users=2)
        return calls[:20]

    assert said() == said()


# Where canaries are looked for.


class Answer(BaseModel):
    text: str


@dataclass
class Reply:
    text: str


class Pair(NamedTuple):
    text: str
    number: int


class Opaque:
    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return f"Opaque({self.text})"


def chained(text: str) -> Exception:
    try:
        try:
            int(text)
        except ValueError as error:
            raise RuntimeError("failed") from error
    except RuntimeError as error:
        return error


def noted(text: str) -> Exception:
    error = ValueError("failed")
    error.add_note(text)
    return error


SHOWN = {
    "a key": lambda text: {text: 1},
    "below a key": lambda text: {text: {"said": text}},
    "a nested value": lambda text: {"a": [{"b": (1, {text})}]},
    "bytes": lambda text: text.encode(),
    "a model": lambda text: Answer(text=text),
    "a dataclass": Reply,
    "a named tuple": lambda text: Pair(text, 1),
    "a tool call": lambda text: AIMessage(
        "", tool_calls=[{"name": "a", "args": {"q": text}, "id": "1"}]
    ),
    "a tool's artifact": lambda text: ToolMessage("", artifact=[text], tool_call_id="1"),
    "what it prints as": Opaque,
    "an error's cause": chained,
    "an error's note": noted,
    "errors of a group": lambda text: ExceptionGroup("some", [ValueError(text)]),
}


@pytest.mark.parametrize("shown", SHOWN.values(), ids=SHOWN)
def test_a_canary_is_seen_in(shown: Any):
    watch = Watch()
    text = watch.hand_out(Canary.of("alice, message 1"), "alice")
    turn = Turn(2, "bob", "1", "", "call", "at once")

    with Eye(watch, turn) as eye:
        eye.sees("reply", shown(text))

    assert {one.owner for one in watch.sightings} == {"alice"}
    assert text not in str(watch.sightings)


def test_a_value_that_holds_itself_or_raises_where_it_is_shown_is_looked_through_once():
    class Unseen:
        def __repr__(self) -> str:
            raise RuntimeError

    ring: list[Any] = [Unseen()]
    ring.append(ring)

    assert [text for _, text in texts_in([ring, "end"])] == ["", "end"]


@pytest.mark.parametrize("way", ["info", "print", "error", "propagate", "misfit"])
def test_what_is_logged_or_printed_is_found_with_its_run(
    way: str, capsys: pytest.CaptureFixture[str]
):
    logger = logging.getLogger("kit.silent")
    logger.propagate = False

    async def app(user: str, session: str, text: str) -> str:
        if way == "print":
            print(text)
        elif way == "info":
            logging.getLogger("kit").info("%s", text)
        elif way == "misfit":
            logging.getLogger("kit").info(text, 1)
        elif way == "propagate":
            logger.warning(text)
        else:
            try:
                int(text)
            except ValueError:
                logging.getLogger("kit").exception("failed")
        return await aecho(user, session, text)

    with pytest.raises(LeakFound) as caught:
        assert_isolated(app, users=2)

    first = caught.value.sightings[0]
    assert first.seer == "the log"
    assert first.owner == "alice"
    assert first.run.startswith("run 1: alice")
    assert ("standard output" in first.where) == (way == "print")


def test_logs_are_left_alone_where_they_are_not_asked_for():
    def app(user: str, session: str, text: str) -> str:
        logging.getLogger("kit").info("%s", text)
        return echo(user, session, text)

    assert assert_isolated(app, users=2, log_level=None).runs
    assert assert_isolated(app, users=2, log_level=logging.WARNING).runs


def test_logging_and_output_are_as_they_were_behind_it():
    before = (logging.getLogRecordFactory(), logging.getLogger().level, sys.stdout, sys.stderr)

    assert_isolated(echo, users=2)

    after = (logging.getLogRecordFactory(), logging.getLogger().level, sys.stdout, sys.stderr)
    assert after == before


def test_a_state_that_the_test_shows_is_looked_at():
    last = [""]

    def app(user: str, session: str, text: str) -> str:
        last[0] = text
        return echo(user, session, text)

    with pytest.raises(LeakFound) as caught:
        assert_isolated(app, users=2, state=lambda *_: {"last": last[0]})

    assert {one.where for one in caught.value.sightings} == {"state (last)"}


def test_a_graphs_state_is_looked_at_where_no_reply_shows_it():
    class Said(TypedDict):
        text: str
        reply: str
        heard: Annotated[list[str], operator.add]

    class Replied(TypedDict):
        reply: str

    def answer(state: Said) -> dict[str, Any]:
        return {"heard": [state["text"]], "reply": echo("", "", state["text"])}

    builder = StateGraph(Said, output_schema=Replied).add_node("answer", answer)
    graph = builder.add_edge(START, "answer").compile(checkpointer=InMemorySaver())

    with pytest.raises(LeakFound) as caught:
        assert_isolated(graph, users=2, input=lambda text: {"text": text})

    seen = {one.where for one in caught.value.sightings}
    assert "state (values.heard[])" in seen
    assert not any(where.startswith("reply") for where in seen)


# What is refused.


def test_an_application_that_says_nothing_again_is_no_test():
    with pytest.raises(NothingSeen, match="alice, bob never saw") as caught:
        assert_isolated(lambda *_: "noted", users=2)

    assert caught.value.users == ["alice", "bob"]
    assert assert_isolated(lambda *_: "noted", users=2, echoes=False).runs


def test_an_application_that_fails_in_every_run_is_no_test_and_the_error_is_its_cause(
    sqlite_url: str, root_key: LocalRootKey
):
    memory = IsolatedMemory(sqlite_url, root_key=root_key)

    def of_another(user: str) -> Any:
        return memory.scope(user_id="carol", module_id="chat").bind(isolated_thread(memory))

    def named(user: str, session: str) -> Any:
        return {"configurable": {"thread_id": session, "user_id": user, "module_id": "chat"}}

    with pytest.raises(NothingSeen, match="IsolationViolation") as caught:
        assert_isolated(of_another, users=2, config=named)

    assert isinstance(caught.value.__cause__, IsolationViolation)
    memory.close()


def test_an_application_that_hangs_is_told_with_its_run():
    answered: list[str] = []

    async def app(user: str, session: str, text: str) -> None:
        await asyncio.sleep(60)
        answered.append(text)

    with pytest.raises(TimeoutError, match='run 1: alice in session "1", by await'):
        assert_isolated(app, users=2, seconds_each=0.05)
    assert not answered


@pytest.mark.parametrize("error", [TimeoutError, asyncio.CancelledError])
def test_a_time_limit_or_a_cancelled_task_of_the_applications_own_is_an_error_of_it(error: Any):
    async def app(user: str, session: str, text: str) -> str:
        if FAILURE in text:
            raise error
        return await aecho(user, session, text)

    assert error.__name__ in assert_isolated(app, users=2).errors


REFUSED: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (7, {}, TypeError, "got int"),
    (echo, {"users": 1}, ValueError, "sees nobody"),
    (echo, {"users": 9}, ValueError, "2 to 8"),
    (echo, {"users": ["alice", "alice"]}, ValueError, "different names"),
    (echo, {"users": "alice"}, TypeError, "one or more texts"),
    (echo, {"sessions": []}, TypeError, "one or more texts"),
    (echo, {"rounds": 0}, ValueError, "rounds"),
    (echo, {"seconds_each": 0}, ValueError, "seconds_each"),
    (echo, {"config": "alice"}, TypeError, "config must be a function"),
    (echo, {"config": lambda *_: {}}, TypeError, "belong to graphs"),
    (echo, {"request": lambda *_: "/", "options": lambda *_: {}}, TypeError, "ASGI"),
]


@pytest.mark.parametrize(("app", "options", "error", "told"), REFUSED)
def test_an_argument_that_does_not_fit_is_told_before_anything_runs(
    app: Any, options: dict[str, Any], error: type[Exception], told: str
):
    with pytest.raises(error, match=told):
        assert_isolated(app, **options)


def test_an_asgi_application_without_requests_is_told_to_give_them():
    async def server(scope: Any, receive: Any, send: Any) -> None:
        raise AssertionError("it was called as a function")

    with pytest.raises(TypeError, match=r"This is an ASGI application\. Give request="):
        assert_isolated(server)


# Loops, streams and servers.


async def test_inside_a_running_loop_the_application_is_driven_in_it():
    loops = set()

    async def app(user: str, session: str, text: str) -> str:
        loops.add(asyncio.get_running_loop())
        return await aecho(user, session, text)

    await aassert_isolated(app, users=2)
    assert loops == {asyncio.get_running_loop()}
    assert_isolated(app, users=2)
    assert len(loops) == 2


class Streaming:
    """An object that is called, as applications are that have settings."""

    async def __call__(self, *said: str) -> AsyncIterator[str]:
        text = said[-1]
        async for chunk in MODEL.astream(text):
            yield chunk.text


@pytest.mark.parametrize("given", [aecho, Streaming()])
def test_a_function_that_gives_a_coroutine_or_a_stream_is_awaited(given: Any):
    def app(user: str, session: str, text: str) -> Any:
        return given(user, session, text)

    report = assert_isolated(app, users=2)

    assert report.succeeded.keys() == {"call", "asyncio.to_thread"}


def test_more_rounds_make_more_runs():
    once, twice = (assert_isolated(echo, users=2, rounds=rounds) for rounds in (1, 2))

    # Not twice as many to the unit: which of them are cut off before they end is the machine's.
    assert twice.runs - twice.cancelled > 1.5 * (once.runs - once.cancelled)


def test_an_object_that_streams_is_driven_in_tasks():
    assert assert_isolated(Streaming(), users=2).succeeded.keys() == {"await"}


def with_lifespan() -> tuple[Any, list[str]]:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := (await receive())["type"]) != "lifespan.shutdown":
                told.append(message)
                await send({"type": f"{message}.complete"})
            told.append(message)
            await send({"type": f"{message}.complete"})
            return
        body = (await receive())["body"]
        headers = dict(scope["headers"])
        cookie = headers.get(b"cookie", b"")
        user = headers[b"x-user"]
        told.append(f"{user.decode()} {cookie.decode()}")
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"set-cookie", b"last=" + user + b"; Path=/; HttpOnly")],
            }
        )
        for part in (body[:20], body[20:]):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        watching = asyncio.create_task(receive())
        await asyncio.sleep(0.001)
        if watching.done():
            told.append(watching.result()["type"])
        watching.cancel()
        await send({"type": "http.response.body", "body": b""})

    return app, told


def said(user: str, session: str, text: str) -> Request:
    return Request("POST", "/say", json=text, headers={"X-User": user}, query={"s": session})


def test_a_server_is_started_asked_by_browsers_with_cookies_hung_up_on_and_stopped():
    app, told = with_lifespan()

    report = assert_isolated(app, request=said, users=2)

    assert told[0] == "lifespan.startup"
    assert told[-1] == "lifespan.shutdown"
    assert {"alice ", "alice last=alice", "bob ", "bob last=bob"} <= set(told)
    assert "alice last=bob" not in told
    assert "http.disconnect" in told
    assert report.succeeded.keys() == {"request", "request cut off"}


@pytest.mark.parametrize(
    "wrong", [{"path": "chat"}, {"path": "/chat?page=1"}, {"path": "/", "json": 1, "body": b"1"}]
)
def test_a_request_of_another_shape_is_refused(wrong: dict[str, Any]):
    with pytest.raises(ValueError, match=r"path must begin|one body"):
        Request("POST", **wrong)


def test_a_request_builder_that_gives_something_else_is_told():
    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise NotImplementedError

    with pytest.raises(NothingSeen) as caught:
        assert_isolated(app, request=lambda *_: ["/say"], users=2)

    assert "must give a Request or several, got str" in str(caught.value.__cause__)


def test_a_status_that_says_no_is_an_error_and_its_body_is_seen():
    last = [b""]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        body = (await receive())["body"]
        await send({"type": "http.response.start", "status": 500, "headers": []})
        await send({"type": "http.response.body", "body": last[0]})
        last[0] = body

    with pytest.raises(LeakFound) as caught:
        assert_isolated(app, request=said, users=2)

    assert caught.value.sightings[0].where == "response body"


def test_the_list_of_planted_leaks_has_ten_kinds_and_more():
    assert len(LEAKS) > 15
