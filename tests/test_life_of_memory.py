"""What an application is asked about the life of its users' memory, each answered by a test."""

from datetime import UTC, datetime, timedelta

import pytest
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory, SessionRules
from langmem_isolated.errors import AnonymousNotFound
from tests.conftest import Attacker
from tests.embeddings import NGramEmbeddings


def talk(
    scope: ScopedMemory, *texts: str, session_id: str = "s", channel: str | None = None
) -> None:
    history = scope.chat_history(session_id)
    for text in texts:
        history.add_messages([HumanMessage(text)], channel=channel)


def said(scope: ScopedMemory, session_id: str = "s") -> list[str]:
    return [message.text for message in scope.chat_history(session_id).messages]


def seen(scope: ScopedMemory) -> list[object]:
    """Whatever a scope can see, by every way there is."""
    return [
        *scope.sessions(),
        *scope.recall("secret"),
        *scope.checkpointer().threads(),
        *scope.store().search(()),
        *scope.vector_store(NGramEmbeddings()).documents(),
        *scope.profile().facts(),
        *scope.cross_module().facts(),
    ]


def live(scope: ScopedMemory) -> None:
    """A little of everything."""
    talk(scope, "a secret")
    scope.store().put(("facts",), "one", {"text": "a secret"})
    scope.vector_store(NGramEmbeddings()).add_texts(["a secret"])
    scope.profile().add_fact("a secret")


def test_a_new_user_sees_no_memory(memory: IsolatedMemory):
    live(memory.scope(user_id="alice", module_id="tutor"))

    assert seen(memory.scope(user_id="bob", module_id="tutor")) == []
    assert memory.modules(user_id="bob") == []


def test_two_users_with_the_same_project_name_and_module_are_apart(memory: IsolatedMemory):
    alice, bob = (
        memory.scope(user_id=user, module_id="tutor", project_id="novel")
        for user in ("alice", "bob")
    )
    talk(alice, "Alice's chapter")
    talk(bob, "Bob's chapter")

    assert (said(alice), said(bob)) == (["Alice's chapter"], ["Bob's chapter"])
    memory.clear_user("alice", project_id="novel")
    assert (said(alice), said(bob)) == ([], ["Bob's chapter"])


def test_a_user_switches_between_modules_and_each_knows_its_own(memory: IsolatedMemory):
    tutor = memory.scope(user_id="alice", module_id="tutor")
    planner = tutor.module("planner")
    tutor.profile().add_fact("learns fractions")
    planner.profile().add_fact("leaves on Friday")
    for scope, text in [(tutor, "one half"), (planner, "Friday"), (tutor, "two thirds")]:
        talk(scope, text)

    assert (said(tutor), said(planner)) == (["one half", "two thirds"], ["Friday"])
    assert [f.text for f in tutor.profile().facts()] == ["learns fractions"]
    assert [f.text for f in planner.profile().facts()] == ["leaves on Friday"]


def test_memory_is_there_after_logout_and_login(database_url: str, root_key: LocalRootKey):
    for number in range(2):
        with IsolatedMemory(database_url, root_key=root_key) as memory:
            talk(memory.scope(user_id="alice", module_id="tutor"), f"login {number}")

    with IsolatedMemory(database_url, root_key=root_key) as memory:
        assert said(memory.scope(user_id="alice", module_id="tutor")) == ["login 0", "login 1"]


def test_deleting_a_user_removes_all_that_the_user_had(memory: IsolatedMemory):
    alice, bob = (memory.scope(user_id=user, module_id="tutor") for user in ("alice", "bob"))
    live(alice)
    live(alice.module("planner"))
    live(bob)

    counts = memory.clear_user("alice")

    assert counts["session"] == counts["profile"] == 2
    assert seen(alice) == seen(alice.module("planner")) == []
    assert len(seen(bob)) > 0


def test_summaries_of_modules_are_independent(memory: IsolatedMemory):
    tutor = memory.scope(user_id="alice", module_id="tutor")
    planner = tutor.module("planner")
    talk(tutor, "hello")
    talk(planner, "hello")

    tutor.sessions.set_summary("s", "greeted the tutor")
    tutor.profile().set_summary("a beginner")

    assert planner.sessions.get("s").summary is None
    assert planner.profile().summary() is None


