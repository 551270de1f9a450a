"""Anonymous sessions: only who has the id gets in, until they expire or are claimed."""

import asyncio
import logging
import re
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.messages.ai import UsageMetadata

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope, SessionRules
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._crypto.owners import Level, Owner
from langmem_isolated._storage import entries, removal
from langmem_isolated._storage.copying import staging
from langmem_isolated._storage.copying.copy import Copy
from langmem_isolated.errors import (
    AddressTaken,
    AnonymousNotFound,
    IsolationViolation,
    RecordDoesNotOpen,
    ScopeError,
)
from langmem_isolated.lifecycle.guests import claims
from langmem_isolated.lifecycle.guests.anonymous import remove
from langmem_isolated.memory import AnonymousMemory
from tests.conftest import ROOT_KEY, Attacker, Door, Wait
from tests.embeddings import NGramEmbeddings
from tests.processes import Child, all_at_once
from tests.test_copying import config, furnish, graph, names, texts

ALICE = Scope("alice", "tutor")
BOB = Scope("bob", "tutor")
UNKNOWN = "A" * 22


@pytest.fixture
def guest(memory: IsolatedMemory) -> AnonymousMemory:
    return memory.anonymous(module_id="tutor")


def said(guest: AnonymousMemory, *texts: str) -> None:
    guest.chat_history("main").add_messages([HumanMessage(text) for text in texts])


def again(url: str) -> IsolatedMemory:
    """The memory of another process, or of this one after a restart."""
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY))


async def test_who_has_the_id_gets_in_again_after_a_restart(
    memory: IsolatedMemory, database_url: str, door: Door
):
    guest = await door(memory, "anonymous", module_id="tutor")
    said(guest, "Hi")
    memory.close()

    with again(database_url) as later:
        found = await door(later, "recover", guest.id)

        assert texts(found) == ["Hi"]
        assert re.fullmatch(r"[\w-]{22}", guest.id)


@pytest.mark.parametrize("wrong", [UNKNOWN, "", "é" * 22, "\x00" * 22, None, 7, "x" * 10_000])
def test_all_other_ids_are_refused_alike(
    memory: IsolatedMemory, guest: AnonymousMemory, wrong: Any
):
    said(guest, "Hi")

    with pytest.raises(AnonymousNotFound) as refused:
        memory.recover(wrong)

    assert str(refused.value) == str(AnonymousNotFound())


def test_an_id_is_of_one_project(memory: IsolatedMemory, guest: AnonymousMemory):
    with pytest.raises(AnonymousNotFound):
        memory.recover(guest.id, project_id="another")


def test_the_id_is_in_no_repr_and_no_log_and_not_in_the_database(
    memory: IsolatedMemory,
    guest: AnonymousMemory,
    attacker: Attacker,
    caplog: pytest.LogCaptureFixture,
):
    caplog.set_level(logging.DEBUG)
    said(guest, "Hi")
    memory.recover(guest.id).recall("Hi")
    memory.claim(guest.id, ALICE, confirmed=True)

    shown = repr(guest) + repr(guest.scope) + repr(guest._records.owner) + caplog.text
    assert guest.id not in shown
    for table in ("records", "sessions", "scopes", "keys", "key_sets"):
        rows = attacker(f"SELECT * FROM {table}")
        assert guest.id.encode() not in repr(rows).encode()


def test_two_guests_are_apart_and_neither_is_listed(memory: IsolatedMemory, guest: AnonymousMemory):
    other = memory.anonymous(module_id="tutor")
    said(guest, "Hi")

    assert texts(other) == []
    assert memory.modules(user_id=guest.id) == []
    assert memory.scope(user_id=guest.id, module_id="tutor").chat_history("main").messages == []


