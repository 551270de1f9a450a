"""The AG-UI example over HTTP: one graph for everybody, and each run's memory is its user's."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from examples.ag_ui import application
from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.servers.models import Echo
from tests.servers.uvicorn_thread import served

# The adapter asks LangGraph for schemas by names that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*jsonschema. is deprecated")

USERS = ("alice", "bob")


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def url(memory: IsolatedMemory) -> Iterator[str]:
    with served(application(memory, Echo())) as url:
        yield url


def asking(*said: str, thread: str = "1", ids: tuple[str, ...] = (), **more: Any) -> dict[str, Any]:
    """What a client of AG-UI sends."""
    ids = ids or tuple(str(uuid4()) for _ in said)
    messages = [
        {"id": id_, "role": "user", "content": text} for id_, text in zip(ids, said, strict=True)
    ]
    empty: dict[str, Any] = {"state": {}, "tools": [], "context": [], "forwardedProps": {}}
    return {"threadId": thread, "runId": str(uuid4()), "messages": messages, **empty, **more}


async def events_of(url: str, user: str, asked: dict[str, Any]) -> list[dict[str, Any]]:
    headers = {"authorization": f"Bearer token of {user}"}
    async with (
        httpx.AsyncClient(headers=headers, timeout=30) as client,
        client.stream("POST", url, json=asked) as response,
    ):
        assert response.status_code == 200
        return [
            json.loads(line.removeprefix("data: ")) async for line in response.aiter_lines() if line
        ]


def answer_in(events: list[dict[str, Any]]) -> str:
    parts = [event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT"]
    assert "RUN_ERROR" not in [event["type"] for event in events], events
    return "".join(parts).strip()


async def test_interleaved_runs_of_one_thread_id_stay_with_their_users(
    url: str, memory: IsolatedMemory
):
    for number in range(3):
        asked = [asking(f"{user} {number}") for user in USERS]
        streams = await asyncio.gather(*map(events_of, [url] * 2, USERS, asked))
        for user, other, events in zip(USERS, reversed(USERS), streams, strict=True):
            so_far = ", ".join(f"{user} {n}" for n in range(number + 1))
            assert answer_in(events) == f"You said: {so_far}"
            assert other not in str(events)

    for user, other in zip(USERS, reversed(USERS), strict=True):
        scope = memory.scope(user_id=user, module_id="chat")
        assert [thread.id for thread in scope.checkpointer().threads()] == ["1"]
        recorded = [message.text for message in scope.chat_history("1").messages]
        assert len(recorded) == 6
        assert other not in str(recorded)


async def test_a_message_that_is_edited_goes_back_in_its_users_thread(url: str):
    for user in USERS:
        await events_of(url, user, asking(f"{user} first", ids=("1",)))
        await events_of(url, user, asking(f"{user} second", ids=("2",)))

    for user in USERS:
        events = await events_of(url, user, asking(f"{user} changed", ids=("1",)))
        assert answer_in(events) == f"You said: {user} changed"


@pytest.mark.parametrize("token", ["", "Bearer token of mallory", "alice"])
def test_who_is_not_authenticated_gets_401(url: str, memory: IsolatedMemory, token: str):
    answer = httpx.post(url, json=asking("hello"), headers={"authorization": token})

    assert answer.status_code == 401
    assert memory.modules(user_id="alice") == []


ALICE = {"user_id": "alice", "module_id": "chat"}


@pytest.mark.parametrize(
    "forged",
    [
        {"forwardedProps": {"configurable": ALICE, "config": {"configurable": ALICE}, **ALICE}},
        {"state": {"configurable": ALICE, **ALICE}},
        {"context": [{"description": "user_id", "value": "alice"}]},
        {"userId": "alice", "config": {"configurable": ALICE}, **ALICE},
    ],
)
async def test_a_client_that_names_another_user_gets_nothing_of_theirs(
    url: str, memory: IsolatedMemory, forged: dict[str, Any]
):
    await events_of(url, "alice", asking("my secret"))

    events = await events_of(url, "bob", asking("bob asks", **forged))

    assert answer_in(events) == "You said: bob asks"
    assert "secret" not in str(events)
    alices = memory.scope(user_id="alice", module_id="chat").chat_history("1").messages
    assert [message.text.strip() for message in alices] == ["my secret", "You said: my secret"]
