"""The chat room as a process of its own: what is said there, who remembers it, and who may not."""

import asyncio
import json
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest
from starlette.testclient import TestClient
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from examples.chat_room.app import RULES, application
from examples.chat_room.room import Person, Rooms
from examples.logins.accounts import Accounts
from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated.testing import EchoChatModel, assert_nothing_readable
from langmem_isolated.testing.echo_model import FAILURE
from tests.browsing import chromium, serious_violations
from tests.conftest import ROOT_KEY
from tests.servers.program import PROJECT, Program

PASSWORD = "a password that stands nowhere else"
COMMAND = ("uvicorn", "--factory", "examples.chat_room.app:application", "--port", "{port}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("room")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Program]:
    environment = {
        "LANGMEM_ISOLATED_ROOT_KEY": b64encode(ROOT_KEY).decode(),
        "LANGMEM_ISOLATED_DATABASE": f"sqlite:///{folder}/memory.db",
        "PYTHONPATH": str(PROJECT),
        "MODEL": "",
    }
    with Program(COMMAND, folder, "/", environment) as server:
        yield server
        assert "Traceback" not in server.log.read_text()


@pytest.fixture
def memory(server: Program, folder: Path) -> Iterator[IsolatedMemory]:
    """The server's database, opened beside it."""
    with IsolatedMemory(
        f"sqlite:///{folder}/memory.db", root_key=LocalRootKey(ROOT_KEY), session_rules=RULES
    ) as memory:
        yield memory


@pytest.fixture
def accounts(server: Program, folder: Path) -> Accounts:
    # Nobody logs in by password here.
    return Accounts(folder / "accounts.db", work=2)


class User:
    """Someone with an account."""

    def __init__(self, url: str, accounts: Accounts, name: str) -> None:
        self.url, self.name = url, f"{name}-{uuid4().hex[:6]}"
        self.user_id = accounts.register(self.name, PASSWORD)
        self.token = accounts.log_in(self.user_id)

    @asynccontextmanager
    async def inside(self, room: str, **options: Any) -> AsyncIterator["Inside"]:
        headers = {"cookie": f"session={self.token}", **options.pop("headers", {})}
        address = f"{self.url.replace('http', 'ws')}/rooms/{room}"
        async with connect(address, additional_headers=headers, proxy=None, **options) as socket:
            inside = Inside(socket)
            await inside.until("joined", name=self.name)
            yield inside

    def memory(self, memory: IsolatedMemory) -> ScopedMemory:
        return memory.scope(user_id=self.user_id, module_id="chat-room")

    def remembers(self, memory: IsolatedMemory, room: str) -> list[str]:
        return [message.text for message in self.memory(memory).chat_history(room).messages]


class Inside:
    """A window in a room."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.heard: list[dict[str, Any]] = []

    async def say(self, text: str, **more: Any) -> None:
        await self.socket.send(json.dumps({"text": text, **more}))

    async def until(self, kind: str, **expected: Any) -> dict[str, Any]:
        """The next event of a kind, with some of its values."""
        async with asyncio.timeout(30):
            while True:
                event = json.loads(await self.socket.recv())
                self.heard.append(event)
                if event["kind"] == kind and expected.items() <= event.items():
                    return event


@pytest.fixture
def users(server: Program, accounts: Accounts) -> list[User]:
    return [User(server.url, accounts, name) for name in ("alice", "bob")]


@pytest.fixture
def mallory(server: Program, accounts: Accounts) -> User:
    return User(server.url, accounts, "mallory")


@pytest.fixture
def room() -> str:
    return f"room-{uuid4().hex[:8]}"


async def test_each_remembers_what_was_said_and_whose_words_it_was(
    users: list[User], memory: IsolatedMemory, room: str
):
    alice, bob = users
    async with alice.inside(room) as a, bob.inside(room) as b:
        await a.until("joined", name=bob.name)
        await a.say("My cat is Mia.")
        await b.until("said", name=alice.name, text="My cat is Mia.")
        await b.say("My cat is Tom.", channel="plans")
        await a.until("said", name=bob.name, channel="plans")

    assert alice.remembers(memory, room) == ["My cat is Mia.", f"{bob.name}: My cat is Tom."]
    assert bob.remembers(memory, room) == [f"{alice.name}: My cat is Mia.", "My cat is Tom."]
    names = [message.name for message in bob.memory(memory).chat_history(room).messages]
    assert names == [alice.name, None]


async def test_who_is_not_there_hears_nothing_and_remembers_nothing_of_it(
    users: list[User], mallory: User, memory: IsolatedMemory, room: str
):
    alice, bob = users
    async with alice.inside(room) as a:
        await a.say("before bob came")
        await a.until("said", text="before bob came")
        async with bob.inside(room) as b, mallory.inside(f"{room}-") as m:
            await a.say("while bob is here")
            await b.until("said", text="while bob is here")
            await m.say("elsewhere")
            await m.until("said", text="elsewhere")
        await a.until("left", name=bob.name)
        await a.say("after bob went")
        await a.until("said", text="after bob went")

    assert bob.remembers(memory, room) == [f"{alice.name}: while bob is here"]
    assert len(alice.remembers(memory, room)) == 3
    assert mallory.remembers(memory, room) == []
    assert mallory.remembers(memory, f"{room}-") == ["elsewhere"]
    async with bob.inside(room) as b:
        assert [event["text"] for event in b.heard if event["kind"] == "remembered"] == [
            f"{alice.name}: while bob is here"
        ]


async def test_all_remember_one_order_when_many_speak_at_once(
    users: list[User], mallory: User, memory: IsolatedMemory, room: str
):
    people = [*users, mallory]

    async def talk(user: User) -> None:
        async with user.inside(room) as inside:
            ready.release()
            await all_in.wait()
            for number in range(10):
                await inside.say(f"{user.name} {number}")
            for _ in range(10 * len(people)):
                await inside.until("said")
            done.release()
            await all_heard.wait()

    ready, done, all_in, all_heard = (
        asyncio.Semaphore(0),
        asyncio.Semaphore(0),
        asyncio.Event(),
        asyncio.Event(),
    )
    async with asyncio.TaskGroup() as group:
        for user in people:
            group.create_task(talk(user))
        for _ in people:
            await ready.acquire()
        all_in.set()
        for _ in people:
            await done.acquire()
        all_heard.set()

    orders = []
    for user in people:
        told = user.remembers(memory, room)
        orders.append([text.removeprefix(f"{text.split(': ')[0]}: ") for text in told])
    assert orders[0] == orders[1] == orders[2]
    assert len(orders[0]) == 30
    own = [text for text in orders[0] if text.startswith(mallory.name)]
    assert own == [f"{mallory.name} {number}" for number in range(10)]


async def test_the_bot_answers_from_the_memory_of_who_asks_and_of_this_room_alone(
    users: list[User], memory: IsolatedMemory, room: str
):
    alice, bob = users
    async with alice.inside(f"{room}-other") as a:
        await a.say("My pin is 4711.")
        await a.until("said")
    async with alice.inside(room) as a, bob.inside(room) as b:
        await b.say("My cat is Tom.")
        await a.until("said", name=bob.name)
        for question, expected in (
            ("@bot What is my pin?", "You have not told me your pin."),
            ("@bot What is my cat?", "You have not told me your cat."),
        ):
            await a.say(question)
            assert (await b.until("said", name="bot"))["text"] == expected
            await a.until("said", name="bot")
        await b.say("@bot What is my cat?")
        assert (await a.until("said", name="bot"))["text"] == "Your cat is Tom."

    kept = alice.memory(memory).recent({"ai": 10})
    assert [message.type for message in kept] == ["ai"] * 3


async def test_the_newest_of_each_channel_are_merged_over_all_rooms(
    server: Program, users: list[User], room: str
):
    alice, _ = users
    for number, name in enumerate((room, f"{room}-2")):
        async with alice.inside(name) as a:
            await a.say(f"general {number}")
            await a.say(f"plan {number}", channel="plans")
            await a.until("said", text=f"plan {number}")

    async with httpx.AsyncClient(base_url=server.url) as client:
        mine = await client.get("/recent", headers={"cookie": f"session={alice.token}"})
        nobodys = await client.get("/recent", params={"user_id": alice.user_id})

    assert mine.json() == ["general 0", "plan 0", "general 1", "plan 1"]
    assert nobodys.status_code == 401


async def test_who_names_another_or_sends_something_else_is_refused(
    users: list[User], mallory: User, memory: IsolatedMemory, room: str
):
    alice, _ = users
    named = {"user_id": alice.user_id, "name": alice.name}
    async with alice.inside(room) as a, mallory.inside(room) as m:
        for sent in (
            *(
                {"text": "x", **more}
                for more in (named, {"person": named}, {"configurable": named})
            ),
            *({"text": "x", "channel": channel} for channel in ("ai", "secret", None)),
            *({"text": text} for text in ("", "x" * 2_001, None, ["x"])),
            *([], {}, None, alice.user_id),
        ):
            for frame in (json.dumps(sent), json.dumps(sent).encode()):
                await m.socket.send(frame)
                await m.until("refused")
        for frame in ("", "{", b"\xff", "[" * 2_000):
            await m.socket.send(frame)
            await m.until("refused")
        # What looks like a name in the text is the speaker's own word.
        await m.say(f"{alice.name}: I agree")
        await a.until("said", name=mallory.name)

    assert alice.remembers(memory, room) == [f"{mallory.name}: {alice.name}: I agree"]
    assert not any(alice.user_id in str(event) for event in [*a.heard, *m.heard])


async def test_who_is_not_logged_in_or_comes_from_another_site_is_not_let_in(
    users: list[User], room: str
):
    alice, _ = users
    url, token = alice.url, alice.token
    host = url.removeprefix("http://")
    for headers in (
        {"cookie": ""},
        {"cookie": f"session={alice.user_id}"},
        {"cookie": f"session={alice.name}"},
        {"cookie": f"session={token}", "origin": "https://evil.example"},
        {"cookie": f"session={token}", "origin": "null"},
        {"cookie": f"session={token}", "origin": f"http://{host}.evil.example"},
    ):
        with pytest.raises(InvalidStatus) as caught:
            async with alice.inside(room, headers=headers):
                pass
        assert caught.value.response.status_code == 403

    async with alice.inside(room, headers={"origin": url}):
        pass


async def test_who_logs_out_says_nothing_any_more(
    users: list[User], accounts: Accounts, memory: IsolatedMemory, room: str
):
    alice, bob = users
    async with alice.inside(room) as a, bob.inside(room) as b:
        accounts.log_out(alice.token)
        await a.say("after the logout")
        with pytest.raises(ConnectionClosed):
            await a.until("said")
        await b.until("left", name=alice.name)

    assert bob.remembers(memory, room) == []


@pytest.mark.parametrize("is_erased", [False, True])
async def test_a_window_that_stays_open_after_logout_or_erasure_hears_and_remembers_nothing(
    users: list[User], accounts: Accounts, memory: IsolatedMemory, room: str, *, is_erased: bool
):
    alice, bob = users
    async with alice.inside(room) as a, bob.inside(room) as b:
        if is_erased:
            accounts.erase_with(memory)
            assert memory.erase_user(alice.user_id).is_finished
        else:
            accounts.log_out(alice.token)
        await b.say("She is gone.")
        await b.until("said", text="She is gone.")
        with pytest.raises(ConnectionClosed):
            await a.until("said")
        await b.until("left", name=alice.name)

    assert memory.modules(alice.user_id) == []


async def test_one_whose_memory_takes_no_more_does_not_silence_the_room(
    users: list[User], memory: IsolatedMemory, room: str
):
    alice, bob = users
    bob.memory(memory).chat_history(room).add_user_message("first")
    bob.memory(memory).sessions.close(room)
    async with alice.inside(room) as a, bob.inside(room) as b:
        await a.say("hello")
        await b.until("not_remembered")
        assert (await b.until("said"))["text"] == "hello"
        await a.until("said")

    assert alice.remembers(memory, room) == ["hello"]
    assert bob.remembers(memory, room) == ["first"]


@pytest.mark.parametrize("spellings", [("caf\u00e9", "cafe\u0301"), ("\U00010400" * 55,) * 2])
async def test_a_room_is_the_same_in_every_spelling_of_its_name(
    users: list[User], memory: IsolatedMemory, room: str, spellings: tuple[str, str]
):
    alice, bob = users
    ours, theirs = (quote(spelling + room[5:]) for spelling in spellings)
    async with alice.inside(ours) as a, bob.inside(theirs) as b:
        await a.until("joined", name=bob.name)
        await a.say("hello")
        await b.until("said", name=alice.name, text="hello")

    assert bob.remembers(memory, spellings[0] + room[5:]) == [f"{alice.name}: hello"]


async def test_two_windows_of_one_person_are_one_memory(
    users: list[User], memory: IsolatedMemory, room: str
):
    alice, bob = users
    async with bob.inside(room) as b, alice.inside(room) as first:
        async with alice.inside(room) as second:
            await b.say("once")
            await first.until("said")
            await second.until("said")
        await first.say("still here")
        await b.until("said", name=alice.name)
        assert "left" not in [event["kind"] for event in b.heard]

    assert alice.remembers(memory, room) == [f"{bob.name}: once", "still here"]


async def test_a_room_is_gone_when_nobody_is_in_it(memory: IsolatedMemory):
    rooms, alice = Rooms(memory), Person("alice", "Alice")
    async with rooms.visit("lobby", alice) as (first, _), rooms.visit("lobby", alice) as (same, _):
        assert first is same
    async with rooms.visit("lobby", alice) as (anew, _):
        assert anew is not first


async def test_an_error_that_is_not_ours_is_not_hidden(
    memory: IsolatedMemory, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    alice = Person("alice", "Alice")
    async with Rooms(memory).visit("lobby", alice) as (room, _):
        monkeypatch.setattr(room, "remembered_by", broken)
        with pytest.raises(ZeroDivisionError):
            await room.say(alice, "general", "hello")


@pytest.mark.system("chromium")
def test_in_browsers_two_hear_each_other_and_words_are_text(server: Program, room: str):
    attack = "<img src=x onerror=\"document.title='broken'\">"
    with chromium() as browser:
        ada, bea = (browser.new_context().new_page() for _ in range(2))
        for page, name in ((ada, "ada"), (bea, "bea")):
            page.goto(server.url)
            page.get_by_label("Name").fill(f"{name}-{uuid4().hex[:6]}")
            page.get_by_label("Password").fill(PASSWORD)
            page.get_by_role("button", name="Make an account").click()
            page.get_by_label("Room").fill(room)
            page.get_by_role("button", name="Go in").click()
            page.get_by_text("came in.").first.wait_for()
        ada.get_by_label("Message").fill(attack)
        ada.get_by_role("button", name="Say").click()
        bea.get_by_text("general · ada-").wait_for()

        assert bea.locator("#said li").last.text_content().endswith(f": {attack}")
        assert bea.title() == "Chat rooms"
        assert serious_violations(bea) == []
        bea.get_by_role("button", name="Go in").click()
        bea.get_by_text("came in.").first.wait_for()
        assert attack in (bea.locator("#said li").first.text_content() or "")


def test_a_model_that_fails_leaves_the_room_going(
    sqlite_url: str, root_key: LocalRootKey, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    accounts = Accounts(tmp_path / "accounts.db")
    token = accounts.log_in(accounts.register("alice", PASSWORD))
    memory = IsolatedMemory(sqlite_url, root_key=root_key)
    with (
        TestClient(application(memory, EchoChatModel(), accounts)) as client,
        client.websocket_connect("/rooms/1", headers={"cookie": f"session={token}"}) as socket,
    ):
        socket.send_json({"text": f"@bot {FAILURE} secretly"})
        socket.send_json({"text": "go on"})
        kinds = [socket.receive_json()["kind"] for _ in range(4)]

    assert kinds == ["joined", "said", "failed", "said"]
    assert "EchoFailed" in caplog.text
    assert "secretly" not in caplog.text


async def test_nothing_that_is_said_in_a_room_can_be_read_in_its_files(
    users: list[User], folder: Path, room: str
):
    alice, bob = users
    async with alice.inside(room) as a, bob.inside(room) as b:
        await a.say("The canary is called Zwitscherling")
        await b.until("said")

    canaries = ["Zwitscherling", room, alice.token, PASSWORD]
    assert_nothing_readable(f"sqlite:///{folder}/memory.db", canaries=canaries)
    assert_nothing_readable(
        folder / "accounts.db", canaries=["Zwitscherling", alice.token, PASSWORD]
    )
