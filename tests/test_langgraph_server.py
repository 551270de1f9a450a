"""A real LangGraph server with two users: each call means the user whom it authenticated."""

import ast
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple
from uuid import uuid4

import httpx
import pytest
from langgraph_sdk import get_client
from langgraph_sdk.client import LangGraphClient
from langgraph_sdk.errors import BadRequestError, ConflictError, InternalServerError, NotFoundError

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated.errors import IsolationViolation, ScopeError
from langmem_isolated.langgraph_server import scope_of_user
from tests.conftest import ROOT_KEY
from tests.servers.langgraph_dev import EXAMPLE, LangGraphDev

USERS = ("alice", "bob")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("langgraph")


@pytest.fixture(scope="module")
def database(folder: Path) -> str:
    return f"sqlite:///{folder}/memory.db"


@pytest.fixture(scope="module")
def server(folder: Path, database: str) -> Iterator[LangGraphDev]:
    with LangGraphDev(folder / "app", database, ROOT_KEY) as server:
        yield server


@pytest.fixture
def memory(server: LangGraphDev, database: str) -> Iterator[IsolatedMemory]:
    """The server's database, opened beside it."""
    with IsolatedMemory(database, root_key=LocalRootKey(ROOT_KEY)) as memory:
        yield memory


def refusals(server: LangGraphDev) -> int:
    return server.log.read_text().count("langmem_isolated.errors.")


@pytest.fixture(autouse=True)
def nothing_foreign(request: pytest.FixtureRequest) -> Iterator[None]:
    """After every test that uses the server: no refusal in its log, and nobody has foreign words.

    Every text that a user says has the user's name in it.
    """
    if "server" not in request.fixturenames:
        yield
        return
    server, memory = (request.getfixturevalue(name) for name in ("server", "memory"))
    before = refusals(server)
    yield
    if "is_refused" in request.keywords:
        # The log is written a little later, and must not count for the next test.
        time.sleep(0.5)
    else:
        assert refusals(server) == before, server.log.read_text()[-5000:]
    for user, other in (USERS, reversed(USERS)):
        assert other not in repr(everything_of(memory, user)).lower()
        assert memory.modules(user_id=user) in ([], ["assistant"])
        assert memory.modules(user_id=user.title()) == []


def everything_of(memory: IsolatedMemory, user: str) -> list[Any]:
    """All that a user's scope holds, opened; of metadata, a client may choose some itself."""
    scope = memory.scope(user_id=user, module_id="assistant")
    return [
        *((kept.checkpoint, kept.pending_writes) for kept in scope.checkpointer().list(None)),
        *scope.store().search((), limit=1000),
        *(scope.chat_history(session.id).messages for session in scope.sessions()),
    ]


def client_of(server: LangGraphDev, token: str) -> LangGraphClient:
    return get_client(
        url=server.url, headers={"authorization": f"Bearer {token}".strip()}, timeout=60
    )


