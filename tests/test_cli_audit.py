"""`audit` and `anchor` on the command line, and what operators read once auditing is on."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from langmem_isolated import AuditOptions, IsolatedMemory, LocalRootKey
from tests.command_line import error_line, run, words
from tests.conftest import ROOT_KEY, Attacker

ANN = ("--user", "ann", "--module", "tutor")
INTO = ("--user", "ann", "--from", "tutor", "--into", "planner")


def opened(url: str, **options: Any) -> IsolatedMemory:
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), **options)


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A database whose audit log is on, in which ann has a session."""
    url = f"sqlite:///{tmp_path}/memory.db"
    with opened(url, audit=AuditOptions()) as memory:
        for module in ("tutor", "planner"):
            scope = memory.scope(user_id="ann", module_id=module)
            scope.chat_history("monday").add_user_message("a secret")
    return url


def answer(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def seen(url: str) -> list[tuple[Any, ...]]:
    """What ann sees, the oldest first."""
    with opened(url) as memory:
        found = memory.scope(user_id="ann", module_id="tutor").audit_log()
    return [(one.operation, one.outcome, one.actor, one.reason) for one in reversed(found)]


def reading_commands(tmp_path: Path) -> dict[str, tuple[object, ...]]:
    """Every command that prints something of what a user has."""
    return {
        "show": ("show", "monday", *ANN),
        "sessions": ("sessions", *ANN),
        "threads": ("threads", *ANN),
        "profile show": ("profile", "show", *ANN),
        "profile compare": ("profile", "compare", "--user", "ann"),
        "export": ("export", "--user", "ann", "--output", tmp_path / "ann.zip"),
        "grants list": ("grants", "list", "--user", "ann"),
        "merge plan": ("merge", "plan", *INTO),
        "merge list": ("merge", "list", "--user", "ann"),
        "merge run": ("merge", "run", *INTO),
        "merge undo": ("merge", "undo", "00" * 16, "--user", "ann"),
    }


@pytest.mark.parametrize("command", reading_commands(Path()))
def test_nobody_reads_without_a_reason(url: str, tmp_path: Path, command: str):
    asked = reading_commands(tmp_path)[command]

    refused = error_line(run(*asked, "--database", url, "--json"))

    assert "--reason" in refused
    assert "secret" not in refused
    assert not (tmp_path / "ann.zip").exists()
    (entry,) = [one for one in seen(url) if one[0] != "audit_on"]
    assert entry[1] == "refused"


@pytest.mark.parametrize("command", reading_commands(Path()))
def test_with_a_reason_it_is_read_and_the_user_sees_it(url: str, tmp_path: Path, command: str):
    if command == "merge undo":
        return
    asked = reading_commands(tmp_path)[command]

    done = run(
        "--actor", "bob", *asked, "--reason", "Ticket 12", "--minutes", "5", "--database", url
    )

    assert done.exit_code == 0, done.output
    entries = [one for one in seen(url) if one[1] != "begun"]
    assert entries[0] == ("break_glass", "done", "bob", "Ticket 12")
    shown = {one[2:] for one in entries}
    assert shown == {("bob", "Ticket 12")}


def test_a_permission_holds_for_other_commands_and_for_this_actor_alone(url: str):
    told = run(
        "--actor", "bob", "audit", "break-glass", "--user", "ann", "--reason", "Ticket 12",
        "--database", url,
    )  # fmt: skip
    assert told.stdout.startswith("Permitted until ")

    shown = run("--actor", "bob", "show", "monday", *ANN, "--database", url)
    assert "a secret" in shown.stdout
    assert (
        run("show", "monday", *ANN, "--database", url, LANGMEM_ISOLATED_ACTOR="bob").exit_code == 0
    )
    assert "Auditing is on" in error_line(
        run("--actor", "carol", "show", "monday", *ANN, "--database", url)
    )
    assert run("--actor", "bob", "show", "monday", "--user", "eve", "--module", "tutor",
               "--database", url).exit_code == 1  # fmt: skip


def test_who_acts_is_the_systems_user_by_default(url: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("getpass.getuser", lambda: "root of all")
    grant = ("grants", "allow", "--user", "ann", "--from", "tutor", "--to", "planner")

    run("--reason", "Ticket 3", *grant, "--kind", "item", "--database", url)

    assert seen(url) == [("grant", "done", "root of all", "Ticket 3")]


def test_a_system_that_knows_no_name_has_a_number(url: str, monkeypatch: pytest.MonkeyPatch):
    def unknown() -> str:
        raise KeyError

    monkeypatch.setattr("getpass.getuser", unknown)
    run("clear", "--user", "ann", "--yes", "--database", url)

    assert seen(url)[0][2].startswith("uid ")


def test_while_auditing_is_off_nothing_is_asked(url: str):
    assert run("audit", "off", "--reason", "moved", "--database", url).exit_code == 0

    assert "a secret" in run("show", "monday", *ANN, "--database", url).stdout
    assert "a secret" in run("show", "monday", *ANN, "--reason", "x", "--database", url).stdout
    assert "off" in run("audit", "status", "--database", url).stdout
    assert seen(url) == []


def test_it_is_switched_and_told(url: str):
    assert run("audit", "on", "--days", "400", "--reads", "--database", url).exit_code == 0

    assert answer("audit", "status", "--database", url) == {
        "is_on": True, "recalls": True, "reads": True, "audit_days": 400, "entries": 2,
        "removed": 0,
    }  # fmt: skip
    found = answer("audit", "entries", "--database", url)
    assert [one["operation"] for one in found] == ["audit_on", "audit_on"]
    shown = words(run("audit", "entries", "--limit", "1", "--database", url).stdout)
    assert "audit_on done" in shown
    nothing = run("audit", "entries", "--user", "nobody", "--database", url).stdout
    assert nothing == "There are no such entries.\n"


def test_what_is_in_an_entry_cannot_act_on_a_terminal(url: str):
    run(
        "--actor", "\x1b[2Jbob", "audit", "break-glass", "--user", "ann", "--reason", "a\x07b",
        "--database", url,
    )  # fmt: skip

    shown = run("audit", "entries", "--user", "ann", "--database", url).stdout

    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "\\x1b" in shown


@pytest.mark.parametrize(
    "wrong",
    [
        ("audit", "break-glass", "--user", "ann", "--reason", "x", "--minutes", "0"),
        ("audit", "break-glass", "--user", "ann", "--reason", "x", "--minutes", "1441"),
        ("audit", "break-glass", "--user", "ann", "--reason", ""),
        ("show", "monday", *ANN, "--reason", "x" * 1001),
        ("audit", "on", "--days", "0"),
        ("audit", "off"),
    ],
)
def test_what_is_written_wrong_ends_with_2(url: str, wrong: tuple[str, ...]):
    assert run(*wrong, "--database", url).exit_code == 2
    assert seen(url) == []


def test_an_anchor_is_taken_and_checked(url: str, tmp_path: Path):
    file = tmp_path / "anchors.jsonl"

    assert answer("audit", "anchor", file, "--database", url)["entries"] == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    run("audit", "break-glass", "--user", "ann", "--reason", "x", "--database", url)
    assert "2 entries" in run("audit", "anchor", file, "--database", url).stdout

    assert answer("anchor", "check", file, "--database", url)["anchors"] == 2
    assert "one with 2 anchors" in run("anchor", "check", file, "--database", url).stdout
    assert answer("audit", "verify", "--database", url)["entries"] == 2
    assert "2 entries follow" in run("audit", "verify", "--database", url).stdout


def test_a_log_that_was_cut_ends_with_1(url: str, tmp_path: Path):
    file = tmp_path / "anchors.jsonl"
    run("audit", "anchor", file, "--database", url)
    attacker = Attacker(url)
    for table in ("audit", "audit_chains"):
        attacker(f"DELETE FROM {table}")
    attacker.close()

    assert "anchors say" in error_line(run("anchor", "check", file, "--database", url))
    assert run("anchor", "check", tmp_path / "none", "--database", url).exit_code == 2


def test_a_file_that_is_none_of_anchors_is_refused(url: str, tmp_path: Path):
    file = tmp_path / "other"
    file.write_text("mine\n")

    for command in (("audit", "anchor", file), ("anchor", "check", file)):
        assert "anchor" in error_line(run(*command, "--database", url))
    assert file.read_text() == "mine\n"
