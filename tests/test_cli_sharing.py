"""`grants` and `merge` on the command line: what they print, and what they change."""

import json
from pathlib import Path
from typing import Any

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.command_line import error_line, run, words
from tests.conftest import ROOT_KEY

BETWEEN = ("--user", "ann", "--from", "tutor", "--to", "planner")
INTO = ("--user", "ann", "--from", "tutor", "--into", "planner")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database in which two modules of ann have a session of one name."""
    url = f"sqlite:///{tmp_path}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        for module in ("tutor", "planner"):
            scope = memory.scope(user_id="ann", module_id=module)
            scope.chat_history("monday").add_user_message(f"Hello, {module}.")
    return url


def answer(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_grant_is_allowed_listed_and_revoked(url: str):
    narrowed = ("--kind", "message", "--session", "monday", "--kind", "item", "--namespace", "a.b")
    allowed = answer(
        "grants", "allow", *BETWEEN, *narrowed, "--until", "2100-01-31", "--database", url
    )

    assert allowed["kinds"] == ["item", "message"]
    assert allowed["fields"] == {"sessions": ["monday"], "namespaces": [["a", "b"]]}
    assert allowed["until"] == "2100-01-31T00:00:00Z"
    assert answer("grants", "list", "--user", "ann", "--database", url) == [allowed]
    shown = words(run("grants", "list", "--user", "ann", "--database", url).stdout)
    assert "tutor planner item, message" in shown
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        shared = memory.scope(user_id="ann", module_id="planner").shared_from("tutor")
        assert [said.text for said in shared.messages("monday")] == ["Hello, tutor."]

    assert run("grants", "revoke", *BETWEEN, "--database", url).exit_code == 0
    assert answer("grants", "list", "--user", "ann", "--database", url) == []
    told = run("grants", "list", "--user", "ann", "--database", url).stdout
    assert told.startswith("This user has no grants in force")
    assert "No grant in force" in error_line(run("grants", "revoke", *BETWEEN, "--database", url))


@pytest.mark.parametrize(
    "wrong", [("--kind", "messages"), ("--kind", "item", "--session", "monday"), ()]
)
def test_a_grant_that_is_written_wrong_ends_with_2(url: str, wrong: tuple[str, ...]):
    assert run("grants", "allow", *BETWEEN, *wrong, "--database", url).exit_code == 2
    assert answer("grants", "list", "--user", "ann", "--database", url) == []


def test_a_merge_is_planned_run_listed_and_undone(url: str):
    plan = answer("merge", "plan", *INTO, "--database", url)
    assert plan == {
        "counts": {"session": 1, "message": 1},
        "conflicts": [{"kind": "session", "names": ["monday"]}],
    }
    assert "monday" in run("merge", "plan", *INTO, "--database", url).stdout

    receipt = answer("merge", "run", *INTO, "--database", url)

    assert receipt["counts"] == {"session": 1}
    assert receipt["renamed"] == [{"kind": "session", "old": "monday", "new": "monday-2"}]
    assert answer("merge", "list", "--user", "ann", "--database", url) == [receipt]
    assert "monday-2" in run("merge", "list", "--user", "ann", "--database", url).stdout
    undo = ("merge", "undo", receipt["id"], "--user", "ann", "--database", url)
    assert answer(*undo) == {"removed": {"session": 1}, "left": []}
    assert "no such receipt" in error_line(run(*undo))
    told = run("merge", "list", "--user", "ann", "--database", url).stdout
    assert told.startswith("Nothing was merged")


def test_a_policy_that_is_not_known_and_one_that_refuses_merge_nothing(url: str):
    for conflicts, status in (("replace", 2), ("refuse", 1)):
        ran = run("merge", "run", *INTO, "--conflicts", conflicts, "--database", url)
        assert ran.exit_code == status
    assert answer("merge", "list", "--user", "ann", "--database", url) == []
