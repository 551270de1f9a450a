"""A chat on Streamlit with accounts: a page each, one process, and no memory in common.

Run it from the root of the repository, as README.md in this folder says::

    python -m streamlit run examples/streamlit_chat/app.py

Streamlit runs this file anew at every click, for every browser, in threads of one process. What is
cached by `st.cache_resource` or `st.cache_data` is everybody's, so nothing of a user may be there;
`st.session_state` is that of one browser.
"""

import logging
import os
from collections.abc import Iterator
from typing import Any

import streamlit as st
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from examples.logins.accounts import Accounts, NameTaken
from examples.offline_model import model_of_environment
from langmem_isolated import IsolatedMemory, ScopedMemory

MODULE = "chat"
FEWEST_CHARACTERS = 8
_log = logging.getLogger(__name__)


@st.cache_resource
def accounts() -> Accounts:
    """Everybody's accounts."""
    return Accounts(os.environ.get("ACCOUNTS", "accounts.db"))


@st.cache_resource
def memory() -> IsolatedMemory:
    """The database, with the key of nobody in particular."""
    opened = IsolatedMemory.from_environment()
    accounts().erase_with(opened)
    return opened


@st.cache_resource
def agent() -> Any:
    """One agent for everybody; it remembers nothing until it is bound."""
    return create_agent(
        model_of_environment(),
        tools=[memory().profile_tool()],
        middleware=[memory().middleware(recall=3, profile=True)],
    )


def page() -> None:
    """What the browser shows: the login, or the user's own chat."""
    st.set_page_config(page_title="Chat")
    user_id: str = st.session_state.get("user_id", "")
    name = accounts().name_of(user_id)
    if name is None:
        forget_browser()
        logging_in()
    else:
        user = memory().scope(user_id=user_id, module_id=MODULE)
        sidebar(user, name)
        chat(user)


def forget_browser() -> None:
    """Let a browser be nobody's."""
    for name in ("user_id", "conversation"):
        st.session_state.pop(name, None)


def logging_in() -> None:
    """A form for name and password."""
    st.title("Chat")
    with st.form("login"):
        name = st.text_input("Name", max_chars=64)
        password = st.text_input("Password", type="password", max_chars=200)
        is_known = st.form_submit_button("Log in")
        is_new = st.form_submit_button("Make an account")
    if is_known or is_new:
        entered = registered(name, password) if is_new else accounts().checked(name, password)
        if entered is None:
            st.error("This name is taken or too short." if is_new else "Name or password is wrong.")
        else:
            st.session_state["user_id"] = entered
            st.rerun()


def registered(name: str, password: str) -> str | None:
    """The user id of a new account; ``None`` where there can be none."""
    if not name.strip() or len(password) < FEWEST_CHARACTERS:
        return None
    try:
        return accounts().register(name, password)
    except NameTaken:
        return None


def sidebar(user: ScopedMemory, name: str) -> None:
    """The user's conversations, to choose from."""
    st.sidebar.text(name)
    if st.sidebar.button("Log out"):
        forget_browser()
        st.rerun()
    if st.sidebar.button("New conversation"):
        st.session_state.pop("conversation", None)
    for session in user.sessions(limit=50):
        if st.sidebar.button(session.title or "Untitled", key=f"session {session.id}"):
            st.session_state["conversation"] = session.id


def chat(user: ScopedMemory) -> None:
    """The conversation that was chosen, and a line to go on with it."""
    conversation = st.session_state.get("conversation")
    if conversation:
        for message in user.chat_history(conversation).messages:
            if isinstance(message, HumanMessage | AIMessage) and message.text:
                st.chat_message(message.type).text(message.text)
    if text := st.chat_input("Message", max_chars=8_000):
        if not conversation:
            conversation = user.sessions.create(title=text[:60])
            st.session_state["conversation"] = conversation
        st.chat_message("human").text(text)
        shown, parts = st.chat_message("ai").empty(), []
        try:
            for part in answer(user, conversation, text):
                parts.append(part)
                # As text: an image in a model's Markdown would be fetched from wherever it says.
                shown.text("".join(parts))
        except Exception as error:  # noqa: BLE001 - whatever a model raises, the user is told
            # The type alone: what a model's error says may quote its prompt.
            _log.error("An answer failed: %s.", type(error).__name__)
            st.error("The answer failed. What you said is kept.")
        else:
            st.rerun()


def answer(user: ScopedMemory, conversation: str, text: str) -> Iterator[str]:
    """The parts of an answer, as the model says them."""
    scope = user.scope
    config: RunnableConfig = {
        "configurable": {
            "user_id": scope.user_id,
            "module_id": scope.module_id,
            "thread_id": conversation,
        }
    }
    said = {"messages": [HumanMessage(text)]}
    for part, _ in user.bind(agent()).stream(said, config, stream_mode="messages"):
        if isinstance(part, AIMessage) and part.text:
            yield part.text


page()