def test_everything_that_a_scope_has_works(memory: IsolatedMemory, guest: AnonymousMemory):
    furnish(guest)  # type: ignore[arg-type]

    assert guest.recall("question 3", limit=1)[0].text == "question 3"
    assert len(guest.bind(graph()).get_state(config("t")).values["messages"]) == 3
    found = guest.retriever(NGramEmbeddings(), k=1).invoke("page 2")
    assert [document.page_content for document in found] == ["page 2"]
    memory.publisher(module_id="tutor").vector_store(NGramEmbeddings()).add_documents(
        [Document("for all of the module", id="s")]
    )
    assert len(guest.vector_store(NGramEmbeddings()).similarity_search("page", k=9)) == 4
    assert guest.verify().messages == 10


@pytest.mark.parametrize("user", ["alice", "", "guest"])
def test_a_config_that_names_a_user_is_refused(guest: AnonymousMemory, user: str):
    bound = guest.bind(graph())
    named = {"configurable": {"thread_id": "t", "user_id": user, "module_id": "tutor"}}

    with pytest.raises(IsolationViolation):
        bound.invoke({"messages": []}, named)


def test_a_guest_is_no_scope_for_others(memory: IsolatedMemory, guest: AnonymousMemory):
    with pytest.raises(ScopeError):
        memory.scope(guest.scope)
    with pytest.raises(ScopeError):
        memory.using(guest)  # type: ignore[arg-type]
    with pytest.raises(ScopeError):
        guest.module("another")


@pytest.mark.parametrize("limit", ["idle", "absolute"])
def test_what_expired_is_absent_at_once_also_for_who_is_in(
    memory: IsolatedMemory, wait_for: Wait, limit: str
):
    guest = memory.anonymous(module_id="tutor", **{"idle": None, limit: timedelta(seconds=60)})
    said(guest, "Hi")
    assert texts(guest) == ["Hi"]

    wait_for(60.1)

    for use in (
        lambda: texts(guest),
        lambda: said(guest, "again"),
        guest.sessions,
        lambda: guest.store().get(("a",), "b"),
        lambda: guest.recall("Hi"),
        lambda: guest.bind(graph()).invoke({"messages": []}, config("t")),
        lambda: guest.vector_store(NGramEmbeddings()).similarity_search("page"),
        lambda: memory.recover(guest.id),
        lambda: memory.claim(guest.id, ALICE, confirmed=True),
    ):
        with pytest.raises(AnonymousNotFound):
            use()


def test_getting_in_begins_the_idle_time_anew(memory: IsolatedMemory, wait_for: Wait):
    guest = memory.anonymous(module_id="tutor", idle=timedelta(seconds=60))
    for _ in range(3):
        wait_for(25)
        memory.recover(guest.id)

    assert texts(guest) == []


def test_nobody_who_writes_to_the_database_lets_a_guest_live_longer(
    memory: IsolatedMemory, attacker: Attacker
):
    guest = memory.anonymous(module_id="tutor", idle=timedelta(seconds=60))
    attacker("UPDATE records SET expires_at = expires_at + 1000000 WHERE kind = 20")

    with pytest.raises(RecordDoesNotOpen):
        memory.recover(guest.id)


@pytest.mark.parametrize("wrong", [0, 3600, "30 days", timedelta(0), timedelta(days=-1)])
def test_a_limit_is_a_span_of_time(memory: IsolatedMemory, wrong: Any):
    with pytest.raises((TypeError, ValueError), match="idle must be a"):
        memory.anonymous(module_id="tutor", idle=wrong)


def test_removal_leaves_nothing_and_counts(
    memory: IsolatedMemory,
    guest: AnonymousMemory,
    attacker: Attacker,
    monkeypatch: pytest.MonkeyPatch,
):
    furnish(guest)  # type: ignore[arg-type]
    memory.scope(ALICE).chat_history("main").add_user_message("stays")
    before = attacker("SELECT count(*) FROM keys")

    counts = remove(memory._context, guest._records.owner)

    assert counts[Kind.MESSAGE] == 10
    assert counts[Kind.SESSION] == 1
    for table in ("records", "sessions", "scopes"):
        assert len(attacker(f"SELECT DISTINCT scope_id FROM {table}")) == 1
    assert attacker("SELECT count(*) FROM keys") == [(before[0][0] - 2,)]
    with pytest.raises(AnonymousNotFound):
        texts(guest)
    assert not remove(memory._context, guest._records.owner)
    assert texts(memory.scope(ALICE)) == ["stays"]


