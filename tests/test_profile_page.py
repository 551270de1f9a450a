"""What a profile page shows is one call; what two modules know stands side by side."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from langmem_isolated import IsolatedMemory, LocalRootKey, ScopedMemory
from langmem_isolated.errors import RecordDoesNotOpen, ScopeError
from tests.command_line import run, words
from tests.conftest import ROOT_KEY, Attacker, Door
from tests.threads import at, put

CANARY = "canary-4711"


@pytest.fixture
def tutor(memory: IsolatedMemory) -> ScopedMemory:
    return memory.scope(user_id="alice", module_id="tutor")


async def test_a_new_user_has_an_empty_page(
    tutor: ScopedMemory, memory: IsolatedMemory, door: Door
):
    found = await door(tutor, "overview")

    counts = found.conversations, found.messages, found.threads, found.documents, found.facts
    assert counts == (0, 0, 0, 0, 0)
    assert (found.first_activity, found.last_activity) == (None, None)
    assert (await door(memory, "compare_modules", user_id="alice")).modules == ()
    assert memory.modules(user_id="alice") == []


async def test_a_page_shows_how_much_there_is_and_since_when(tutor: ScopedMemory, door: Door):
    for session_id, count in (("monday", 2), ("tuesday", 3)):
        for _ in range(count):
            tutor.chat_history(session_id).add_user_message("Hi")
    tutor.vector_store(DeterministicFakeEmbedding(size=4)).add_texts(["a", "b"])
    put(tutor.checkpointer(), at("thread"), {})
    tutor.profile().add_facts(["one", "two"])
    tutor.module("planner").chat_history("monday").add_user_message("Hi")

    found = await door(tutor, "overview")

    counts = found.conversations, found.messages, found.threads, found.documents, found.facts
    assert counts == (2, 5, 1, 2, 2)
    assert found.first_activity == tutor.sessions.get("monday").created
    assert found.last_activity >= tutor.sessions.get("tuesday").last_activity
    assert found.first_activity.tzinfo is not None


def test_what_is_expired_is_not_on_the_page(tutor: ScopedMemory):
    put(tutor.checkpointer(ttl=timedelta(microseconds=1)), at("thread"), {})

    assert tutor.overview().threads == 0


async def test_two_modules_are_compared_side_by_side(
    memory: IsolatedMemory, tutor: ScopedMemory, door: Door
):
    planner = tutor.module("planner")
    tutor.profile().add_facts(["Likes chess.", "Has a test."])
    planner.profile().add_facts(["Works on Sundays.", "likes CHESS."])
    tutor.profile().set_attribute("level", 3)
    planner.profile().set_attribute("zone", "UTC")
    tutor.profile().add_interest("Go")
    planner.profile().set_summary("Busy.")
    tutor.chat_history("monday").add_user_message("Hi")
    tutor.sessions.set_summary("monday", "They greeted.")
    memory.scope(user_id="bob", module_id="bobs").profile().add_fact("bob's")
    tutor.cross_module().add_fact("Shared.")

    found = await door(memory, "compare_modules", user_id="alice")

    assert found.module_ids == ("planner", "tutor")
    rows = {}
    for aspect, name, values in found.rows():
        rows.setdefault(f"{aspect} {name}".strip(), []).append(values)
    assert rows["fact"] == [
        ("Works on Sundays.", None), ("likes CHESS.", "Likes chess."), (None, "Has a test."),
    ]  # fmt: skip
    assert rows["attribute level"] == [(None, 3)]
    assert rows["attribute zone"] == [("UTC", None)]
    assert rows["interest"] == [(None, "Go")]
    assert rows["summary"] == [("Busy.", None)]
    assert (rows["conversations"], rows["messages"]) == ([(0, 1)], [(0, 1)])
    (summary,) = found.modules[1].session_summaries
    assert (summary.session_id, summary.summary) == ("monday", "They greeted.")
    assert found.modules[1].overview.facts == 2


def test_only_the_modules_asked_for_are_compared_in_their_order(
    memory: IsolatedMemory, tutor: ScopedMemory
):
    tutor.profile().add_fact("one")

    found = memory.compare_modules(user_id="alice", modules=["tutor", "never used"])

    assert found.module_ids == ("tutor", "never used")
    assert memory.modules(user_id="alice") == ["tutor"]
    with pytest.raises(TypeError):
        memory.compare_modules(user_id="alice", modules="tutor")
    with pytest.raises(ScopeError):
        memory.compare_modules(user_id="")
    assert memory.compare_modules(user_id="alice", project_id="other").modules == ()


def test_a_comparison_shows_no_content_in_its_repr(memory: IsolatedMemory, tutor: ScopedMemory):
    scope = memory.scope(user_id=CANARY, module_id=CANARY)
    scope.profile().add_fact(CANARY)
    scope.chat_history(CANARY).add_user_message(CANARY)
    scope.sessions.set_summary(CANARY, CANARY)

    found = memory.compare_modules(user_id=CANARY)

    assert CANARY not in repr(found)
    assert CANARY not in repr(found.rows())
    assert CANARY not in repr(found.modules[0].session_summaries)


def test_a_comparison_refuses_what_was_tampered_with(
    memory: IsolatedMemory, tutor: ScopedMemory, attacker: Attacker
):
    tutor.profile().add_fact("one")
    attacker("UPDATE records SET tag = NULL")

    with pytest.raises(RecordDoesNotOpen):
        memory.compare_modules(user_id="alice")


@pytest.fixture
def url(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        scope = memory.scope(user_id="ann", module_id="tutor")
        scope.profile().add_fact("Likes \x1b[2Jchess.", source="user")
        scope.profile().set_attribute("[red]level", [3])
        scope.profile().add_interest("Go")
        scope.chat_history("monday").add_user_message("Hi")
        memory.scope(user_id="ann", module_id="[bold]plan").profile().set_summary("Busy.")
    return url


def test_a_profile_is_shown(url: str):
    shown = run("profile", "show", "--user", "ann", "--module", "tutor", "--database", url)

    assert shown.exit_code == 0, shown.output
    assert "Likes \\x1b[2Jchess." in shown.stdout
    assert "attribute [red]level [3]" in words(shown.stdout)
    assert "interest Go" in words(shown.stdout)
    nobody = run("profile", "show", "--user", "bob", "--module", "tutor", "--database", url)
    assert "This module knows nothing of the user." in nobody.stdout


def test_modules_are_shown_side_by_side(url: str):
    shown = run("profile", "compare", "--user", "ann", "--database", url)

    assert shown.exit_code == 0, shown.output
    assert "what [bold]plan tutor" in words(shown.stdout)
    assert "summary Busy." in words(shown.stdout)
    nobody = run("profile", "compare", "--user", "bob", "--database", url)
    assert nobody.stdout == "This user has no memory in this project.\n"


def test_profiles_are_printed_for_programs(url: str):
    def answer(*arguments: str) -> Any:
        shown = run("profile", *arguments, "--user", "ann", "--database", url, "--json")
        assert shown.exit_code == 0, shown.output
        return json.loads(shown.stdout)

    one = answer("show", "--module", "tutor")
    both = answer("compare")

    (fact,) = one["facts"]
    assert set(fact) == {"id", "text", "time", "updated", "revision", "sources"}
    assert (fact["sources"][0]["kind"], one["attributes"]) == ("user", {"[red]level": [3]})
    assert one["overview"]["conversations"] == 1
    assert [module["module"] for module in both] == ["[bold]plan", "tutor"]
    assert both[0]["summary"] == "Busy."
    assert [m["module"] for m in answer("compare", "--module", "tutor")] == ["tutor"]
