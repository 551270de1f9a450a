"""`import` and `rollback` on the command line: what they print, leave behind, and end with."""

import hashlib
import json
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import Result

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.cli import app
from langmem_isolated.cli.importing.options import shared_parameters
from langmem_isolated.importers import source_specs
from tests.command_line import error_line, run, words
from tests.conftest import ROOT_KEY
from tests.lines_source import CANARY, chat_database

PATTERN = r"(?P<user>\w+):(?P<session>.+)"

Imports = Callable[..., Result]


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A target that is there and has nothing in it."""
    url = f"sqlite:///{tmp_path}/target.db"
    IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)).open().close()
    return url


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Two users with a session of three messages each."""
    return chat_database(tmp_path / "chats.db", users=2, messages=3)


@pytest.fixture
def imports(chats: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Imports:
    """`import sql-chat-history`, with what is written beside in a folder of its own."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def imports(*options: object, rules: tuple[str, ...] = ("--id-pattern", PATTERN)) -> Result:
        fixed = ("--module", "chat", *rules, "--database", url)
        return run("import", "sql-chat-history", chats, *fixed, *options)

    return imports


def of_user(url: str, user: str) -> list[str]:
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        history = memory.scope(user_id=user, module_id="chat").chat_history("0")
        return [str(message.content) for message in history.messages]


def test_a_dry_run_shows_what_would_go_where_and_touches_nothing(imports: Imports, tmp_path: Path):
    def files() -> dict[Path, str]:
        found = (path for path in tmp_path.rglob("*") if path.is_file())
        return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in found}

    before = files()

    shown = imports("--dry-run", "--verbose")
    told = json.loads(imports("--dry-run", "--json", "--by-scope").stdout)

    assert files() == before
    assert "chat session 2 2 6 messages" in words(shown.stdout)
    assert "Nothing was written." in shown.stdout
    assert told["target_bytes"] > told["source_bytes"] > 0
    assert "mapped" in shown.stderr
    assert {one["user"]: one["records"] for one in told["by_scope"]} == {"user0": 3, "user1": 3}
    for output in (shown.stdout, shown.stderr):
        assert "user0" not in output
        assert CANARY not in output


def test_an_import_is_undone_by_its_receipt(imports: Imports, url: str, tmp_path: Path):
    done = imports("--json", "--receipt", tmp_path / "receipt.json")
    receipt = json.loads(done.stdout)

    assert done.exit_code == 0
    assert (receipt["status"], receipt["units"]) == ("done", {"copied": 2})
    assert receipt["receipt"] == str(tmp_path / "receipt.json")
    assert stat.S_IMODE((tmp_path / "receipt.json").stat().st_mode) == 0o600
    assert of_user(url, "user1") == [f"1 {number} {CANARY}" for number in range(3)]

    undone = run("rollback", tmp_path / "receipt.json", "--yes", "--database", url)
    again = run("rollback", tmp_path / "receipt.json", "--yes", "--json", "--database", url)

    assert (undone.exit_code, again.exit_code) == (0, 0)
    assert "session 2" in words(undone.stdout)
    assert json.loads(again.stdout)["counts"] == {}
    assert of_user(url, "user1") == []
    assert json.loads((tmp_path / "receipt.json").read_text())["status"] == "rolled back"


def test_a_rollback_asks_first_and_knows_its_own_database(imports: Imports, tmp_path: Path):
    receipt = json.loads(imports("--json").stdout)["receipt"]
    other = f"sqlite:///{tmp_path}/other.db"
    IsolatedMemory(other, root_key=LocalRootKey(ROOT_KEY)).open().close()

    refused = run("rollback", receipt, "--database", other, stdin="n\n")
    elsewhere = run("rollback", receipt, "--yes", "--json", "--database", other)
    none = run("rollback", tmp_path / "chats.db", "--yes", "--database", other)

    assert refused.exit_code == 1
    assert "nothing of that import is in this database" in error_line(elsewhere)
    assert "not what an import writes" in error_line(none)


def test_a_killed_import_is_not_called_rolled_back_by_another_database(
    imports: Imports, url: str, tmp_path: Path
):
    receipt = Path(json.loads(imports("--json").stdout)["receipt"])
    # As a process that was killed leaves it.
    told = json.loads(receipt.read_text()) | {"status": "running", "modules": [], "units": {}}
    receipt.write_text(json.dumps(told))
    other = f"sqlite:///{tmp_path}/other.db"
    IsolatedMemory(other, root_key=LocalRootKey(ROOT_KEY)).open().close()

    assert run("rollback", receipt, "--yes", "--database", other).exit_code == 0
    assert json.loads(receipt.read_text())["status"] == "running"
    assert run("rollback", receipt, "--yes", "--database", url).exit_code == 0
    assert json.loads(receipt.read_text())["status"] == "rolled back"
    assert of_user(url, "user0") == []


def test_what_has_no_owner_is_refused_left_out_or_told(imports: Imports, url: str):
    only_one = ("--id-pattern", "(?P<user>user0):(?P<session>.+)")

    planned = imports("--dry-run", rules=only_one)
    stopped = imports(rules=only_one)
    skipped = imports("--unmapped", "skip", rules=only_one)
    reported = imports("--unmapped=report", "--rejects", "rejects.jsonl", rules=only_one)

    assert planned.exit_code == 3
    assert "1 have no owner by this mapping" in planned.stdout
    assert "There is no default user" in error_line(stopped)
    assert skipped.exit_code == 0
    assert "unmapped 1" in words(skipped.stdout)
    assert reported.exit_code == 3
    assert json.loads(Path("rejects.jsonl").read_text())["state"] == "unmapped"
    assert len(of_user(url, "user0")) == 3


def test_rules_come_from_columns_tables_functions_and_files(imports: Imports, tmp_path: Path):
    (tmp_path / "owners.csv").write_text("id,user,name\nuser0:0,ann,first\nuser1:0,bob,\n")
    (tmp_path / "mapping.toml").write_text(f"pattern = '{PATTERN}'\n")

    def users(*rules: str) -> set[str]:
        planned = imports("--dry-run", "--json", "--by-scope", rules=rules)
        return {one["user"] for one in json.loads(planned.stdout)["by_scope"]}

    assert users("--map", str(tmp_path / "owners.csv")) == {"ann", "bob"}
    assert users("--mapping", str(tmp_path / "mapping.toml")) == {"user0", "user1"}
    assert users("--columns", "owner", "--user-column", "owner") == {"of user0", "of user1"}
    assert users("--user-column", "owner") == {"of user0", "of user1"}
    assert users("--user", "ann") == {"ann"}


@pytest.mark.parametrize(
    ("rules", "status", "told"),
    [
        ((), 1, "No rule tells the user"),
        (("--user", "ann", "--user-column", "owner"), 2, "Give --user or --user-column"),
        (("--user", "ann", "--id-pattern", PATTERN), 1, "Two rules tell the user"),
        (("--map", "nowhere.csv"), 1, "cannot be read"),
        (("--user", "ann", "--backup", "a", "--no-backup"), 2, "Give --backup or --no-backup"),
        (("--user", "ann", "--unmapped", "guess"), 2, "Invalid value"),
    ],
)
def test_rules_that_cannot_be_meant_end_with_a_line(
    imports: Imports, rules: tuple[str, ...], status: int, told: str
):
    refused = imports(rules=rules)

    assert refused.exit_code == status
    assert told in words(refused.stderr.replace("│", ""))


def test_a_file_that_cannot_be_written_ends_with_a_line(imports: Imports, url: str):
    refused = imports("--receipt", "nowhere/receipt.json")

    assert "could not be read or written" in error_line(refused)
    assert of_user(url, "user0") == []


def test_every_source_has_a_command_with_its_own_options_and_those_of_all():
    group = typer.main.get_command(app).get_command(None, "import")
    shared = {one.name for one in shared_parameters()}

    listed = run("import", "--help").stdout

    for kind, spec in source_specs().items():
        command = group.get_command(None, kind)
        assert kind in listed
        assert all(one.help for one in command.params)
        own = {option.name for option in spec.options}
        assert {one.name for one in command.params} == own | shared | {"location"}
        assert spec.examples
        for example in spec.examples:
            named, *rest = shlex.split(example)
            assert named == kind
            # Parses, without running anything.
            command.make_context("example", rest)


@pytest.mark.parametrize("command", ["import sqlite-saver", "import redis", "import FILE", "adopt"])
def test_a_terminal_of_80_columns_shows_the_whole_help(command: str):
    shown = run(*command.split(), "--help", COLUMNS="80").stdout

    assert "(?P<user>[^:]+):(?P<session>.+)" in shown
    assert "…" not in shown.replace("import-….json", "")


def test_a_path_and_a_column_are_two_names_of_one_option(imports: Imports):
    def told(*rules: str) -> Result:
        return imports("--dry-run", rules=rules)

    assert told("--user-path", "owner").exit_code == 0
    assert told("--user-path", "owner").stdout == told("--user-column", "owner").stdout
    assert told("--user-path", "owner", "--user-column", "owner").exit_code == 2


def exported_chats(folder: Path) -> Path:
    """A list of OpenAI's messages."""
    said: list[dict[str, Any]] = [{"role": "user", "content": f"What is 6 times 7? {CANARY}"}]
    path = folder / "chats.jsonl"
    path.write_text(
        json.dumps({"messages": [*said, {"role": "assistant", "content": "42"}]}) + "\n"
    )
    return path


def test_a_file_without_the_name_of_a_source_is_found_out(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    owner = ("--user", "ann", "--module", "chat", "--database", url)

    # Its options may stand before it.
    done = run("import", "--json", exported_chats(tmp_path), *owner)
    unknown = run("import", tmp_path / "target.db", *owner)
    allowed = run("import", exported_chats(tmp_path), "--allow", "app.Order", *owner)

    assert json.loads(done.stdout)["source"] == "openai-jsonl"
    assert json.loads(done.stdout)["modules"][0]["records"] == 2
    assert (unknown.exit_code, allowed.exit_code) == (1, 2)
    assert "Nothing was imported" in error_line(unknown)


def test_a_name_that_is_misspelled_is_told_from_a_file_that_is_not_there(url: str, tmp_path: Path):
    owner = ("--user", "ann", "--module", "chat", "--database", url)
    (tmp_path / "cut.zip").write_bytes(b"PK\3\4" + bytes(100))

    misspelled = run("import", "sql-chat-histroy", "chats.db", *owner)
    absent = run("import", tmp_path / "conversations.json", *owner)
    cut = run("import", tmp_path / "cut.zip", *owner)

    assert misspelled.exit_code == 2
    assert "the nearest is sql-chat-history" in words(misspelled.stderr.replace("│", ""))
    assert "No such file or directory. Give the file, folder or zip" in error_line(absent)
    assert "the beginning of a zip. Fetch the export again." in error_line(cut)


def test_an_import_of_which_nothing_fits_says_so(imports: Imports, url: str):
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        for user in ("user0", "user1"):
            scope = memory.scope(user_id=user, module_id="chat")
            scope.chat_history("0").add_user_message("Something else")

    done = imports()

    assert done.exit_code == 3
    assert "taken 2" in words(done.stdout)
    assert done.stdout.endswith("Nothing was put in.\n")


def test_an_import_that_is_interrupted_says_how_to_go_on(
    imports: Imports, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # Both sessions are planned, the first is copied.
    (tmp_path / "here" / "stopping.py").write_text(
        "from itertools import count\n"
        "from langmem_isolated.importers import Owner\n"
        "asked = count(1)\n"
        "def owner_of(unit):\n"
        "    if next(asked) == 4:\n"
        "        raise KeyboardInterrupt\n"
        "    return Owner(unit.id.partition(':')[0], 'chat', name='0')\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "here")
    rules = ("--map-function", "stopping:owner_of")

    def moved() -> Result:
        return run("import", "sql-chat-history", tmp_path / "chats.db", *rules, "--database", url)

    stopped, done = moved(), moved()

    assert stopped.exit_code == 130
    assert "The same command goes on; to undo it: langmem-isolated rollback" in stopped.stderr
    assert done.exit_code == 0
    assert len(of_user(url, "user1")) == 3


def test_a_dry_run_ends_as_the_import_would(imports: Imports):
    only_one = ("--id-pattern", "(?P<user>user0):(?P<session>.+)")

    skipped = imports("--unmapped=skip", "--dry-run", rules=only_one)
    named = imports("--by-scope")

    assert skipped.exit_code == 0
    # It names people, and is asked for to look first.
    assert named.exit_code == 2
    assert "--by-scope tells of a --dry-run" in named.stderr


def test_an_export_of_ours_takes_no_rules(url: str, tmp_path: Path):
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        memory.scope(user_id="ann", module_id="chat").chat_history("0").add_user_message("Hi")
        memory.export_user("ann", tmp_path / "ann.zip")

    refused = run("import", tmp_path / "ann.zip", "--module", "chat", "--database", url)
    done = run("import", tmp_path / "ann.zip", "--user", "bob", "--database", url)

    assert refused.exit_code == 2
    assert "leave it out" in words(refused.stderr.replace("│", ""))
    assert "messages 1" in words(done.stdout)


@pytest.mark.parametrize("name", ["ANN.ZIP", "ann.zip.1", "ann"])
def test_an_export_of_ours_is_known_whatever_it_is_called(url: str, tmp_path: Path, name: str):
    with IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY)) as memory:
        memory.scope(user_id="ann", module_id="chat").chat_history("0").add_user_message("Hi")
        memory.export_user("ann", tmp_path / "ann.zip")
    (tmp_path / "ann.zip").rename(tmp_path / name)

    done = run("import", tmp_path / name, "--user", "bob", "--database", url)

    assert "messages 1" in words(done.stdout)


def test_every_command_of_the_page_about_moving_in_can_be_typed():
    page = (Path(__file__).parent.parent / "docs" / "how-to" / "moving-in.md").read_text()
    known = typer.main.get_command(app)
    typed = [shlex.split(line)[1:] for line in page.splitlines() if line.startswith("langmem-")]

    assert len(typed) == 5
    for words_typed in typed:
        meant, rest = known.get_command(None, words_typed[0]), words_typed[1:]
        if words_typed[0] == "import":
            meant, rest = meant.get_command(None, rest[0]), rest[1:]
        # Parses, without running anything.
        meant.make_context("moving in", rest)
