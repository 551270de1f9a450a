"""Pages on privacy forget nothing that is stored, and commands of the documentation are there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._crypto.kinds import Kind
from langmem_isolated._database.schema import metadata
from langmem_isolated.cli.app import app
from tests.test_docs import PAGES, table

STORED, LEAVING = PAGES["docs/privacy/stored.md"], PAGES["docs/privacy/leaving.md"]
PROGRAM: Any = typer.main.get_command(app)
COMMAND = "langmem-isolated "
# What an evidence pack begins with.
_NO_COMMAND = "langmem-isolated evidence pack v1"
# Pages that the site makes of the program itself are there where it was built.
WRITTEN = [
    page
    for page in PAGES
    if COMMAND in PAGES[page] and not page.startswith("docs/reference/commands/")
]


def rows(heading: str) -> dict[str, list[str]]:
    """The cells behind the first, by each name that stands in that."""
    return {
        name: cells[1:]
        for cells in table(STORED, heading)
        for name in re.findall(r"`(\w+)`", cells[0])
    }


def test_every_kind_of_record_is_on_the_page_with_how_long_it_lives():
    assert set(rows("Records")) == {kind.label for kind in Kind}


def test_every_table_is_on_the_page_with_how_it_ends():
    assert set(rows("Tables")) == set(metadata.tables)


@pytest.mark.parametrize("heading", ["Records", "Tables"])
def test_no_row_of_what_is_stored_leaves_a_cell_empty(heading: str):
    reserved = {"audit", "node_cache", "blind_index"} if heading == "Records" else set()
    found = {name: cells for name, cells in rows(heading).items() if name not in reserved}

    assert [name for name, cells in found.items() if not all(map(str.strip, cells))] == []


def commands_of(text: str) -> Iterator[str]:
    """The commands of blocks for shells, and of code within lines, one line each."""
    for block in re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL):
        yield from re.sub(r"\\\n\s*", "", block).splitlines()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for span in re.findall(r"`(langmem-isolated [^`]+)`", prose):
        yield " ".join(span.split())


def words_of(line: str) -> list[list[str]]:
    """What is run of ours in a line, without what a shell does with it."""
    found = re.findall(r"langmem-isolated +([^|<>;&#)\n]*)", line)
    return [shlex.split(one.replace("…", "X").replace("'", "").strip()) for one in found]


def unknown_of(words: list[str]) -> str | None:
    """The first word that is no command or option, where one should stand."""
    command = PROGRAM
    for word in words:
        options = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        if word.startswith("-"):
            if word.partition("=")[0] not in {*options, "--help", "-"}:
                return word
        elif command.name == "import":
            return None  # its commands are made of what a source needs, when one is named
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return word
            command = command.commands[word]
    return None


def written(page: str) -> list[str]:
    """Commands as they are printed on a page; lists of commands in one line are no command."""
    lines = [line for line in commands_of(PAGES[page]) if COMMAND in line and "|" not in line]
    return [line for line in lines if line != _NO_COMMAND]


@pytest.mark.parametrize("page", WRITTEN)
def test_every_command_of_the_documentation_exists_with_its_options(page: str):
    wrong = [
        (line, unknown)
        for line in written(page)
        for words in words_of(line)
        if (unknown := unknown_of(words))
    ]

    assert wrong == []


def test_a_command_that_does_not_exist_is_found():
    assert unknown_of(["erase", "--pending"]) == "--pending"
    assert unknown_of(["keys", "forget"]) == "forget"


def test_requests_are_answered_by_the_commands_as_they_are_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """From "What do you hold about me?" to the receipt, in this order."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGMEM_ISOLATED_ROOT_KEY", LocalRootKey.generate_text())
    monkeypatch.setenv("LANGMEM_ISOLATED_DATABASE", "sqlite:///memory.db")
    with IsolatedMemory("sqlite:///memory.db") as memory:
        history = memory.scope(user_id="ann", module_id="tutor").chat_history("monday")
        history.add_user_message("I like fractions")
    section = LEAVING.partition("### What do you hold about me\n")[2].partition("### Afterwards")[0]
    lines = [
        line.strip()
        for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
        for line in block.splitlines()
        if COMMAND in line
    ]
    spans = re.findall(r"`langmem-isolated ((?:retention|hold) list)`", section)

    assert [line.split()[1] for line in lines] == ["modules", "export", "erase"]
    assert spans == ["retention list", "hold list", "hold list"]
    told = ""
    for words in (*words_of("\n".join(lines)), *map(str.split, spans)):
        ran = CliRunner().invoke(app, words, input="ann\n")
        assert ran.exit_code == 0, ran.output
        told += ran.output
    assert (tmp_path / "ann.zip").exists()
    with IsolatedMemory("sqlite:///memory.db") as memory:
        assert memory.modules("ann") == []
        assert "keys" in told
