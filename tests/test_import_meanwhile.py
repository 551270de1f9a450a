"""Imports while others work: who is erased, rolls back or goes on meanwhile stops nobody else."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, Scope, ScopedMemory
from langmem_isolated.errors import AddressTaken, DatabaseLocked
from langmem_isolated.importers import Import, Mapping, Source
from langmem_isolated.lifecycle import (
    ForeignDocument,
    ForeignItem,
    ForeignMessage,
    ForeignSession,
    ForeignUnit,
    Rejected,
)
from langmem_isolated.lifecycle.bulk_import.target import Target
from tests.test_bulk_import import TOKEN

ALICE = Scope("alice", "tutor")
BY_OWNER = Mapping(module="tutor", pattern=r"(?P<user>\w+):(?P<session>\w+)")


def said(name: str, count: int = 2) -> ForeignSession:
    messages = [ForeignMessage(HumanMessage(f"{name} {n}"), f"row {n}") for n in range(count)]
    return ForeignSession(name, "rows", messages)


def sessions_of(memory: IsolatedMemory, user: str) -> set[str]:
    return {one.id for one in memory.scope(user_id=user, module_id="tutor").sessions()}


class Interrupted(Source):
    """Sessions, in front of one of which something happens once."""

    kind, identity = "interrupted", "in this program"

    def __init__(self, names: list[str], before: str, happens: Any) -> None:
        self._names, self._before, self._happens = names, before, happens

    def units(self) -> Iterator[ForeignUnit]:
        for name in self._names:
            if name == self._before:
                self._happens()
            yield said(name)


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has something happen once, in front of or behind the first write of an import."""

    def between(happens: Callable[[], object], *, behind: bool = False) -> None:
        write, left = Target.write_noted, [happens]

        def written(*args: Any, **kwargs: Any) -> Any:
            if left and not behind:
                left.pop()()
            result = write(*args, **kwargs)
            if left:
                left.pop()()
            return result

        monkeypatch.setattr(Target, "write_noted", written)

    return between


def own(scope: ScopedMemory) -> Any:
    return scope.vector_store(DeterministicFakeEmbedding(size=2), collection="notes")


ITEM = ForeignItem(("a",), "k", {"n": 1}, "row 1")
DOCUMENT = ForeignDocument("notes", "1", "theirs", {}, "row 2", embedding=[0.5, 0.5])


@pytest.mark.parametrize("text", ["own", "theirs"])
def test_what_the_application_puts_while_an_import_looks_stays_as_it_is(
    memory: IsolatedMemory, between: Callable[..., None], text: str
):
    alice = memory.scope(user_id="alice", module_id="tutor")
    unlike = text == "own"
    rejected: list[Rejected] = []
    puts: list[tuple[ForeignUnit, Any]] = [
        (ITEM, lambda: alice.store().put(("a",), "k", {"n": 2 if unlike else 1})),
        (DOCUMENT, lambda: own(alice).add_documents([Document(text, id="1")])),
    ]
    with memory.bulk_import(TOKEN, source="test") as bulk:
        for unit, put in puts:
            between(put)
            (outcome,) = bulk.put_many(ALICE, [unit], on_reject=rejected.append)
            assert outcome.state == ("rejected" if unlike else "present")

    assert [one.place for one in rejected] == (["row 1", "row 2"] if unlike else [])
    assert memory.roll_back(TOKEN).counts == {}
    assert alice.store().get(("a",), "k").value == {"n": 2 if unlike else 1}
    assert [one.page_content for one in own(alice).get_by_ids(["1"])] == [text]
    assert memory.verify().is_clean


def test_what_the_application_changes_as_soon_as_it_is_put_in_does_not_end_the_import(
    memory: IsolatedMemory, between: Callable[..., None]
):
    alice = memory.scope(user_id="alice", module_id="tutor")
    changes: list[tuple[ForeignUnit, Any]] = [
        (ITEM, lambda: alice.store().put(("a",), "k", {"n": 2})),
        (DOCUMENT, lambda: own(alice).delete(["1"])),
    ]
    with memory.bulk_import(TOKEN, source="test") as bulk:
        for unit, change in changes:
            between(change, behind=True)
            assert bulk.put(ALICE, unit, on_reject=print).state == "copied"

    assert [one.what.kind for one in memory.roll_back(TOKEN).left] == ["item"]
    assert alice.store().get(("a",), "k").value == {"n": 2}


