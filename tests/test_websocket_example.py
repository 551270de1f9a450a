"""A chat room over WebSockets: what no agent produced is remembered, and users never meet.

The application below is the example; the tests are its users.
"""

from collections.abc import Iterator
from typing import Annotated

import pytest
from fastapi import Depends, FastAPI, WebSocket, WebSocketDisconnect, WebSocketException, status
from langchain_core.messages import AIMessage, HumanMessage
from starlette.testclient import TestClient

from langmem_isolated import IsolatedMemory, ScopedMemory

TOKENS = {"token of alice": "alice", "token of bob": "bob"}


def chat_room(memory: IsolatedMemory) -> FastAPI:
    app = FastAPI()

    def scope_of(websocket: WebSocket) -> ScopedMemory:
        """Who connects, as the server knows it; nothing that a client says names a user."""
        user_id = TOKENS.get(websocket.headers.get("authorization", ""))
        if user_id is None:
            raise WebSocketException(status.WS_1008_POLICY_VIOLATION)
        return memory.scope(user_id=user_id, module_id="chat-room")

    @app.websocket("/rooms/{room}")
    async def talk(
        websocket: WebSocket, room: str, scope: Annotated[ScopedMemory, Depends(scope_of)]
    ) -> None:
        await websocket.accept()
        history = scope.chat_history(room, channel="general")
        for message in await scope.arecent({"general": 10, "ai": 5}):
            await websocket.send_text(message.text)
        try:
            while True:
                text = await websocket.receive_text()
                await history.aadd_messages([HumanMessage(text)])
                if text.startswith("@bot"):
                    answer = AIMessage(f"You called: {text.removeprefix('@bot ')}")
                    await history.aadd_messages([answer], channel="ai")
                await websocket.send_text("stored")
        except WebSocketDisconnect:
            pass

    return app


@pytest.fixture
def client(memory: IsolatedMemory) -> Iterator[TestClient]:
    with TestClient(chat_room(memory)) as client:
        yield client


def headers(user: str) -> dict[str, str]:
    return {"authorization": f"token of {user}"}


def say(client: TestClient, user: str, room: str, *said: str, greeted_with: int = 0) -> list[str]:
    """What the server sent when the user came in."""
    with client.websocket_connect(f"/rooms/{room}", headers=headers(user)) as socket:
        greeting = [socket.receive_text() for _ in range(greeted_with)]
        for text in said:
            socket.send_text(text)
            assert socket.receive_text() == "stored"
    return greeting


def test_what_users_say_in_a_room_is_there_when_they_come_back(client: TestClient):
    say(client, "alice", "lobby", "hello", "@bot what is new?")

    assert say(client, "alice", "kitchen", greeted_with=3) == [
        "hello",
        "@bot what is new?",
        "You called: what is new?",
    ]


def test_two_users_in_rooms_of_one_name_never_meet(client: TestClient, memory: IsolatedMemory):
    with (
        client.websocket_connect("/rooms/lobby", headers=headers("alice")) as alice,
        client.websocket_connect("/rooms/lobby", headers=headers("bob")) as bob,
    ):
        for number in range(20):
            for socket, user in ((alice, "alice"), (bob, "bob")):
                socket.send_text(f"{user} {number}")
            assert [alice.receive_text(), bob.receive_text()] == ["stored", "stored"]

    for user in ("alice", "bob"):
        scope = memory.scope(user_id=user, module_id="chat-room")
        said = [message.text for message in scope.chat_history("lobby").messages]
        assert said == [f"{user} {number}" for number in range(20)]
        assert say(client, user, "lobby", greeted_with=10) == said[10:]


@pytest.mark.parametrize("token", ["", "token of mallory", "alice"])
def test_who_is_not_known_is_not_let_in(client: TestClient, memory: IsolatedMemory, token: str):
    with pytest.raises(WebSocketDisconnect) as caught:
        client.websocket_connect("/rooms/lobby", headers={"authorization": token}).__enter__()

    assert caught.value.code == status.WS_1008_POLICY_VIOLATION
    assert memory.modules(user_id="mallory") == []
    assert memory.modules(user_id="alice") == []


def test_a_user_cannot_name_another_in_what_is_sent(client: TestClient, memory: IsolatedMemory):
    say(client, "bob", "lobby?user_id=alice&module_id=chat-room", '{"user_id": "alice"}')

    assert memory.scope(user_id="alice", module_id="chat-room").sessions() == []