class User(NamedTuple):
    """Someone with a token, and a thread."""

    name: str
    client: LangGraphClient
    thread: str

    def says(self, text: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": f"{text} {self.name}"}]}

    async def run(self, text: str, **options: Any) -> list[str]:
        """What the thread's messages are after a turn."""
        thread = options.pop("thread", self.thread)
        return texts(await self.client.runs.wait(thread, "probe", input=self.says(text), **options))

    async def state(self) -> list[str]:
        return texts((await self.client.threads.get_state(self.thread))["values"])


@pytest.fixture
async def users(server: LangGraphDev, memory: IsolatedMemory) -> AsyncIterator[list[User]]:
    alice, bob = (client_of(server, f"token of {user}") for user in USERS)
    async with alice, bob:
        yield [
            User(name, client, (await client.threads.create())["thread_id"])
            for name, client in zip(USERS, (alice, bob), strict=True)
        ]


def texts(values: Any) -> list[str]:
    return [message["content"] for message in values["messages"]]


def threads_of(memory: IsolatedMemory, user: str) -> set[str]:
    saver = memory.scope(user_id=user, module_id="assistant").checkpointer()
    return {thread.id for thread in saver.threads()}


async def for_each(users: list[User], act: Any) -> None:
    await asyncio.gather(*(act(user) for user in users))


async def test_runs_streams_states_and_updates_are_those_of_who_is_authenticated(
    users: list[User], memory: IsolatedMemory
):
    async def act(user: User) -> None:
        modes = ["values", "messages-tuple", "updates"]
        other = next(name for name in USERS if name != user.name)
        streamed = user.client.runs.stream(
            user.thread, "probe", input=user.says("one"), stream_mode=modes, stream_subgraphs=True
        )
        events = [event async for event in streamed]
        assert f"one {user.name}" in str(events)
        assert other not in str(events)
        assert f"heard ['one {user.name}', 'two {user.name}']" in (await user.run("two"))[-1]
        threads = user.client.threads
        updated = await threads.update_state(user.thread, user.says("changed"))
        assert (await user.state())[-1] == f"changed {user.name}"
        # A client sends back what it was given.
        found = await threads.get_state(user.thread, checkpoint=updated["checkpoint"])
        assert texts(found["values"])[-1] == f"changed {user.name}"
        history = await threads.get_history(user.thread, limit=50)
        assert texts(history[0]["values"]) == await user.state()
        assert len(history) > 6
        middle = {"configurable": history[3]["checkpoint"]}
        assert await threads.get_history(user.thread, limit=50, before=middle) == history[4:]

    await for_each(users, act)

    for user in users:
        assert user.thread in threads_of(memory, user.name)


async def test_an_agent_with_our_middleware_records_for_who_is_authenticated(
    users: list[User], memory: IsolatedMemory
):
    async def act(user: User) -> None:
        said = await user.client.runs.wait(user.thread, "assistant", input=user.says("hello"))
        assert texts(said) == [f"hello {user.name}", "I have noted that."]

    await for_each(users, act)

    for user in users:
        history = memory.scope(user_id=user.name, module_id="assistant").chat_history(user.thread)
        assert [message.text for message in history.messages] == [
            f"hello {user.name}",
            "I have noted that.",
        ]


async def test_an_interrupted_subgraph_is_shown_changed_and_resumed(users: list[User]):
    async def act(user: User) -> None:
        await user.run("ask")
        threads = user.client.threads
        asking = (await threads.get_state(user.thread, subgraphs=True))["tasks"][0]
        assert asking["interrupts"][0]["value"] == "Really?"
        inside = asking["state"]
        assert texts(inside["values"])[0] == f"ask {user.name}"
        found = await threads.get_state(user.thread, checkpoint=inside["checkpoint"])
        assert texts(found["values"]) == texts(inside["values"])
        resumed = await user.client.runs.wait(
            user.thread, "probe", command={"resume": f"yes {user.name}"}
        )
        assert texts(resumed)[-1] == f"was told yes {user.name}"

    await for_each(users, act)


async def test_an_interrupted_subgraph_is_updated_in_its_users_thread(users: list[User]):
    async def act(user: User) -> None:
        await user.run("ask")
        threads = user.client.threads
        asking = (await threads.get_state(user.thread, subgraphs=True))["tasks"][0]
        inside = asking["state"]["checkpoint"]
        await threads.update_state(
            user.thread, user.says("injected"), checkpoint=inside, as_node="ask"
        )
        resumed = await user.client.runs.wait(user.thread, "probe", command={"resume": "go on"})
        assert texts(resumed)[-1] == f"injected {user.name}"

    await for_each(users, act)


async def test_a_thread_is_copied_within_its_users_memory(
    users: list[User], memory: IsolatedMemory
):
    async def act(user: User) -> None:
        await user.run("original")
        copied = (await user.client.threads.copy(user.thread))["thread_id"]
        copies[user.name] = copied
        assert copied in threads_of(memory, user.name)
        copy = user._replace(thread=copied)
        assert await copy.state() == await user.state()
        assert f"'original {user.name}', 'more {user.name}'" in (await copy.run("more"))[-1]

    copies: dict[str, str] = {}
    await for_each(users, act)
    # One after the other: docs/how-to/langgraph-server.md says what it does with two at once.
    for user in users:
        await user.client.threads.delete(copies[user.name])
        assert copies[user.name] not in threads_of(memory, user.name)
        assert user.thread in threads_of(memory, user.name)


async def test_the_whole_store_api_keeps_users_apart_in_the_same_namespaces(users: list[User]):
    async def act(user: User) -> None:
        store = user.client.store
        for number in range(3):
            await store.put_item(["facts", "same"], f"{number}", {"of": user.name, "n": number})
        await store.put_item(["facts", "other"], "0", {"of": user.name, "n": 9})
        assert (await store.get_item(["facts", "same"], "1"))["value"]["of"] == user.name
        found = (await store.search_items(["facts"], limit=50))["items"]
        assert [item["value"]["of"] for item in found] == [user.name] * 4
        found = (await store.search_items(["facts"], filter={"n": {"$gte": 2}}))["items"]
        assert sorted(item["value"]["n"] for item in found) == [2, 9]
        listed = await store.list_namespaces(prefix=["facts"])
        assert listed["namespaces"] == [["facts", "other"], ["facts", "same"]]
        await store.delete_item(["facts", "same"], "1")
        assert await store.get_item(["facts", "same"], "1") is None

    alice, bob = users
    await for_each(users, act)
    await alice.client.store.delete_item(["facts", "other"], "0")

    assert (await bob.client.store.get_item(["facts", "other"], "0"))["value"]["of"] == "bob"


async def test_a_run_is_rolled_back_while_others_wait(users: list[User], memory: IsolatedMemory):
    alice, bob = users

    async def roll_back() -> list[str]:
        run = await alice.client.runs.create(alice.thread, "probe", input=alice.says("wait"))
        await until_running(alice, run["run_id"])
        return await alice.run("next", multitask_strategy="rollback")

    async def wait_in_line() -> list[str]:
        # The first is in the line when this returns: of two requests at once either may be.
        await bob.client.runs.create(bob.thread, "probe", input=bob.says("first"))
        return await bob.run("second")

    rolled_back, waited = await asyncio.gather(roll_back(), wait_in_line())

    assert rolled_back[0] == "next alice"
    assert not [said for said in messages_of(memory, alice) if "wait alice" in said]
    assert waited[0] == "first bob"
    assert waited[2] == "second bob"


async def until_running(user: User, run: str) -> None:
    for _ in range(600):
        if (await user.client.runs.get(user.thread, run))["status"] == "running":
            # The graph is in its node then, or about to be.
            return await asyncio.sleep(0.3)
        await asyncio.sleep(0.1)
    raise TimeoutError


def messages_of(memory: IsolatedMemory, user: User) -> list[list[str]]:
    """The texts in every checkpoint of a thread."""
    saver = memory.scope(user_id=user.name, module_id="assistant").checkpointer()
    listed = saver.list({"configurable": {"thread_id": user.thread}})
    kept = (found.checkpoint["channel_values"].get("messages", []) for found in listed)
    return [[message.text for message in messages] for messages in kept]


async def test_a_run_that_is_cancelled_with_rollback_leaves_its_thread_usable(
    users: list[User], memory: IsolatedMemory
):
    alice, bob = users
    before = await alice.run("before")
    run = await alice.client.runs.create(alice.thread, "probe", input=alice.says("wait"))
    await until_running(alice, run["run_id"])
    await alice.client.runs.cancel(alice.thread, run["run_id"], action="rollback", wait=True)

    assert await alice.state() == before
    assert "'before alice', 'after alice'" in (await alice.run("after"))[-1]
    assert bob.thread not in threads_of(memory, "alice") | threads_of(memory, "bob")


async def test_stateless_runs_leave_no_thread(users: list[User], memory: IsolatedMemory):
    # One after the other: docs/how-to/langgraph-server.md says what it does with two at once.
    for user in users:
        before = threads_of(memory, user.name)
        said = await user.run("passing", thread=None)
        assert said[0] == f"passing {user.name}"
        # The server removes the thread after it has answered.
        for _ in range(600):
            if threads_of(memory, user.name) == before:
                break
            await asyncio.sleep(0.1)
        listed = await user.client.threads.search(limit=1000)
        assert user.thread in [thread["thread_id"] for thread in listed]
        assert "busy" not in [thread["status"] for thread in listed]
        assert threads_of(memory, user.name) == before


async def test_the_server_gives_a_threads_id_to_one_user_at_a_time(
    users: list[User], memory: IsolatedMemory
):
    alice, bob = users
    await alice.run("mine")

    with pytest.raises(ConflictError):
        await bob.client.threads.create(thread_id=alice.thread)
    for refused in (
        bob.client.threads.get_state(alice.thread),
        bob.client.threads.get_history(alice.thread),
        bob.client.threads.update_state(alice.thread, bob.says("changed")),
        bob.run("into it", thread=alice.thread),
        bob.client.threads.delete(alice.thread),
    ):
        with pytest.raises(httpx.HTTPStatusError) as caught:
            await refused
        assert caught.value.response.status_code == 404
    with pytest.raises(ConflictError):
        await bob.client.threads.copy(alice.thread)
    await alice.client.threads.delete(alice.thread)
    await bob.client.threads.create(thread_id=alice.thread)

    assert (await bob.run("now mine", thread=alice.thread))[0] == "now mine bob"
    assert alice.thread not in threads_of(memory, "alice")
    assert alice.thread in threads_of(memory, "bob")


FORGED = {"langgraph_auth_user": {"identity": "alice", "is_authenticated": True}}


@pytest.mark.parametrize("forged", [FORGED, {"memory_user_id": "alice"}])
@pytest.mark.is_refused
async def test_a_client_that_names_another_user_where_the_server_merges_it_in_is_refused(
    users: list[User], server: LangGraphDev, memory: IsolatedMemory, forged: dict[str, Any]
):
    _, bob = users
    await bob.run("mine")
    before = refusals(server)
    acts = (
        lambda threads: threads.update_state(bob.thread, bob.says("forged"), checkpoint=forged),
        lambda threads: threads.get_state(bob.thread, checkpoint=forged),
        lambda threads: threads.get_history(bob.thread, checkpoint=forged),
    )

    for act in acts:
        # A server that fails closes the connection: a client for each.
        async with client_of(server, "token of bob") as client:
            with pytest.raises(InternalServerError):
                await act(client.threads)

    # The log is written a little later.
    for _ in range(600):
        if refusals(server) >= before + len(acts):
            break
        await asyncio.sleep(0.1)
    assert refusals(server) >= before + len(acts)
    assert bob.thread not in threads_of(memory, "alice")
    assert "forged bob" not in str(messages_of(memory, bob))


@pytest.mark.is_refused
async def test_a_client_that_names_another_user_in_a_run_gets_nothing_of_theirs(
    users: list[User], memory: IsolatedMemory
):
    alice, bob = users
    forged = [{"config": {"configurable": config}} for config in (FORGED, {"user_id": "alice"})]
    forged += [{"checkpoint": FORGED}, {"config": {"configurable": {"memory_user_id": "alice"}}}]
    threads = [(await bob.client.threads.create())["thread_id"] for _ in forged]
    await alice.run("secret")

    *served, refused = await asyncio.gather(
        *(
            bob.client.runs.wait(thread, "probe", input=bob.says("hello"), **options)
            for thread, options in zip(threads, forged, strict=True)
        ),
        return_exceptions=True,
    )

    assert [texts(values)[0] for values in served] == ["hello bob"] * 3
    assert "IsolationViolation" in str(refused)
    assert "secret" not in f"{served} {refused}"
    assert set(threads[:3]) <= threads_of(memory, "bob")
    assert not set(threads) & threads_of(memory, "alice")


@pytest.mark.system("curl")
def test_what_the_examples_readme_asks_is_answered_for_each_user(server: LangGraphDev):
    page = (EXAMPLE / "README.md").read_text()
    asked = page.partition("```bash\n")[2].partition("```")[0]
    asked = asked.replace("localhost:2024", server.url).replace("curl ", "curl -sS ")

    answers = subprocess.run(
        ["bash", "-ec", asked.replace("\ncurl", "\necho; curl")],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()

    assert json.loads(answers[1])["value"] == {"name": "Mia"}
    assert json.loads(answers[2]) is None


@pytest.mark.parametrize("token", ["", "token of mallory", "alice"])
async def test_who_is_not_authenticated_is_not_let_in(server: LangGraphDev, token: str):
    async with client_of(server, token) as client:
        for act in (
            client.store.search_items(["facts"]),
            client.threads.create(),
            client.runs.wait(None, "probe", input={"messages": []}),
        ):
            with pytest.raises(httpx.HTTPStatusError) as caught:
                await act
            assert caught.value.response.status_code == 401


async def test_a_server_without_authentication_has_no_memory(tmp_path: Path):
    database = f"sqlite:///{tmp_path}/memory.db"
    said = {"messages": [{"role": "user", "content": "hello"}]}
    with LangGraphDev(tmp_path / "app", database, ROOT_KEY, auth=None) as server:
        async with client_of(server, "") as client:
            thread = (await client.threads.create())["thread_id"]
            with pytest.raises(Exception, match="has authenticated nobody"):
                await client.runs.wait(thread, "probe", input=said)
        async with client_of(server, "") as client:
            with pytest.raises(BadRequestError, match="has authenticated nobody"):
                await client.store.put_item(["facts"], "one", {"of": "nobody"})
        async with client_of(server, "") as client:
            with pytest.raises(Exception, match="has authenticated nobody"):
                await client.runs.wait(thread, "probe", input=said, checkpoint=FORGED)
        log = server.log.read_text()

    assert "The LangGraph server has authenticated nobody for this call" in log


# What the server itself does or cannot do, whatever we are.


async def test_the_server_keeps_the_last_values_of_a_thread_in_tables_of_its_own(
    users: list[User],
):
    alice, bob = users
    await alice.run("seen")

    kept = await alice.client.threads.get(alice.thread)
    assert texts(kept["values"])[0] == "seen alice"
    # Its authorization, `auth.on.threads`, is what keeps others from them.
    with pytest.raises(NotFoundError):
        await bob.client.threads.get(alice.thread)


async def test_the_server_overlooks_a_checkpoint_as_the_sdk_gives_it_for_before(
    users: list[User],
):
    alice, _ = users
    await alice.run("one")
    threads = alice.client.threads
    history = await threads.get_history(alice.thread, limit=50)

    assert (
        await threads.get_history(alice.thread, limit=50, before=history[1]["checkpoint"])
        == history
    )


async def test_the_server_does_not_report_a_custom_checkpointers_size(
    users: list[User], server: LangGraphDev
):
    alice, _ = users
    headers = {"authorization": "Bearer token of alice"}
    async with httpx.AsyncClient(base_url=server.url, headers=headers) as client:
        answer = await client.get(f"/threads/{alice.thread}/storage")

    assert answer.status_code == 501


# The resolver by itself.


@contextmanager
def authenticated(monkeypatch: pytest.MonkeyPatch, user: Any) -> Iterator[None]:
    """As within a request of a server: its context names ``user``."""
    context = None if user is None else SimpleNamespace(user=user, permissions=[])
    module = SimpleNamespace(get_auth_ctx=lambda: context)
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "langgraph_api.utils", module)
        yield


def config_with(user: Any) -> Any:
    return {"configurable": {"thread_id": str(uuid4()), "langgraph_auth_user": user}}


ALICE, BOB = SimpleNamespace(identity="alice"), SimpleNamespace(identity="bob")


def test_the_scope_is_that_of_the_requests_user(monkeypatch: pytest.MonkeyPatch):
    scope_of = scope_of_user("assistant", project_id="school")

    with authenticated(monkeypatch, ALICE):
        assert scope_of({}) == Scope("alice", "assistant", project_id="school")
        assert scope_of(config_with(ALICE)) == Scope("alice", "assistant", project_id="school")


def test_the_scope_is_that_of_the_runs_user_where_the_context_is_lost():
    assert scope_of_user("assistant")(config_with(ALICE)) == Scope("alice", "assistant")


def test_a_config_that_names_another_than_the_context_is_refused(monkeypatch: pytest.MonkeyPatch):
    for named in (ALICE, {"identity": "alice"}):
        with authenticated(monkeypatch, BOB), pytest.raises(IsolationViolation) as caught:
            scope_of_user("assistant")(config_with(named))
        assert "alice" not in str(caught.value)
        assert "bob" not in str(caught.value)


@pytest.mark.parametrize("forged", [{"identity": "alice"}, "alice", ["alice"], 1])
def test_what_may_have_come_as_json_names_nobody(forged: Any):
    with pytest.raises(ScopeError, match="has authenticated nobody"):
        scope_of_user("assistant")(config_with(forged))


@pytest.mark.parametrize(
    "user",
    [
        SimpleNamespace(identity=""),
        SimpleNamespace(identity="alice", is_authenticated=False),
        {"identity": "alice", "is_authenticated": False},
        SimpleNamespace(name="alice"),
    ],
)
def test_who_is_not_authenticated_has_no_scope(monkeypatch: pytest.MonkeyPatch, user: Any):
    with (
        authenticated(monkeypatch, user),
        pytest.raises(ScopeError, match="has authenticated nobody"),
    ):
        scope_of_user("assistant")({})


def test_outside_of_a_server_nobody_is_authenticated():
    for config in ({}, {"configurable": {"user_id": "alice", "langgraph_auth_user_id": "alice"}}):
        with pytest.raises(ScopeError, match="has authenticated nobody"):
            scope_of_user("assistant")(config)


def test_an_identity_that_is_no_id_is_refused(monkeypatch: pytest.MonkeyPatch):
    for identity in (7, "a\nb", "x" * 256):
        user = SimpleNamespace(identity=identity)
        with authenticated(monkeypatch, user), pytest.raises(ScopeError, match="user_id must be"):
            scope_of_user("assistant")({})


@pytest.mark.parametrize("malformed", ["", None, 7, "a\nb", Scope("alice", "assistant")])
def test_a_malformed_module_or_project_is_refused_at_the_door(malformed: Any):
    with pytest.raises(ScopeError, match="module_id must be"):
        scope_of_user(malformed)
    with pytest.raises(ScopeError, match="project_id must be"):
        scope_of_user("assistant", project_id=malformed)


def test_a_server_whose_private_name_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "langgraph_api.utils", SimpleNamespace())

    with pytest.raises(ScopeError, match=r"no langgraph_api\.utils\.get_auth_ctx\(\)"):
        scope_of_user("assistant")(config_with(ALICE))