@pytest.mark.parametrize("whose", [TOKEN, bytes(16)], ids=["the same import", "another one"])
def test_two_imports_of_one_session_at_once_are_told_apart(
    memory: IsolatedMemory, between: Callable[..., None], whose: bytes
):
    def other() -> None:
        with memory.bulk_import(whose, source="test") as bulk:
            bulk.put(ALICE, said("a"), on_reject=print)

    between(other)
    expected = DatabaseLocked if whose == TOKEN else AddressTaken
    with memory.bulk_import(TOKEN, source="test") as bulk:
        with pytest.raises(expected):
            bulk.put(ALICE, said("a"), on_reject=print)
        assert bulk.put(ALICE, said("a"), on_reject=print).state == "present"


def test_who_is_erased_while_an_import_runs_is_left_out_and_the_others_come(
    memory: IsolatedMemory, tmp_path: Path
):
    def leave() -> None:
        memory.erase_user("alice")
        # Come back in person: what others have of them stays out all the same.
        memory.scope(user_id="alice", module_id="tutor").chat_history("own").add_user_message("Hi")

    source = Interrupted(["alice:a", "alice:b", "bob:a"], "alice:b", leave)
    receipt = Import(memory, source, BY_OWNER, unmapped="skip", folder=tmp_path).run()

    assert dict(receipt.rejects) == {"erased": 1}
    assert sessions_of(memory, "alice") == {"own"}
    assert sessions_of(memory, "bob") == {"a"}


def test_what_comes_behind_a_roll_back_of_the_same_import_is_taken_out_by_the_next_one(
    memory: IsolatedMemory,
):
    memory.scope(user_id="alice", module_id="tutor").chat_history("own").add_user_message("Mine.")
    with memory.bulk_import(TOKEN, source="test") as bulk:
        bulk.put(ALICE, said("a"), on_reject=print)
        assert memory.roll_back(TOKEN).counts == {"session": 1}
        bulk.put(ALICE, said("b"), on_reject=print)
        bulk.put(ALICE, ForeignItem(("a",), "k", {"n": 1}, "row"), on_reject=print)

    assert memory.roll_back(TOKEN).counts == {"item": 1, "session": 1}
    assert sessions_of(memory, "alice") == {"own"}
    memory.verify()


def test_a_roll_back_takes_out_what_the_import_goes_on_with_under_its_hands(
    memory: IsolatedMemory,
):
    memory.scope(user_id="alice", module_id="tutor").chat_history("own").add_user_message("Mine.")
    names = [f"s{n}" for n in range(4)]
    with memory.bulk_import(TOKEN, source="test") as bulk:
        for name in names:
            bulk.put(ALICE, said(name), on_reject=print)

        def go_on(removed: int) -> None:
            for name in names if removed == 1 else ():
                bulk.put(ALICE, said(name, 3), on_reject=print)

        undone = memory.roll_back(TOKEN, progress=go_on)

    assert undone.left == ()
    assert sessions_of(memory, "alice") == {"own"}
    memory.verify()


def test_an_import_that_is_rolled_back_under_its_hands_ends_with_an_error_that_says_so(
    memory: IsolatedMemory,
):
    memory.scope(user_id="alice", module_id="tutor").chat_history("own").add_user_message("Mine.")

    def messages() -> Iterator[ForeignMessage]:
        for number in range(1_200):
            if number == 1_100:
                memory.roll_back(TOKEN)
            yield ForeignMessage(HumanMessage(f"message {number}"), f"row {number}")

    with (
        memory.bulk_import(TOKEN, source="test") as bulk,
        pytest.raises(DatabaseLocked, match="takes out"),
    ):
        bulk.put(ALICE, ForeignSession("long", "rows", messages()), on_reject=print)

    memory.roll_back(TOKEN)
    assert sessions_of(memory, "alice") == {"own"}
    memory.verify()


def test_who_goes_on_with_a_session_as_soon_as_it_is_there_does_not_end_the_import(
    memory: IsolatedMemory,
):
    scope, ended = memory.scope(user_id="alice", module_id="tutor"), threading.Event()

    def go_on() -> None:
        while not ended.is_set():
            if [*scope.sessions()]:
                scope.chat_history("long").add_user_message("And now?")
                return

    application = threading.Thread(target=go_on)
    application.start()
    with memory.bulk_import(TOKEN, source="test") as bulk:
        try:
            outcome = bulk.put(ALICE, said("long", 3_000), on_reject=print)
        finally:
            ended.set()
            application.join()

    assert (outcome.state, outcome.records) == ("copied", 3_000)
    assert len(memory.roll_back(TOKEN).left) == 1
