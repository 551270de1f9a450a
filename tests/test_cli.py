import base64
import json
import os
import re
import resource
import shlex
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
import typer
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import empty_checkpoint

import langmem_isolated
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database import schema
from langmem_isolated.cli import app
from langmem_isolated.cli.terminal import printable
from tests.command_line import KEY, OTHER_KEY, error_line, run, words
from tests.conftest import Attacker
from tests.postgres import PostgresServer

ANN = ("--user", "ann", "--module", "tutor")
HOSTILE = "[bold red]x[/]\x1b[2J\x1b]0;owned\x07\x9b31m\u202eevil\u2028:smile:\r\x00"
ACTING = {"\x1b", "\x07", "\x9b", "\u202e", "\u2028", "\r", "\x00"}


SECOND = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"


def answer(*command: object) -> Any:
    """What a command answers a program."""
    done = run(*command, "--json")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture
def said(memory: IsolatedMemory) -> IsolatedMemory:
    """Ann has talked in two sessions, Bob in one of the same id."""
    ann = memory.scope(user_id="ann", module_id="tutor")
    ann.sessions.create("monday", title="Fractions", channel="general")
    ann.chat_history("monday").add_messages([HumanMessage("What is 7 times 6?"), AIMessage("42")])
    ann.chat_history("tuesday").add_user_message("Still there?")
    memory.scope(user_id="bob", module_id="tutor").chat_history("monday").add_user_message("Hi!")
    return memory


def url_of(memory: IsolatedMemory) -> str:
    return memory._database.url.render_as_string(hide_password=False)