def test_the_snippet_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = (Path(__file__).parents[1] / "docs/how-to/langgraph-server.md").read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGMEM_ISOLATED_ROOT_KEY", LocalRootKey.generate_text())
    made: dict[str, Any] = {}

    exec(page.partition("```python\n")[2].partition("```")[0], made)

    with authenticated(monkeypatch, ALICE):
        made["store"].put(("facts",), "one", {"of": "alice"})
    kept = made["memory"].scope(user_id="alice", module_id="assistant").store()
    assert kept.get(("facts",), "one").value == {"of": "alice"}
    made["memory"].close()


def functions_of(module: str) -> dict[str, list[str]]:
    """The functions of a module of langgraph-api, by name, without importing it: it wants a server.

    Their parameters' names are the values.
    """
    package = Path(find_spec("langgraph_api").submodule_search_locations[0])  # type: ignore[union-attr,index]
    tree = ast.parse((package / module).read_text())
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_the_private_names_are_langgraph_apis():
    assert functions_of("utils/__init__.py").get("get_auth_ctx") == [], (
        "langgraph-api renamed what tells who is authenticated: see _auth_context"
    )
    assert functions_of("worker.py").get("worker", [])[:1] == ["run"], (
        "langgraph-api renamed its worker, or the run in it: see _user_of_worker"
    )
