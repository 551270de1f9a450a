"""`sweep`, `retention`, `hold` and `clear`, as operators and cron call them."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from langgraph.store.base import PutOp

from langmem_isolated import IsolatedMemory
from langmem_isolated.cli import sweeping
from tests.command_line import KEY, error_line, run, words
from tests.test_cli import ANN, url_of

EXPIRED = 6e-8


@pytest.fixture
def stored(memory: IsolatedMemory) -> IsolatedMemory:
    """Ann has 600 items that have expired, and a session; Bob has a session."""
    ann = memory.scope(user_id="ann", module_id="tutor")
    puts = [PutOp(("notes",), f"{n}", {"n": n}, ttl=EXPIRED) for n in range(600)]
    for begin in (0, 500):
        ann.store().batch(puts[begin : begin + 500])
    for user in ("ann", "bob"):
        scoped = memory.scope(user_id=user, module_id="tutor")
        scoped.chat_history("monday", channel="ai").add_user_message("Hi")
    return memory


def told(memory: IsolatedMemory, *command: object) -> Any:
    done = run(*command, "--json", "--database", url_of(memory))
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_sweep_ends_with_3_while_more_is_due_and_with_0_when_nothing_is(stored: IsolatedMemory):
    url = ("--database", url_of(stored))

    dry = run("sweep", "--dry-run", *url)
    first = run("sweep", "--max-seconds", 0, *url)
    second = run("sweep", *url)
    third = run("sweep", *url)

    assert [one.exit_code for one in (dry, first, second, third)] == [0, 3, 0, 0]
    assert "item 600" in words(dry.stdout)
    assert "item" in words(first.stdout)
    assert "More is due" in first.stdout
    assert "item" in words(second.stdout)
    assert third.stdout == "Nothing was due.\n"


def test_a_sweep_answers_programs_with_one_value(stored: IsolatedMemory):
    run("hold", "add", "--user", "ann", "--reason", "r", "--by", "b", "--database", url_of(stored))

    swept = told(stored, "sweep")

    assert swept == {
        "counts": {}, "is_done": True, "held": 1, "damaged": 0, "is_dry_run": False, "locked": 0,
    }  # fmt: skip
    assert "1 users on legal hold" in run("sweep", "--database", url_of(stored)).stdout


def test_a_sweeper_goes_on_until_a_signal_ends_it_with_0(stored: IsolatedMemory):
    command = [sys.executable, "-m", "langmem_isolated", "sweep", "--every", "1"]
    environment = {**os.environ, "LANGMEM_ISOLATED_ROOT_KEY": KEY}
    store = stored.scope(user_id="bob", module_id="tutor").store()

    with subprocess.Popen(
        [*command, "--database", url_of(stored)], env=environment, stdout=subprocess.PIPE, text=True
    ) as sweeper:
        assert sweeper.stdout
        first = next(line for line in sweeper.stdout if "item" in line)
        store.put(("notes",), "late", {"n": 1}, ttl=EXPIRED)
        later = next(line for line in sweeper.stdout if "item" in line)
        sweeper.terminate()
        ended = sweeper.wait(timeout=60)

    assert [line.split()[-1] for line in (first, later)] == ["600", "1"]
    assert ended == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_sweep_between_two_batches_and_is_handed_back(
    stored: IsolatedMemory, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
):
    @contextmanager
    def signalling(_: str) -> Iterator[Callable[[int], None]]:
        yield lambda _: signal.raise_signal(number)

    monkeypatch.setattr(sweeping, "counting", signalling)
    before = signal.getsignal(number)

    ended = run("sweep", "--every", 3600, "--database", url_of(stored))

    assert (ended.exit_code, ended.stdout) == (0, "")
    assert signal.getsignal(number) is before
    assert 0 < stored.sweep(dry_run=True).counts["item"] < 600


def test_a_sweeper_that_fails_ends_with_1(stored: IsolatedMemory):
    url = ("--database", url_of(stored))

    failed = run("sweep", "--every", 3600, *url, key=None)

    assert "LANGMEM_ISOLATED_ROOT_KEY" in error_line(failed)


def test_policies_are_kept_listed_and_removed(stored: IsolatedMemory):
    url = ("--database", url_of(stored))
    assert "no policies" in run("retention", "list", *url).stdout
    kept = run("retention", "keep", "message", "--module", "tutor", "--days", 90, *url)
    assert kept.exit_code == 0, kept.output
    run("retention", "keep", "checkpoint", "--keep-latest", 5, "--idle-days", 7, *url)

    assert "message default tutor 90 days" in words(run("retention", "list", *url).stdout)
    assert told(stored, "retention", "list")[0] == {
        "kind": "checkpoint",
        "project_id": "default",
        "user_id": None,
        "module_id": None,
        "channel": None,
        "age_seconds": None,
        "idle_seconds": 604800.0,
        "keep_latest": 5,
    }
    removed = run("retention", "remove", "message", "--module", "tutor", *url)
    assert removed.exit_code == 0
    assert [policy["kind"] for policy in told(stored, "retention", "list")] == ["checkpoint"]
    gone = run("retention", "remove", "message", *url)
    assert "There is no policy there" in error_line(gone)


@pytest.mark.parametrize(
    "wrong", [["memo", "--days", 1], ["message"], ["item", "--keep-latest", 3]]
)
def test_a_policy_that_cannot_be_meant_is_wrong_usage(stored: IsolatedMemory, wrong: list[object]):
    done = run("retention", "keep", *wrong, "--database", url_of(stored))

    assert done.exit_code == 2
    assert stored.retention.list() == []


def test_holds_are_placed_listed_and_released(stored: IsolatedMemory):
    url = ("--database", url_of(stored))
    who = ("--user", "ann", "--reason", "case 7", "--by", "counsel")
    assert "Nobody" in run("hold", "list", *url).stdout
    assert run("hold", "add", *who, "--until", "2099-01-01", *url).exit_code == 0

    assert "ann default case 7 counsel" in words(run("hold", "list", *url).stdout)
    (one,) = told(stored, "hold", "list")
    assert (one["user_id"], one["until"]) == ("ann", "2099-01-01T00:00:00Z")
    refused = run("clear", "--user", "ann", "--yes", *url)
    assert "legal hold" in error_line(refused)
    assert run("hold", "release", "--user", "ann", *url).exit_code == 0
    assert told(stored, "hold", "list") == []


def test_clearing_asks_first_and_removes_nothing_unless_it_is_told_to(stored: IsolatedMemory):
    refused = run("clear", *ANN, "--database", url_of(stored))

    assert refused.exit_code == 1
    assert stored.scope(user_id="ann", module_id="tutor").verify().messages == 1


@pytest.mark.parametrize(
    ("which", "counts"),
    [
        (["--module", "tutor", "--session", "monday"], {"session": 1, "message": 1}),
        (["--module", "tutor", "--channel", "ai"], {"session": 1, "message": 1}),
        (["--module", "tutor"], {"session": 1, "message": 1, "item": 600}),
        ([], {"session": 1, "message": 1, "item": 600}),
    ],
)
def test_what_is_cleared_is_told_and_nobody_else_loses_anything(
    stored: IsolatedMemory, which: list[str], counts: dict[str, int]
):
    assert told(stored, "clear", "--user", "ann", *which, "--yes") == counts
    assert stored.scope(user_id="bob", module_id="tutor").verify().messages == 1


@pytest.mark.parametrize(
    "wrong",
    [["--session", "monday"], ["--module", "tutor", "--session", "x", "--channel", "y"]],
)
def test_what_is_to_be_cleared_must_be_clear(stored: IsolatedMemory, wrong: list[str]):
    assert run("clear", "--user", "ann", "--yes", *wrong).exit_code == 2


def test_clearing_tells_people_how_much_it_was(stored: IsolatedMemory):
    done = run("clear", "--user", "ann", "--yes", "--database", url_of(stored))
    again = run("clear", "--user", "ann", "--yes", "--database", url_of(stored))

    assert "item 600" in words(done.stdout)
    assert again.stdout == "There was nothing.\n"
