"""The examples, driven by the kit that applications have: no user of theirs meets another."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from examples import ag_ui, anonymous_chat
from examples.fastapi_sse import app as fastapi_sse
from examples.logins.accounts import Accounts
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


def with_accounts(memory: IsolatedMemory, model: EchoChatModel, *, all_are: str = "") -> FastAPI:
    """The FastAPI example with everybody logged in: a token is the user's name, to be short.

    Args:
        memory: Where everything is kept.
        model: Who answers.
        all_are: Who everybody is taken for, in place of who they are.
    """

    class Known(Accounts):
        def user_of(self, token: str | None) -> str | None:
            return (all_are or token) if token in USERS else None

    return fastapi_sse.application(memory, model, Known(":memory:"))


def say(user: str, session: str, text: str) -> Request:
    cookie = {"cookie": f"session={user}"}
    return Request("POST", f"/conversations/{session}", json={"text": text}, headers=cookie)


def read(user: str, session: str) -> Request:
    return Request("GET", f"/conversations/{session}", headers={"cookie": f"session={user}"})


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
    "fastapi_sse": Example(with_accounts, say, read),
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


def test_an_example_that_takes_all_for_one_is_found(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    example = EXAMPLES["ag_ui"]
    assert example.users
    for header in example.users:
        monkeypatch.setitem(example.users, header, "alice")

    with pytest.raises(LeakFound) as caught:
        assert_isolated(
            example.application(memory, EchoChatModel()), request=example.request, users=USERS
        )

    assert any("response body" in one.where for one in caught.value.sightings)


def test_accounts_that_take_all_for_one_are_found(memory: IsolatedMemory):
    with pytest.raises(LeakFound):
        assert_isolated(
            with_accounts(memory, EchoChatModel(), all_are="alice"),
            request=say,
            state=read,
            users=USERS,
        )


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
    assert json.loads(say("alice", "1", "Hi").content) == {"text": "Hi"}
