"""The examples, driven by the kit that applications have: no user of theirs meets another."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from starlette.testclient import TestClient

from examples import ag_ui, anonymous_chat, fastapi_chat
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.testing import (
    EchoChatModel,
    LeakFound,
    Request,
    assert_isolated,
    assert_nothing_readable,
)
from tests.test_websocket_example import chat_room

# The adapter of AG-UI asks LangGraph for schemas by names that are deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*jsonschema. is deprecated")

USERS = ("alice", "bob")


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


def token(user: str) -> dict[str, str]:
    return {"authorization": f"Bearer token of {user}"}


def say(user: str, session: str, text: str) -> Request:
    return Request("POST", f"/threads/{session}", json=text, headers=token(user))


def read(user: str, session: str) -> Request:
    return Request("GET", f"/threads/{session}", headers=token(user))


def run(user: str, session: str, text: str) -> Request:
    message = {"id": str(uuid4()), "role": "user", "content": text}
    empty: dict[str, Any] = {"state": {}, "tools": [], "context": [], "forwardedProps": {}}
    asked = {"threadId": session, "runId": str(uuid4()), "messages": [message], **empty}
    return Request("POST", "/", json=asked, headers=token(user))


def log_in_and_say(user: str, _: str, text: str) -> list[Request]:
    who = {"name": user, "password": anonymous_chat.PASSWORDS[user]}
    return [Request("POST", "/login", json=who), Request("POST", "/chat", json={"text": text})]


def say_as_guest(_: str, __: str, text: str) -> Request:
    return Request("POST", "/chat", json={"text": text})


def read_chat(_: str, __: str) -> Request:
    return Request("GET", "/chat")


class Example(NamedTuple):
    application: Callable[..., Any]
    request: Callable[..., Any]
    state: Callable[..., Any] | None = None
    users: dict[str, str] | None = None
    """Where the example knows who is who; written over, it lets all in as one."""


EXAMPLES = {
    "fastapi_chat": Example(fastapi_chat.application, say, read, fastapi_chat.USERS),
    "ag_ui": Example(ag_ui.application, run, None, ag_ui.USERS),
    "anonymous_chat, logged in": Example(anonymous_chat.application, log_in_and_say, read_chat),
    "anonymous_chat, guests": Example(anonymous_chat.application, say_as_guest, read_chat),
}


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_no_user_of_an_example_meets_another(
    example: Example, memory: IsolatedMemory, tmp_path: Path
):
    app = example.application(memory, EchoChatModel())

    report = assert_isolated(app, request=example.request, state=example.state, users=USERS)

    assert report.succeeded["request"] > 10
    assert set(report.errors) <= {"EchoFailed", "Refused", "ExceptionGroup"}
    memory.close()
    assert_nothing_readable(tmp_path, canaries=report.canaries)


@pytest.mark.parametrize("name", ["fastapi_chat", "ag_ui"])
def test_an_example_that_takes_all_for_one_is_found(
    name: str, memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    example = EXAMPLES[name]
    assert example.users
    for header in example.users:
        monkeypatch.setitem(example.users, header, "alice")

    with pytest.raises(LeakFound) as caught:
        assert_isolated(
            example.application(memory, EchoChatModel()), request=example.request, users=USERS
        )

    assert any("response body" in one.where for one in caught.value.sightings)


def test_no_user_of_the_chat_room_meets_another(memory: IsolatedMemory):
    """WebSockets, by a function: what the kit does not speak, a client of the test does."""

    def talk(user: str, session: str, text: str) -> list[str]:
        headers = {"authorization": f"token of {user}"}
        heard = []
        with client.websocket_connect(f"/rooms/{session}", headers=headers) as socket:
            socket.send_text(text)
            while (said := socket.receive_text()) != "stored":
                heard.append(said)
        return heard

    with TestClient(chat_room(memory)) as client:
        report = assert_isolated(talk, users=USERS)

    assert report.succeeded["call"] > 10
    assert report.errors == {}


def test_what_a_request_sends_is_json():
    assert json.loads(say("alice", "1", "Hi").content) == "Hi"