def test_a_removal_that_was_killed_goes_on(
    memory: IsolatedMemory, guest: AnonymousMemory, monkeypatch: pytest.MonkeyPatch
):
    said(guest, "Hi")
    monkeypatch.setattr(removal, "_remove_scope", partial(_raise, KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        remove(memory._context, guest._records.owner)
    monkeypatch.undo()

    with pytest.raises(AnonymousNotFound):
        memory.recover(guest.id)
    remove(memory._context, guest._records.owner)

    assert [*memory._context.walk()] == []


def _raise(error: type[BaseException], *_: Any) -> None:
    raise error


def test_the_sweep_finds_an_expired_guest_by_its_record(memory: IsolatedMemory, attacker: Attacker):
    memory.anonymous(module_id="tutor", idle=timedelta(microseconds=1))

    ((scope_id,),) = attacker("SELECT scope_id FROM records WHERE kind = 20 AND expires_at > 0")

    owner = memory._keyring.owner_of(bytes(scope_id))
    assert owner is not None
    assert owner.level is Level.ANONYMOUS
    remove(memory._context, owner)
    assert attacker("SELECT count(*) FROM scopes") == [(0,)]


def test_only_a_guest_is_removed(memory: IsolatedMemory):
    with pytest.raises(ValueError, match="anonymous"):
        remove(memory._context, Owner.private(ALICE))


async def test_a_claim_makes_it_the_users_and_ends_the_guest(
    memory: IsolatedMemory, guest: AnonymousMemory, attacker: Attacker, door: Door
):
    furnish(guest)  # type: ignore[arg-type]
    theirs = guest.verify()

    done = await door(memory, "claim", guest.id, ALICE, confirmed=True)

    alice = memory.scope(ALICE)
    verified = alice.verify()
    assert (verified.messages, verified.checkpoints, verified.items, verified.documents) == (
        theirs.messages, theirs.checkpoints, theirs.items, theirs.documents,
    )  # fmt: skip
    assert done.counts["message"] == 10
    assert alice.sessions.get("main").origin == "anonymous"
    assert len(attacker("SELECT scope_id FROM scopes")) == 1
    for use in (lambda: texts(guest), lambda: memory.recover(guest.id)):
        with pytest.raises(AnonymousNotFound):
            use()


@pytest.mark.parametrize("confirmed", [False, None, 1, "yes"])
def test_nothing_is_claimed_without_the_users_word(
    memory: IsolatedMemory, guest: AnonymousMemory, confirmed: Any
):
    said(guest, "Hi")

    with pytest.raises(ValueError, match="confirmed must be True"):
        memory.claim(guest.id, ALICE, confirmed=confirmed)
    with pytest.raises(TypeError, match="confirmed"):
        memory.claim(guest.id, ALICE)  # type: ignore[call-arg]

    assert texts(guest) == ["Hi"]


def test_a_claim_takes_a_users_scope(memory: IsolatedMemory, guest: AnonymousMemory):
    for wrong in (guest, guest.scope, "alice", None):
        with pytest.raises(ScopeError):
            memory.claim(guest.id, wrong, confirmed=True)
    with pytest.raises(ValueError, match="conflicts must be one of"):
        memory.claim(guest.id, ALICE, confirmed=True, conflicts="merge")  # type: ignore[arg-type]


def test_a_claim_brings_nothing_into_another_module(memory: IsolatedMemory, guest: AnonymousMemory):
    said(guest, "Hi")

    with pytest.raises(ScopeError, match="in the module where the anonymous session took place"):
        memory.claim(guest.id, memory.scope(user_id="alice", module_id="planner"), confirmed=True)

    assert memory.modules(user_id="alice") == []
    assert texts(guest) == ["Hi"]
    assert memory.claim(guest.id, ALICE, confirmed=True).counts["message"] == 1


def test_what_was_claimed_is_not_recalled_until_it_is_confirmed(
    memory: IsolatedMemory, guest: AnonymousMemory
):
    furnish(guest)  # type: ignore[arg-type]
    memory.claim(guest.id, ALICE, confirmed=True)
    alice = memory.scope(ALICE)

    assert alice.recall("question") == []
    assert "question 3" not in alice.recall_tool().invoke({"query": "question 3"})
    assert alice.sessions.get("main").is_untrusted

    alice.sessions.confirm("main")
    assert alice.recall("question 3", limit=1)[0].text == "question 3"
    assert {one.source for one in alice.recall("6 times 7?")} == {"session"}
    assert alice.confirm_claimed() == 1
    assert alice.recall("6 times 7?", limit=1)[0].text == "6 times 7?"
    assert alice.confirm_claimed() == 0
    assert not alice.sessions.get("main").is_untrusted
    alice.verify()


def test_a_claimed_fact_that_the_user_has_already_makes_no_other(
    memory: IsolatedMemory, guest: AnonymousMemory
):
    alice = memory.scope(ALICE)
    alice.profile().add_fact("Likes chess.")
    guest.profile().add_facts(["likes  CHESS.", "Has a dog."])
    memory.claim(guest.id, ALICE, confirmed=True)

    alice.confirm_claimed()
    alice.profile().add_fact("has a dog.")

    assert [fact.text for fact in alice.profile().facts()] == ["Likes chess.", "Has a dog."]


@pytest.mark.parametrize("conflicts", ["rename", "replace"])
def test_a_profile_that_was_claimed_tells_models_nothing_until_it_is_confirmed(
    memory: IsolatedMemory, guest: AnonymousMemory, conflicts: Any
):
    for who, level in ((guest, 9), (memory.scope(ALICE), 1)):
        who.profile().set_attribute("level", level)
    guest.profile().add_fact("planted")
    guest.profile().add_interest("planted")
    guest.profile().set_summary("planted")

    memory.claim(guest.id, ALICE, confirmed=True, conflicts=conflicts)
    memory.merge_modules(user_id="alice", from_module="tutor", into_module="planner", dry_run=False)
    alice, planner = memory.scope(ALICE), memory.scope(ALICE).module("planner")
    for scope in (alice, planner):
        assert [*scope.profile().contents().quotable()] == [
            {"kind": "attribute", "name": "level", "text": 1}
        ]
        scope.confirm_claimed()
        known = scope.profile().contents()
        assert (known.summary, known.facts[0].text) == ("planted", "planted")
        assert (known.interests[0].name, known.attributes) == ("planted", {"level": 1})
        assert scope.profile().add_fact("planted").id == known.facts[0].id


def test_what_was_claimed_of_a_profile_is_cleared_with_it(
    memory: IsolatedMemory, guest: AnonymousMemory
):
    guest.profile().add_fact("planted")
    memory.claim(guest.id, ALICE, confirmed=True)
    alice = memory.scope(ALICE)

    assert alice.profile().clear().facts == 1
    alice.confirm_claimed()
    assert not alice.profile().contents()


def test_what_a_guest_asked_of_models_is_counted_for_the_user(
    memory: IsolatedMemory, guest: AnonymousMemory
):
    tokens: UsageMetadata = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}
    answered = AIMessage("42", usage_metadata=tokens, response_metadata={"model_name": "m"})
    alice = memory.scope(ALICE)
    for who in (guest, alice):
        who.chat_history("main").add_message(answered)
    (before,) = memory.stats().tokens

    memory.claim(guest.id, ALICE, confirmed=True)
    memory.claim(guest.id, ALICE, confirmed=True)

    assert memory.stats().tokens == [before]
    (used,) = alice.stats().tokens
    assert (used.model, used.answers, used.input_tokens, used.output_tokens) == ("m", 2, 10, 14)


def test_a_claim_called_again_answers_the_same_and_to_another_user_it_is_unknown(
    memory: IsolatedMemory, guest: AnonymousMemory
):
    said(guest, "Hi")
    done = memory.claim(guest.id, ALICE, confirmed=True)

    assert memory.claim(guest.id, ALICE, confirmed=True) == done
    with pytest.raises(AnonymousNotFound):
        memory.claim(guest.id, BOB, confirmed=True)
    assert names(memory.scope(ALICE)) == {"main"}


def test_names_that_the_user_has_are_renamed_or_refuse_the_claim(
    memory: IsolatedMemory, guest: AnonymousMemory
):
    said(guest, "Hi")
    alice = memory.scope(ALICE)
    alice.chat_history("main").add_user_message("mine")

    with pytest.raises(AddressTaken):
        memory.claim(guest.id, ALICE, confirmed=True, conflicts="refuse")
    assert texts(guest) == ["Hi"]
    done = memory.claim(guest.id, alice, confirmed=True)

    assert done.renamed == (("session", "main", "main-2"),)
    assert texts(alice, "main-2") == ["Hi"]
    assert texts(alice) == ["mine"]


def _claimed(url: str, anonymous_id: str, scope: Scope) -> bool:
    with again(url) as memory:
        try:
            memory.claim(anonymous_id, scope, confirmed=True)
        except AnonymousNotFound:
            return False
        return True


def test_of_two_users_who_claim_at_once_one_wins(
    memory: IsolatedMemory, guest: AnonymousMemory, database_url: str
):
    said(guest, *map(str, range(20)))

    won = all_at_once([partial(_claimed, database_url, guest.id, who) for who in (ALICE, BOB)])

    found = [texts(memory.scope(who)) for who in (ALICE, BOB)]
    assert sorted(won) == [False, True]
    assert [bool(one) for one in found] == won


def test_of_two_processes_of_one_user_both_succeed_and_it_is_there_once(
    memory: IsolatedMemory, guest: AnonymousMemory, database_url: str
):
    said(guest, *map(str, range(20)))

    claim = partial(_claimed, database_url, guest.id, ALICE)

    assert all_at_once([claim, claim]) == [True, True]
    assert names(memory.scope(ALICE)) == {"main"}
    assert memory.scope(ALICE).verify().messages == 20


_POINTS = [
    (entries, "put"), (staging, "begin"), (staging, "put"), (staging, "publish"),
    (Copy, "_publish"), (removal, "remove_rows"),
]  # fmt: skip


def _claim_until(url: str, anonymous_id: str, where: Any, name: str, calls: int) -> None:
    """Claims, and waits to be killed where a function is about to be called once more."""
    real, made = getattr(where, name), []

    def waiting(*args: Any, **kwargs: Any) -> Any:
        made.append(name)
        if len(made) > calls:
            time.sleep(60)
        return real(*args, **kwargs)

    setattr(where, name, waiting)
    with again(url) as memory:
        memory.claim(anonymous_id, ALICE, confirmed=True)


@pytest.mark.parametrize("calls", [0, 1])
@pytest.mark.parametrize("point", range(len(_POINTS)))
def test_a_claim_killed_at_any_point_shows_nothing_and_goes_on(
    memory: IsolatedMemory, guest: AnonymousMemory, database_url: str, point: int, calls: int
):
    furnish(guest)  # type: ignore[arg-type]
    theirs = guest.verify()
    child = Child(_claim_until, database_url, guest.id, *_POINTS[point], calls)
    with suppress(TimeoutError):
        child.result(0.8)
    alice = memory.scope(ALICE)
    is_shown = bool(names(alice))

    assert is_shown == (alice.store().get(("facts",), "soon") is not None)
    assert is_shown == (alice.bind(graph()).get_state(config("t")).values != {})
    if not is_shown:
        assert len(texts(memory.recover(guest.id))) == 10  # type: ignore[arg-type]
    memory.claim(guest.id, ALICE, confirmed=True)
    assert alice.verify().messages == theirs.messages
    assert alice.verify().checkpoints == theirs.checkpoints
    assert names(alice) == {"main"}
    assert len([*memory._context.walk()]) == 1


def test_what_the_guest_says_meanwhile_is_claimed_too(
    memory: IsolatedMemory, guest: AnonymousMemory, monkeypatch: pytest.MonkeyPatch
):
    said(guest, "Hi")
    publish = Copy._publish

    def late(self: Copy, *args: Any) -> None:
        if guest.chat_history("main").count() == 1:
            said(guest, "wait")
        publish(self, *args)

    monkeypatch.setattr(Copy, "_publish", late)
    memory.claim(guest.id, ALICE, confirmed=True)

    assert texts(memory.scope(ALICE)) == ["Hi", "wait"]


_WRITES: dict[str, Callable[[AnonymousMemory], object]] = {
    "message": lambda guest: said(guest, "late"),
    "session": lambda guest: guest.chat_history("late").add_user_message("late"),
    "thread": lambda guest: guest.bind(graph()).invoke(
        {"messages": [HumanMessage("late")]}, config("late")
    ),
    "item": lambda guest: guest.store().put(("facts",), "late", {}),
    "fact": lambda guest: guest.profile().add_fact("late"),
}


@pytest.mark.parametrize("moment", ["_finish", "remove"])
@pytest.mark.parametrize("what", _WRITES)
def test_what_another_process_writes_during_a_claim_is_claimed_or_refused(
    memory: IsolatedMemory,
    guest: AnonymousMemory,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
    what: str,
):
    said(guest, "Hi")
    with again(database_url) as elsewhere, ThreadPoolExecutor() as threads:
        theirs = elsewhere.recover(guest.id)
        said(theirs, "Ho")
        writing: list[Future[object]] = []
        real = getattr(claims, moment)

        def meanwhile(*args: Any) -> object:
            writing.append(threads.submit(_WRITES[what], theirs))
            # It waits for the claim, or it does not.
            wait(writing, 0.3)
            return real(*args)

        monkeypatch.setattr(claims, moment, meanwhile)
        memory.claim(guest.id, ALICE, confirmed=True)
        (written,) = writing

        assert isinstance(written.exception(), AnonymousNotFound | None)
        alice = memory.scope(ALICE)
        alice.confirm_claimed()
        is_claimed = "late" in repr(
            (
                [texts(alice, name) for name in ("main", "late")],
                alice.bind(graph()).get_state(config("late")).values,
                alice.store().search(()),
                [fact.text for fact in alice.profile().facts()],
            )
        )
        assert is_claimed == (written.exception() is None)


def test_who_reads_in_another_process_is_told_of_a_claim_within_a_second(
    memory: IsolatedMemory, guest: AnonymousMemory, database_url: str
):
    said(guest, "Hi")
    with again(database_url) as elsewhere:
        theirs = elsewhere.recover(guest.id)
        assert texts(theirs) == ["Hi"]

        memory.claim(guest.id, ALICE, confirmed=True)
        time.sleep(1.01)

        with pytest.raises(AnonymousNotFound):
            texts(theirs)


def test_rules_for_sessions_hold_for_guests(database_url: str, root_key: LocalRootKey):
    rules = SessionRules(channel_limits={"general": 2}, max_sessions=1)
    with IsolatedMemory(database_url, root_key=root_key, session_rules=rules) as memory:
        guest = memory.anonymous(module_id="tutor")
        for name in ("first", "main"):
            guest.chat_history(name, channel="general").add_messages(
                [HumanMessage(str(number)) for number in range(3)]
            )

        assert texts(guest) == ["1", "2"]
        assert names(guest) == {"main"}


async def test_a_claim_whose_task_is_cancelled_is_whole_or_goes_on(
    memory: IsolatedMemory, guest: AnonymousMemory
):
    said(guest, *map(str, range(50)))

    task = asyncio.create_task(memory.aclaim(guest.id, ALICE, confirmed=True))
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await memory.aclaim(guest.id, ALICE, confirmed=True)

    assert memory.scope(ALICE).verify().messages == 50


@pytest.mark.parametrize("to_others", ["module", "shared_from"])
def test_an_anonymous_session_leads_to_no_other_module(guest: AnonymousMemory, to_others: str):
    with pytest.raises(ScopeError, match="has one module, got str"):
        getattr(guest, to_others)("planner")


def test_an_anonymous_session_has_no_notebook_that_a_claim_would_lose(guest: AnonymousMemory):
    with pytest.raises(ScopeError, match=r"profile\(\), which goes where it goes: a claim"):
        guest.cross_module()