def test_retrieval_is_of_the_module(memory: IsolatedMemory):
    tutor = memory.scope(user_id="alice", module_id="tutor")
    tutor.vector_store(NGramEmbeddings()).add_texts(["of the tutor"])
    talk(tutor, "of the tutor")

    assert tutor.retriever(NGramEmbeddings()).invoke("tutor")
    assert tutor.module("planner").retriever(NGramEmbeddings()).invoke("tutor") == []
    assert tutor.module("planner").recall("tutor") == []


def test_sessions_are_cleaned_up_kept_and_recovered_per_user(
    database_url: str, root_key: LocalRootKey
):
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        alice, bob = (memory.scope(user_id=user, module_id="tutor") for user in ("alice", "bob"))
        talk(alice, "hello"), talk(bob, "hello")
        talk(alice, "bye", session_id="other")
        alice.clear_session("s")
    with IsolatedMemory(database_url, root_key=root_key) as memory:
        alice, bob = (memory.scope(user_id=user, module_id="tutor") for user in ("alice", "bob"))
        assert [session.id for session in alice.sessions()] == ["other"]
        assert (said(alice, "other"), said(bob)) == (["bye"], ["hello"])


def test_who_has_the_id_of_an_anonymous_session_gets_in_and_nobody_else(
    memory: IsolatedMemory, caplog: pytest.LogCaptureFixture
):
    guest = memory.anonymous(module_id="tutor")
    talk(guest, "hello")

    assert said(memory.recover(guest.id)) == ["hello"]
    with pytest.raises(AnonymousNotFound):
        memory.recover(guest.id[::-1])
    assert seen(memory.scope(user_id=guest.id, module_id="tutor")) == []
    assert guest.id not in repr(guest) + repr(memory.stats()) + caplog.text


def test_what_expired_is_absent_and_is_cleaned_up(memory: IsolatedMemory, attacker: Attacker):
    alice = memory.scope(user_id="alice", module_id="tutor")
    talk(alice, "hello")
    alice.sessions.set_lifetime("s", idle=timedelta(microseconds=1))

    assert seen(alice) == []
    assert memory.sweep().counts == {"session": 1, "message": 1}
    assert attacker("SELECT count(*) FROM records")[0][0] == 0


def test_channels_keep_ten_and_twenty_messages(database_url: str, root_key: LocalRootKey):
    rules = SessionRules(channel_limits={"general": 10, "ai": 20})
    with IsolatedMemory(database_url, root_key=root_key, session_rules=rules) as memory:
        alice = memory.scope(user_id="alice", module_id="tutor")
        for number in range(25):
            talk(alice, f"general {number}", channel="general")
            talk(alice, f"ai {number}", channel="ai")

        texts = said(alice)
        assert alice.verify()
    general, ai = ([t for t in texts if t.startswith(name)] for name in ("general", "ai"))
    assert general == [f"general {number}" for number in range(15, 25)]
    assert ai == [f"ai {number}" for number in range(5, 25)]


def test_channels_of_guests_and_of_ephemeral_scopes_keep_as_many(root_key: LocalRootKey):
    rules = SessionRules(channel_limits={"general": 2})
    with IsolatedMemory("sqlite://", root_key=root_key, session_rules=rules) as memory:
        guest = memory.anonymous(module_id="tutor")
        with memory.scope(user_id="alice", module_id="tutor").ephemeral() as off_the_record:
            for scope in (guest, off_the_record):
                talk(scope, "one", "two", "three", channel="general")
                assert said(scope) == ["two", "three"]


def test_a_profile_page_shows_how_many_conversations_and_the_last_date(memory: IsolatedMemory):
    alice, before = memory.scope(user_id="alice", module_id="tutor"), datetime.now(UTC)
    talk(alice, "hello")
    talk(alice, "again", "and again", session_id="other")

    overview = alice.overview()

    assert (overview.conversations, overview.messages) == (2, 3)
    assert overview.last_activity is not None
    assert before <= overview.last_activity <= datetime.now(UTC)
    alice.clear()
    assert (alice.overview().conversations, alice.overview().last_activity) == (0, None)