def commands(command: Any = None, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every command and its full name, the groups included."""
    command = command or typer.main.get_command(app)
    yield name, command
    for part, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {part}".strip())
    if name == "import":
        # The others are made of a catalogue, and looked at in `test_cli_import.py`.
        yield "import FILE", command.get_command(None, "FILE")


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_explains_itself_and_its_options(name: str):
    command = dict(commands())[name]

    shown = run(*name.split(), "--help")

    assert shown.exit_code == 0
    assert words(command.help.split("\n")[0]) in words(shown.stdout)
    for parameter in command.params:
        assert parameter.name == "help" or parameter.help, f"{name} {parameter.name}"


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_command_shows_examples_that_can_be_typed(name: str):
    known = dict(commands())
    shown = words(run(*name.split(), "--help").stdout)
    lines = known[name].epilog.split("\n\n")
    examples = [line for line in lines if line.startswith("langmem-isolated ")]

    assert examples
    for example in examples:
        assert words(example) in shown
        _, *typed = shlex.split(example)
        # That a file is meant need not be said.
        assert name.removesuffix(" FILE") in " ".join(typed)
        if typed == ["--version"]:
            continue
        count = 2 if " ".join(typed[:2]) in known else 1
        # Parses, and refuses what is not an option, without running anything.
        known[" ".join(typed[:count])].make_context("example", typed[count:])


def test_it_says_its_version():
    assert run("--version").stdout == f"langmem-isolated {langmem_isolated.__version__}\n"


@pytest.mark.parametrize(
    ("output", "status", "told"),
    [
        (">&-", 0, ""),
        (">/dev/full", 1, "langmem-isolated: The system refused: No space left on device.\n"),
    ],
)
def test_an_output_that_takes_nothing_shows_no_traceback(
    said: Path, output: str, status: int, told: str
):
    program = f"{shlex.quote(sys.executable)} -u -m langmem_isolated modules --user ann --json"
    done = subprocess.run(
        ["sh", "-c", f"{program} --database {url_of(said)} {output}"],
        capture_output=True,
        text=True,
        env={**os.environ, "LANGMEM_ISOLATED_ROOT_KEY": KEY},
        check=False,
    )
    assert (done.returncode, done.stderr) == (status, told)


@pytest.mark.parametrize("wrong", [["nothing"], ["sessions"], ["sessions", *ANN, "--limit", "0"]])
def test_a_command_that_is_written_wrong_ends_with_2(wrong: list[str]):
    assert run(*wrong).exit_code == 2


def test_it_has_the_commands_that_operators_know():
    of_both = ("rename", "archive", "unarchive", "pin", "unpin", "delete")
    assert {name for name, command in commands() if not hasattr(command, "commands")} == {
        "anchor check",
        "audit anchor",
        "audit break-glass",
        "audit entries",
        "audit off",
        "audit on",
        "audit status",
        "audit verify",
        "backup",
        "clear",
        "export",
        "import FILE",
        "hold add",
        "hold list",
        "hold release",
        "keygen",
        "keys move",
        "keys rotate",
        "keys status",
        "lock change",
        "lock collect",
        "lock remove",
        "lock set",
        "lock status",
        "demo",
        "digest",
        "doctor",
        "erase",
        "evidence check",
        "evidence keygen",
        "grants allow",
        "grants list",
        "grants revoke",
        "merge list",
        "merge plan",
        "merge run",
        "rotate-root-key",
        "merge undo",
        "adopt",
        "modules",
        "move",
        "profile compare",
        "profile show",
        "retention keep",
        "retention list",
        "restore",
        "rollback",
        "retention remove",
        "rls disable",
        "rls enable",
        "rls status",
        "schema citus",
        "schema roles",
        "schema status",
        "schema upgrade",
        "serve",
        "sessions",
        "show",
        "sweep",
        "stats",
        "threads",
        "verify",
        *(f"session {verb}" for verb in (*of_both, "close", "reopen")),
        *(f"thread {verb}" for verb in of_both),
    }


def test_a_printed_key_can_go_straight_into_the_environment():
    program = f'"{sys.executable}" -m langmem_isolated'
    script = (
        f'export LANGMEM_ISOLATED_ROOT_KEY=$({program} keygen); echo "$LANGMEM_ISOLATED_ROOT_KEY"'
    )

    ran = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)

    assert ran.stderr == ""
    assert LocalRootKey.from_text(ran.stdout).key_id.startswith("local:")
    assert len(ran.stdout) == 45


def test_each_key_is_new():
    assert run("keygen").stdout != run("keygen").stdout


@pytest.mark.parametrize("umask", [0, 0o022, 0o077])
def test_a_key_file_is_for_its_owner_alone(tmp_path: Path, umask: int):
    file = tmp_path / "root.key"
    before = os.umask(umask)
    try:
        made = run("keygen", "--file", file)
    finally:
        os.umask(before)

    assert made.exit_code == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().strip() not in made.output
    assert LocalRootKey.from_file(file)


def test_a_key_file_is_never_overwritten(tmp_path: Path):
    file, link = tmp_path / "root.key", tmp_path / "link"
    file.write_text("precious")
    link.symlink_to(tmp_path / "absent")

    assert "never overwritten" in error_line(run("keygen", "--file", file))
    assert "never overwritten" in error_line(run("keygen", "--file", link))
    assert "No such file" in error_line(run("keygen", "--file", tmp_path / "absent" / "key"))
    assert file.read_text() == "precious"
    assert not (tmp_path / "absent").exists()


def test_a_key_file_that_cannot_be_finished_is_removed(tmp_path: Path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, limits[1]))
    try:
        refused = run("keygen", "--file", tmp_path / "root.key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert "File too large" in error_line(refused)
    assert list(tmp_path.iterdir()) == []


def test_sessions_are_listed_newest_first(said: IsolatedMemory):
    shown = run("sessions", *ANN, "--database", url_of(said))

    assert shown.exit_code == 0
    text = words(shown.stdout)
    assert "tuesday 1 " in text
    assert "monday Fractions general 2 " in text
    assert text.index("tuesday") < text.index("monday")
    assert "monday" not in run("sessions", *ANN, "--limit", 1, "--database", url_of(said)).stdout


def test_a_scope_that_holds_nothing_is_told_so_and_not_made(said: IsolatedMemory):
    shown = run("sessions", "--user", "carol", "--module", "tutor", "--database", url_of(said))

    assert (shown.exit_code, shown.stdout.partition(".")[0]) == (0, "This scope has no sessions")
    assert said.modules(user_id="carol") == []


def test_projects_are_apart(said: IsolatedMemory):
    shown = run("sessions", *ANN, "--project", "other", "--database", url_of(said))

    assert shown.stdout.startswith("This scope has no sessions. ")


def test_a_damaged_session_is_listed_beside_the_others(said: IsolatedMemory):
    ann, database = said.scope(user_id="ann", module_id="tutor"), said._database
    ann.sessions.create("wednesday")
    sessions = schema.sessions
    database.inspect(
        lambda connection: connection.execute(
            sessions.update().where(sessions.c.count == 2).values(count=3)
        )
    )

    shown = run("sessions", *ANN, "--database", url_of(said))

    assert shown.exit_code == 0
    assert "(damaged: it does not open)" in shown.stdout
    assert "tuesday" in shown.stdout
    assert "Fractions" not in shown.stdout
    assert "does not open" in error_line(run("show", "monday", *ANN, "--database", url_of(said)))


def test_a_session_is_shown_with_its_numbers(said: IsolatedMemory):
    shown = run("show", "monday", *ANN, "--database", url_of(said))

    assert shown.exit_code == 0
    lines = rf"1 {SECOND} human What is 7 times 6\? 2 {SECOND} ai 42"
    assert re.search(lines, words(shown.stdout))
    assert "Hi!" not in shown.stdout

    last = words(run("show", "monday", *ANN, "--last", 1, "--database", url_of(said)).stdout)
    assert re.search(rf"2 {SECOND} ai 42", last)
    assert "7 times" not in last


def test_a_session_is_shown_with_when_each_message_was_said(said: IsolatedMemory):
    history = said.scope(user_id="ann", module_id="tutor").chat_history("monday")
    history.add_messages([HumanMessage("And 8?")], channel="general")
    times = [line.said_at for line in history.timed()]
    assert times == sorted(times)
    assert None not in times

    shown = words(run("show", "monday", *ANN, "--database", url_of(said)).stdout)
    read = answer("show", "monday", *ANN, "--last", 1, "--database", url_of(said))

    assert all(f"{moment:%Y-%m-%d %H:%M:%S}" in shown for moment in times)
    moment = times[-1].isoformat().replace("+00:00", "Z")
    assert read == [
        {"number": 3, "time": moment, "channel": "general", "role": "human", "id": None,
         "content": "And 8?", "tool_calls": []}
    ]  # fmt: skip


def test_sessions_threads_and_modules_are_listed_for_programs_too(said: IsolatedMemory):
    ann, url = said.scope(user_id="ann", module_id="tutor"), url_of(said)
    said.scope(user_id="ann", module_id="planner").store().put(("facts",), "1", {"x": 1})
    for thread_id in ("early", "late"):
        config = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        ann.checkpointer().put(config, empty_checkpoint(), {}, {})

    sessions = answer("sessions", *ANN, "--database", url)
    threads = answer("threads", *ANN, "--database", url)
    assert [(one["id"], one["messages"], one["damaged"]) for one in sessions] == [
        ("tuesday", 1, False), ("monday", 2, False),
    ]  # fmt: skip
    assert [(one["id"], one["checkpoints"]) for one in threads] == [("late", 1), ("early", 1)]
    assert all(re.fullmatch(r"[\d-]+T[\d:.]+Z", one["last_activity"]) for one in sessions + threads)
    assert len(answer("threads", *ANN, "--limit", 1, "--database", url)) == 1
    assert answer("modules", "--user", "ann", "--database", url) == ["planner", "tutor"]

    assert "late 1 " in words(run("threads", *ANN, "--database", url).stdout)
    assert "planner tutor" in words(run("modules", "--user", "ann", "--database", url).stdout)


def test_sessions_are_found_by_title_by_page_and_archived(said: IsolatedMemory):
    ann, at = said.scope(user_id="ann", module_id="tutor"), ("--database", url_of(said))
    ann.sessions.create("wednesday", title="Brüche")
    ann.sessions.archive("tuesday")
    ann.sessions.pin("monday")

    def ids(*options: str) -> list[str]:
        return [one["id"] for one in answer("sessions", *ANN, *options, *at)]

    assert ids() == ["monday", "wednesday"]
    assert ids("--before", "monday") == ["wednesday"]
    assert ids("--search", "bruch") == ["wednesday"]
    assert ids("--archived") == ["tuesday"]
    assert "pinned" in run("sessions", *ANN, *at).stdout
    assert run("sessions", *ANN, "--search", "physics", *at).stdout == (
        "This scope has no such sessions.\n"
    )
    assert "no session of that id" in error_line(run("sessions", *ANN, "--before", "x", *at))
    assert [one["content"] for one in answer("show", "tuesday", *ANN, *at)] == ["Still there?"]


def test_a_session_is_changed_and_nobody_elses(said: IsolatedMemory):
    ann, at = said.scope(user_id="ann", module_id="tutor"), ("--database", url_of(said))
    bob = said.scope(user_id="bob", module_id="tutor")
    of_bob = bob.sessions.get("monday")

    assert answer("session", "rename", "monday", "Ratios", *ANN, *at) == {"renamed": 1}
    for verb in ("close", "archive", "pin"):
        shown = run("session", verb, "monday", *ANN, *at)
        assert shown.stdout == f"The session is {verb.removesuffix('e')}ed.\n".replace(
            "pined", "pinned"
        )
    monday = ann.sessions.get("monday")
    assert (monday.title, monday.closed, monday.archived, monday.pinned) == (
        "Ratios", True, True, True,
    )  # fmt: skip
    for verb in ("reopen", "unarchive", "unpin"):
        assert run("session", verb, "monday", *ANN, *at).exit_code == 0
    monday = ann.sessions.get("monday")
    assert (monday.closed, monday.archived, monday.pinned) == (False, False, False)
    assert answer("session", "delete", "monday", *ANN, *at) == {"deleted": 1}
    assert ann.chat_history("monday").count() == 0
    assert "no session of that id" in error_line(run("session", "pin", "monday", *ANN, *at))
    assert bob.sessions.get("monday") == of_bob


def test_a_thread_is_changed_found_by_title_and_deleted(said: IsolatedMemory):
    ann, at = said.scope(user_id="ann", module_id="tutor"), ("--database", url_of(said))
    for thread_id in ("early", "late"):
        config = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
        ann.checkpointer().put(config, empty_checkpoint(), {}, {})

    assert answer("thread", "rename", "early", "Fractions", *ANN, *at) == {"renamed": 1}
    assert answer("thread", "pin", "early", *ANN, *at) == {"pinned": 1}
    assert [one["id"] for one in answer("threads", *ANN, *at)] == ["early", "late"]
    assert [one["title"] for one in answer("threads", *ANN, "--search", "FRAC", *at)] == [
        "Fractions"
    ]
    shown = words(run("threads", *ANN, *at).stdout)
    assert "Fractions" in shown
    assert "pinned" in shown
    assert answer("thread", "archive", "early", *ANN, *at) == {"archived": 1}
    assert [one["id"] for one in answer("threads", *ANN, *at)] == ["late"]
    assert answer("thread", "delete", "late", *ANN, *at) == {"deleted": 1}
    assert "no thread of that id" in error_line(run("thread", "delete", "late", *ANN, *at))
    assert [one["id"] for one in answer("threads", *ANN, "--archived", *at)] == ["early"]


def test_who_has_nothing_is_told_so_and_programs_get_an_empty_list(said: IsolatedMemory):
    carol, url = ("--user", "carol"), url_of(said)
    for command in (
        ("sessions", *carol, "--module", "tutor"),
        ("threads", *carol, "--module", "tutor"),
        ("modules", *carol),
    ):
        assert re.fullmatch(
            r"This (scope|user) has no .*\.\n", run(*command, "--database", url).stdout
        )
        assert answer(*command, "--database", url) == []
    assert answer("modules", "--user", "ann", "--project", "other", "--database", url) == []


def test_how_much_there_is_is_told_without_naming_a_user(said: IsolatedMemory):
    url = url_of(said)
    usage = {"input_tokens": 7, "output_tokens": 9, "total_tokens": 16}
    answered = AIMessage("42", usage_metadata=usage, response_metadata={"model": "[red]small"})
    said.scope(user_id="bob", module_id="tutor").chat_history("monday").add_messages([answered])

    found = answer("stats", "--largest", 1, "--days", 2, "--database", url)
    ann = answer("stats", *ANN, "--database", url)
    shown = run("stats", "--largest", 1, "--database", url).stdout

    assert (found["total"]["users"], found["total"]["messages"]) == (2, 5)
    assert [(one["project"], one["module"]) for one in found["modules"]] == [("default", "tutor")]
    assert [day["active_users"] for day in found["days"]] == [0, 2]
    assert found["tokens"][0]["model"] == "[red]small"
    assert ann["total"]["sessions"] == 2
    assert "default tutor 2 3 5 " in words(shown)
    assert "[red]small 1 7 9" in words(shown)
    assert "bob" not in shown + json.dumps(found)
    assert "--module" in error_line(run("stats", "--user", "ann", "--database", url))


def test_the_digest_of_a_scope_is_the_one_in_the_tables(
    said: IsolatedMemory, attacker: Attacker, tmp_path: Path
):
    url = url_of(said)
    told = answer("digest", *ANN, "--database", url)

    assert base64.b64decode(told["base64"]).hex() == told["hex"]
    assert (bytes.fromhex(told["hex"]),) in attacker("SELECT scope_id FROM scopes")
    assert f"hex {told['hex']}" in words(run("digest", *ANN, "--database", url).stdout)
    with IsolatedMemory(f"sqlite:///{tmp_path}/empty.db", root_key=LocalRootKey.from_text(KEY)):
        empty = run("digest", *ANN, "--database", f"sqlite:///{tmp_path}/empty.db")
    assert "Nothing was ever stored" in error_line(empty)


def test_checks_answer_programs_with_the_same_status(said: IsolatedMemory):
    url = url_of(said)

    found = answer("doctor", "--database", url)
    assert {"check": "root key fits", "state": "ok"}.items() <= found[-1].items()
    failed = run("doctor", "--json", "--database", url, key=OTHER_KEY)
    assert failed.exit_code == 1
    assert json.loads(failed.stdout)[-1]["state"] == "fail"
    (upgraded,) = answer("schema", "upgrade", "--database", url)
    assert upgraded["name"] == "database"
    assert upgraded["before"] == upgraded["version"] >= 1


def test_parts_and_tool_calls_are_shown_too(memory: IsolatedMemory):
    call = {"name": "add", "args": {"a": "fünf"}, "id": "c1", "type": "tool_call"}
    memory.scope(user_id="ann", module_id="tutor").chat_history("monday").add_messages(
        [
            HumanMessage([{"type": "text", "text": "look"}, "here"]),
            AIMessage("", tool_calls=[call]),
            ToolMessage("done", tool_call_id="c1"),
        ]
    )

    text = words(run("show", "monday", *ANN, "--database", url_of(memory)).stdout)

    text = re.sub(SECOND, "at", text)
    assert '1 at human {"type": "text", "text": "look"} "here"' in text
    assert '2 at ai {"name": "add", "args": {"a": "fünf"}' in text
    assert "3 at tool done" in text


def test_a_session_of_somebody_else_is_not_there(said: IsolatedMemory):
    said.scope(user_id="ann", module_id="tutor").sessions.create("empty")
    url = url_of(said)

    assert "no session of that id" in error_line(run("show", "nope", *ANN, "--database", url))
    assert "no session of that id" in error_line(
        run("show", "tuesday", "--user", "bob", "--module", "tutor", "--database", url)
    )
    assert run("show", "empty", *ANN, "--database", url).exit_code == 0


def test_the_environment_names_the_database(said: IsolatedMemory):
    shown = run("show", "monday", *ANN, LANGMEM_ISOLATED_DATABASE=url_of(said))

    assert "42" in shown.stdout


def test_keys_may_be_in_another_database(tmp_path: Path):
    data, keys = (f"sqlite:///{tmp_path}/{name}.db" for name in ("data", "keys"))
    both = ("--database", data, "--key-store", keys)

    assert run("schema", "upgrade", *both).exit_code == 0
    with IsolatedMemory(data, key_store=keys, root_key=LocalRootKey.from_text(KEY)) as memory:
        memory.scope(user_id="ann", module_id="tutor").chat_history("s").add_user_message("Hello")

    assert "Hello" in run("show", "s", *ANN, *both).stdout
    assert "root key fits ok" in words(run("doctor", *both).stdout)
    assert "key store" in error_line(run("show", "s", *ANN, "--database", data))


def test_stored_text_does_not_act_on_the_terminal(memory: IsolatedMemory):
    ann = memory.scope(user_id="ann", module_id="tutor")
    ann.sessions.create("[red]monday[/red]", title=HOSTILE, channel=HOSTILE)
    ann.chat_history("[red]monday[/red]").add_user_message(HOSTILE)

    listed = run("sessions", *ANN, "--database", url_of(memory))
    shown = run("show", "[red]monday[/red]", *ANN, "--database", url_of(memory))

    for result in (listed, shown):
        assert result.exit_code == 0, result.output
    for command in (("sessions",), ("show", "[red]monday[/red]")):
        read = run(*command, *ANN, "--json", "--database", url_of(memory)).stdout
        assert read.isascii()
        assert not ACTING & set(read)
        assert HOSTILE in json.loads(read)[0].values()
    for result in (listed, shown):
        assert not ACTING & set(result.output)
        assert "[bold" in result.stdout
    assert "[red]monday[/red]" in words(listed.stdout)
    assert "[bold red]x[/]\\x1b[2J\\x1b]0;owned\\x07\\x9b31m\\u202eevil\\u2028" in shown.stdout


def test_text_that_people_write_stays_as_it_is():
    for text in ("Zürich", "日本語\nعربي", "👩💻 ok", "a\u00a0b"):
        assert printable(text) == text
    assert printable("a\tb\r\nc") == "a   b\nc"


def test_joiners_are_shown_though_persian_and_emoji_are_written_with_them():
    """Between any two letters they say something that nobody sees."""
    assert printable("می\u200cخو") == "می\\u200cخو"
    assert printable("👩\u200d💻 ok") == "👩\\u200d💻 ok"


def test_asking_makes_no_database(tmp_path: Path):
    for url in (f"sqlite:///{tmp_path}/absent.db", f"sqlite:///file:{tmp_path}/absent.db?uri=true"):
        for command in (("sessions", *ANN), ("show", "monday", *ANN)):
            assert "no database file" in error_line(run(*command, "--database", url))
        examined = run("doctor", "--database", url)
        assert examined.exit_code == 1
        assert "database fail There is no database file" in words(examined.stdout)

    assert list(tmp_path.iterdir()) == []


def test_asking_an_in_memory_database_makes_no_sense():
    assert "no database file" in error_line(run("sessions", *ANN, "--database", "sqlite://"))


def test_asking_makes_no_tables(tmp_path: Path):
    (tmp_path / "empty.db").touch()
    url = f"sqlite:///{tmp_path}/empty.db"

    assert "schema upgrade" in error_line(run("sessions", *ANN, "--database", url))
    assert run("doctor", "--database", url).exit_code == 1
    with closing(sqlite3.connect(tmp_path / "empty.db")) as connection:
        assert connection.execute("SELECT * FROM sqlite_master").fetchall() == []


def test_the_schema_is_upgraded_once(tmp_path: Path):
    upgrade = ("schema", "upgrade", "--database", f"sqlite:///{tmp_path}/memory.db")

    first, second = run(*upgrade, key=None), run(*upgrade, key=None)

    assert first.stdout == "database: schema version 1, upgraded from 0\n"
    assert second.stdout == "database: schema version 1, nothing to do\n"


def test_the_doctor_finds_a_sound_database_sound(said: IsolatedMemory):
    examined = run("doctor", "--database", url_of(said))

    assert examined.exit_code == 0, examined.output
    text = words(examined.stdout)
    assert "root key ok local:" in text
    assert "database: schema ok version 1" in text
    assert "root key fits ok" in text
    assert "fail" not in text


def test_the_doctor_reads_the_settings_of_a_connection(sqlite_url: str):
    run("schema", "upgrade", "--database", sqlite_url)

    examined = run("doctor", "--database", sqlite_url)

    assert examined.exit_code == 0
    text = words(examined.stdout)
    for finding in ("journal_mode ok wal", "synchronous ok 2", "secure_delete ok 1"):
        assert f"database: {finding}" in text
    assert "database: foreign_keys ok 1" in text
    assert "root key fits warn there are no keys yet" in text


def test_the_doctor_fails_what_would_not_work(said: IsolatedMemory, tmp_path: Path):
    url = url_of(said)
    readable = tmp_path / "key"
    readable.write_text(KEY)
    readable.chmod(0o644)

    for findings, examined in {
        "root key fail No root key": run("doctor", "--database", url, key=None),
        "root key fits fail The keys in this database were wrapped by root key": run(
            "doctor", "--database", url, key=OTHER_KEY
        ),
        "root key fail The root key file has mode 0644": run(
            "doctor", "--database", url, key=None, LANGMEM_ISOLATED_ROOT_KEY_FILE=str(readable)
        ),
        "database fail The database URL cannot be read": run("doctor", "--database", "nonsense"),
    }.items():
        assert examined.exit_code == 1
        assert findings in words(examined.stdout)


def test_the_doctor_tells_of_a_file_that_others_may_use(sqlite_url: str):
    run("schema", "upgrade", "--database", sqlite_url)
    examined = words(run("doctor", "--database", sqlite_url).stdout)
    assert "database: file ok its owner alone may use it" in examined

    Path(sqlite_url.removeprefix("sqlite:///")).chmod(0o644)

    examined = run("doctor", "--database", sqlite_url)
    assert "database: file warn others may use it (mode 0644)" in words(examined.stdout)
    assert examined.exit_code == 0


def test_the_doctor_tells_how_often_the_key_used_most_was_used(
    said: IsolatedMemory, database_url: str
):
    url = database_url
    said._keyring._uses.store()
    with closing(Attacker(url)) as attacker:
        [(seals,)] = attacker("SELECT max(seals) FROM key_uses")
        assert seals > 0
        examined = words(run("doctor", "--database", url).stdout)
        assert f"key uses ok the key used most has sealed {seals} of 2^32 records" in examined
        attacker("UPDATE key_uses SET seals = ?", 2**31)

    examined = words(run("doctor", "--database", url).stdout)
    assert "key uses warn the key used most has sealed 2147483648 of 2^32" in examined
    assert "rotate its user's keys" in examined


def test_the_doctor_warns_of_a_role_that_row_level_security_does_not_bind(postgres_url: str):
    examined = run("doctor", "--database", postgres_url)

    assert examined.exit_code == 0
    text = words(examined.stdout)
    assert "role is superuser warn yes" in text
    assert "role is bypassrls warn yes" in text
    assert "role is owner warn yes" in text
    assert "fsync warn off: what was acknowledged is lost" in text


def test_the_doctor_checks_what_a_role_may_do(postgres_url: str, postgres: PostgresServer):
    name = postgres_url.rsplit("/", 1)[1]
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE serving_{name} LOGIN")
        connection.execute(f"GRANT USAGE ON SCHEMA langmem_isolated TO serving_{name}")
        connection.execute(
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA langmem_isolated "
            f"TO serving_{name}"
        )
        url = postgres.url(name, user=f"serving_{name}")

        allowed = run("doctor", "--database", url)
        connection.execute(f"REVOKE DELETE ON langmem_isolated.records FROM serving_{name}")
        refused = run("doctor", "--database", url)
        connection.execute(f"DROP OWNED BY serving_{name}; DROP ROLE serving_{name}")

    assert allowed.exit_code == 0
    for finding in ("superuser ok no", "bypassrls ok no", "owner ok no"):
        assert f"role is {finding}" in words(allowed.stdout)
    assert "privileges ok" in words(allowed.stdout)
    assert refused.exit_code == 1
    assert "privileges fail lacks some on records" in words(refused.stdout)


def test_each_refusal_is_one_clear_line(said: IsolatedMemory, tmp_path: Path):
    url = url_of(said)
    (tmp_path / "text.db").write_text("not a database, " * 1000)
    show = ("show", "monday", "--user", "ann", "--module", "tutor", "--database")

    assert "No root key" in error_line(run(*show, url, key=None))
    assert "base64" in error_line(run(*show, url, key="short"))
    assert "wrapped by root key" in error_line(run(*show, url, key=OTHER_KEY))
    assert "not a database" in error_line(run(*show, f"sqlite:///{tmp_path}/text.db"))
    assert "user_id must be" in error_line(
        run("sessions", "--user", "", "--module", "tutor", "--database", url)
    )
    assert "session_id must be" in error_line(run("show", "", *ANN, "--database", url))
    refused = error_line(run(*show, "postgresql://ann:hunter2@127.0.0.1:1/none"))
    assert "PostgreSQL" in refused
    assert "hunter2" not in refused
    refused = error_line(run(*show, "mysql://ann:hunter2@127.0.0.1/none"))
    assert "hunter2" not in refused


def test_a_driver_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)

    line = error_line(run("schema", "upgrade", "--database", "postgresql://127.0.0.1/memory"))

    assert "pip install 'langmem-isolated[postgres]'" in line


def test_a_later_schema_is_refused_with_both_numbers(said: IsolatedMemory):
    said._database.inspect(
        lambda connection: connection.execute(schema.installation.update().values(version=99))
    )

    for command in (("show", "monday", *ANN), ("sessions", *ANN), ("schema", "upgrade"), ("demo",)):
        line = error_line(run(*command, "--database", url_of(said)))
        assert "99" in line
        assert " 1" in line


def test_content_of_a_terminal_that_knows_few_characters_is_shown_all_the_same(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey.from_text(KEY)) as memory:
        memory.scope(user_id="ann", module_id="tutor").chat_history("s").add_user_message("日本")

    ran = subprocess.run(
        [sys.executable, "-m", "langmem_isolated", "show", "s", *ANN, "--database", url],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "LANGMEM_ISOLATED_ROOT_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "\\u65e5\\u672c" in ran.stdout


def test_nothing_that_goes_wrong_shows_local_variables():
    """Typer's own tracebacks do, and those hold messages and keys."""
    assert not app.pretty_exceptions_enable
    assert not app.pretty_exceptions_show_locals
