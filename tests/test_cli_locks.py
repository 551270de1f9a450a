"""`langmem-isolated lock`: users' own locks on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.command_line import error_line, run, words
from tests.conftest import ROOT_KEY
from tests.locks import PASSPHRASE


@pytest.fixture
def database(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        memory.scope(user_id="ann", module_id="tutor").chat_history("a").add_user_message("Zebra17")
    return url


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file with the passphrase, as an editor leaves it."""
    path = tmp_path / "passphrase"
    path.write_text(PASSPHRASE + "\n")
    return path


def test_a_user_is_locked_and_the_recovery_code_is_printed_once(database: str, file: Path):
    made = run(
        "lock", "set", "--user", "ann", "--passphrase-file", file, "--json", "--database", database
    )
    code = json.loads(made.stdout)["recovery_code"]
    shown = run("lock", "status", "--user", "ann", "--json", "--database", database)
    told = run("lock", "status", "--user", "ann", "--database", database)
    refused = run("show", "--user", "ann", "--module", "tutor", "a", "--database", database)

    state = json.loads(shown.stdout)
    assert state["has_lock"]
    assert state["opened_by"] == ["passphrase", "recovery"]
    assert state["modules"][0]["messages"] + state["modules"][1]["messages"] == 1
    assert "Locked; opened by passphrase or recovery." in words(told.stdout)
    assert "memory is locked" in error_line(refused)
    assert code not in shown.stdout + told.stdout
    assert "Zebra17" not in refused.output + shown.output


def test_the_passphrase_is_asked_for_twice_and_shown_never(database: str):
    asked = f"{PASSPHRASE}\n{PASSPHRASE}\n"
    made = run("lock", "set", "--user", "ann", "--database", database, stdin=asked)

    assert made.exit_code == 0, made.output
    assert PASSPHRASE not in made.output
    other = run(
        "lock", "set", "--user", "ben", "--database", database, stdin="one phrase\nanother\n"
    )
    assert other.exit_code != 0


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (["lock", "set"], "--passphrase-file"),
        (["lock", "remove", "--recovery"], "--recovery-file"),
    ],
)
def test_where_no_terminal_is_to_ask_at_the_option_that_has_a_file_is_named(
    database: str, arguments: list[str], option: str
):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "langmem_isolated", *arguments),
            *("--user", "ann", "--database", database),
        ],
        env={**os.environ, "COLUMNS": "120"},
        stdin=subprocess.DEVNULL,
        start_new_session=True,  # no terminal at all
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 2
    assert f"There is no terminal to ask at. Give {option}." in done.stderr
    assert "Warning" not in done.stderr


def test_a_passphrase_is_changed_with_the_recovery_code_and_a_lock_removed(
    database: str, file: Path, tmp_path: Path
):
    here = ("--user", "ann", "--database", database)
    made = run("lock", "set", "--passphrase-file", file, "--json", *here)
    (tmp_path / "code").write_text(json.loads(made.stdout)["recovery_code"])
    (tmp_path / "new").write_text("a better one")
    changed = run(
        "lock", "change", "--recovery-file", tmp_path / "code",
        "--new-passphrase-file", tmp_path / "new", "--new-recovery", *here,
    )  # fmt: skip

    assert "The passphrase was changed." in changed.stdout
    assert "does not open" in error_line(run("lock", "remove", "--passphrase-file", file, *here))
    collected = run("lock", "collect", "--passphrase-file", tmp_path / "new", *here)
    assert "0 messages were brought" in collected.stdout
    removed = run("lock", "remove", "--passphrase-file", tmp_path / "new", *here)
    assert "The lock was removed" in removed.stdout
    assert "no lock" in run("lock", "status", *here).stdout


def test_a_short_passphrase_is_a_mistake_of_use(database: str, file: Path):
    file.write_text("short")

    made = run("lock", "set", "--user", "ann", "--passphrase-file", file, "--database", database)

    assert made.exit_code == 2
    assert "8 characters" in made.output


def test_what_all_modules_share_is_not_shown_as_a_sum_of_them(database: str, file: Path):
    run("lock", "set", "--user", "ann", "--passphrase-file", file, "--database", database)

    locks = run("lock", "status", "--user", "ann", "--database", database).stdout
    keys = run("keys", "status", "--user", "ann", "--database", database).stdout

    assert "(all" not in locks + keys
    assert "(shared by all) 0 0 0 0" in words(locks)
