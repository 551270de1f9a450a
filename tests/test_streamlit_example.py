"""The Streamlit example, by Streamlit's own test of pages: two users and a hostile third."""

import ast
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from examples.logins.accounts import Accounts
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.testing import assert_nothing_readable
from tests.conftest import ROOT_KEY
from tests.servers.program import PROJECT, Program

PAGE = PROJECT / "examples" / "streamlit_chat" / "app.py"
PASSWORD = "a password that stands nowhere else"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """A process of the server's; all pages of a test are in it."""
    environment = {
        "LANGMEM_ISOLATED_ROOT_KEY": b64encode(ROOT_KEY).decode(),
        "LANGMEM_ISOLATED_DATABASE": f"sqlite:///{tmp_path}/memory.db",
        "ACCOUNTS": f"{tmp_path}/accounts.db",
        "MODEL": "",
    }
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    st.cache_resource.clear()
    yield environment
    st.cache_resource.clear()


@pytest.fixture
def memory(environment: dict[str, str]) -> Iterator[IsolatedMemory]:
    """The server's database, opened beside it."""
    url = environment["LANGMEM_ISOLATED_DATABASE"]
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        yield memory


@pytest.fixture
def accounts(environment: dict[str, str]) -> Accounts:
    return Accounts(environment["ACCOUNTS"])


class Browser:
    """A page, as one person sees it."""

    def __init__(self) -> None:
        self.page = AppTest.from_file(str(PAGE), default_timeout=30).run()
        assert not self.page.exception

    def enter(self, button: str, name: str, password: str = PASSWORD) -> "Browser":
        fields = self.page.text_input
        fields[0].set_value(name)
        fields[1].set_value(password)
        return self.click(button)

    def click(self, label: str) -> "Browser":
        next(button for button in self.page.button if button.label == label).click().run()
        assert not self.page.exception
        return self

    def say(self, text: str) -> str:
        """The answer."""
        self.page.chat_input[0].set_value(text).run()
        assert not self.page.exception
        return self.said()[-1]

    def said(self) -> list[str]:
        return [text.value for message in self.page.chat_message for text in message.text]

    def conversations(self) -> list[str]:
        labels = [button.label for button in self.page.sidebar.button]
        return [label for label in labels if label not in {"Log out", "New conversation"}]


def registered(name: str) -> Browser:
    return Browser().enter("Make an account", name)


@pytest.fixture
def users() -> list[Browser]:
    return [registered(name) for name in ("alice", "bob")]


def test_what_one_says_is_known_in_the_next_conversation_and_on_nobody_elses_page(
    users: list[Browser],
):
    alice, bob = users

    assert alice.say("My cat is Mia.") == "I will remember that."
    assert bob.say("My cat is Tom.") == "I will remember that."

    for user, cat in ((alice, "Mia"), (bob, "Tom")):
        user.click("New conversation")
        assert user.said() == []
        assert user.say("What is my cat?") == f"Your cat is {cat}."
        assert user.conversations() == ["What is my cat?", f"My cat is {cat}."]
        user.click(f"My cat is {cat}.")
        assert user.said() == [f"My cat is {cat}.", "I will remember that."]


def test_who_comes_back_finds_their_conversations_in_another_browser(users: list[Browser]):
    alice, _ = users
    alice.say("Hello there")
    alice.click("Log out")
    assert alice.conversations() == []
    assert alice.said() == []

    again = Browser().enter("Log in", "alice")

    assert again.conversations() == ["Hello there"]
    assert again.click("Hello there").said() == ["Hello there", "You said: Hello there"]


def test_who_has_no_password_of_an_account_does_not_come_in(accounts: Accounts):
    accounts.register("alice", PASSWORD)
    browser = Browser()
    for button, name, password in (
        ("Log in", "alice", "x" * 8),
        ("Log in", "alice", ""),
        ("Log in", "nobody", PASSWORD),
        ("Make an account", "alice", PASSWORD),
        ("Make an account", "new", "short"),
        ("Make an account", " ", PASSWORD),
    ):
        browser.enter(button, name, password)

        assert len(browser.page.error) == 1
        assert not browser.page.chat_input
        assert browser.conversations() == []


def test_who_names_anothers_conversation_reads_and_adds_nothing_of_theirs(
    users: list[Browser], memory: IsolatedMemory
):
    alice, _ = users
    alice.say("My secret is 4711.")
    mallory = registered("mallory")
    # More than a browser can: what the server holds for this one is changed.
    mallory.page.session_state["conversation"] = alice.page.session_state["conversation"]
    mallory.page.run()

    assert mallory.said() == []
    assert mallory.say("What is my secret?") == "You have not told me your secret."
    user_id = alice.page.session_state["user_id"]
    kept = memory.scope(user_id=user_id, module_id="chat").sessions()
    assert [session.messages for session in kept] == [4]


def test_a_model_that_fails_is_told_and_what_was_said_is_kept(
    users: list[Browser], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    alice, _ = users

    def fail(*_: object) -> None:
        raise ZeroDivisionError("secretly")

    with monkeypatch.context() as patched:
        patched.setattr("examples.offline_model._answer", fail)
        alice.say("secretly")
        assert len(alice.page.error) == 1

    assert alice.say("and now") == "You said: and now"
    assert alice.said()[0] == "secretly"
    assert "ZeroDivisionError" in caplog.text
    assert "secretly" not in caplog.text


def test_who_is_erased_is_out(users: list[Browser], memory: IsolatedMemory, accounts: Accounts):
    alice, bob = users
    alice.say("Hello")
    accounts.erase_with(memory)

    memory.erase_user(alice.page.session_state["user_id"])

    alice.page.run()
    assert not alice.page.chat_input
    assert alice.said() == alice.conversations() == []
    assert bob.say("Still here") == "You said: Still here"
    assert len(Browser().enter("Log in", "alice").page.error) == 1


def test_nothing_of_a_user_is_cached_for_all():
    """What is decorated takes no argument, and so holds nothing of a user's."""
    tree = ast.parse(PAGE.read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    cached = {node.name: node for node in functions if node.decorator_list}

    assert set(cached) == {"accounts", "memory", "agent"}
    assert not [node.name for node in cached.values() if ast.unparse(node.args)]


def test_it_runs_as_the_page_says_and_nothing_is_readable(
    environment: dict[str, str], tmp_path: Path
):
    alice = registered("alice")
    alice.say("The canary is Zwitscherling")
    command = ("streamlit", "run", str(PAGE), "--server.headless", "true")
    options = ("--server.port", "{port}", "--browser.gatherUsageStats", "false")
    folder = tmp_path / uuid4().hex
    folder.mkdir()
    outside = {**environment, "PYTHONPATH": str(PROJECT)}

    with Program((*command, *options), folder, "/_stcore/health", outside) as server:
        assert "<title>" in httpx.get(server.url).text
        assert "Traceback" not in server.log.read_text()

    st.cache_resource.clear()
    assert_nothing_readable(tmp_path, canaries=["Zwitscherling", PASSWORD])
