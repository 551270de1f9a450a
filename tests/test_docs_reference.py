"""Pages that list something list all of it, and commands in the documentation are such."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.core import TyperGroup
from typer.main import get_command

import langmem_isolated
from langmem_isolated import errors
from langmem_isolated._runtime import environment
from langmem_isolated.cli import app
from tests.test_docs import PAGES, PROJECT

PACKAGE = Path(langmem_isolated.__file__).parent
PROGRAM = get_command(app)
ERRORS = PAGES["docs/reference/errors.md"]
VARIABLE = re.compile(r"`(LANGMEM_ISOLATED_[A-Z0-9_]+)`")


def sections(page: str, level: str) -> dict[str, str]:
    """What stands below each heading of a level."""
    parts = re.split(rf"^{level} (.+)$", page, flags=re.MULTILINE)
    return {
        name: text.partition("\n#")[0] for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def test_every_environment_variable_is_on_its_page_and_no_other():
    named = {value for name, value in vars(environment).items() if name.endswith("_VARIABLE")}
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    # What may stand in a file: `f"{ROOT_KEY_VARIABLE}_FILE"`.
    filed = {
        f"{getattr(environment, name)}_FILE"
        for name in re.findall(r"\{(\w+_VARIABLE)\}_FILE", source)
    }

    assert set(re.findall(r"LANGMEM_ISOLATED_[A-Z0-9_]+[A-Z]", source)) <= named | filed
    assert set(VARIABLE.findall(PAGES["docs/reference/environment.md"])) == named | filed


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_has_a_section_that_says_what_to_do(name: str):
    section = sections(ERRORS, "###")[name]

    assert "**What to do:** " in section
    assert len(section.partition("**What to do:** ")[0].split()) > 5


def test_no_error_is_on_the_page_that_is_none():
    assert sorted(sections(ERRORS, "###")) == sorted(errors.__all__)


def facts_of(name: str) -> set[str]:
    """What an error keeps, by the names of its attributes."""
    found = getattr(errors, name)
    tree = ast.parse("".join(path.read_text() for path in (PACKAGE / "errors").glob("*.py")))
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    stored = [
        one.attr
        for base in found.__mro__
        if base.__name__ in classes
        for one in ast.walk(classes[base.__name__])
        if isinstance(one, ast.Attribute) and isinstance(one.ctx, ast.Store)
    ]
    return set(stored) - {"args", "__module__"}


@pytest.mark.parametrize("name", errors.__all__)
def test_every_fact_that_an_error_keeps_is_named(name: str):
    told = re.findall(r"Tells (.+?)\.\n", sections(ERRORS, "###")[name], re.DOTALL)

    assert facts_of(name) <= set(re.findall(r"`(\w+)`", " ".join(told)))


def tree_of(error: type[Exception], depth: int = 0) -> Iterator[str]:
    yield f"{'  ' * depth}{error.__name__}"
    below = [getattr(errors, name) for name in sorted(errors.__all__)]
    for one in below:
        if error in one.__bases__:
            yield from tree_of(one, depth + 1)


def test_the_tree_of_errors_is_the_one_that_is_raised():
    shown = ERRORS.partition("```text\n")[2].partition("```")[0]

    assert shown.splitlines() == [*tree_of(errors.LangmemIsolatedError)]


LLMS = (PROJECT / "docs" / "llms.txt").read_text()


def test_the_index_for_programs_has_the_form_of_llms_txt():
    first, summary, *_ = [block for block in LLMS.split("\n\n") if block]
    listed = [line for part in sections(LLMS, "##").values() for line in part.splitlines() if line]

    assert first == "# langmem-isolated"
    assert all(line.startswith("> ") for line in summary.splitlines())
    assert [line for line in listed if not re.fullmatch(r"- \[.+\]\(\S+\): .+", line)] == []


def test_every_page_is_in_the_index_for_programs_under_its_title():
    listed = {
        path: title for title, path in re.findall(r"^- \[(.+)\]\((\S+)\): ", LLMS, re.MULTILINE)
    }
    pages = {
        page.removeprefix("docs/"): text.partition("\n")[0].removeprefix("# ")
        for page, text in PAGES.items()
        if page.startswith("docs/") and page != "docs/index.md"
    }

    assert listed == pages


# What is run, checked below, or read by no test because it says nothing of the program.
LANGUAGES = {"python", "sh", "console", "toml", "sql", "text", "json", "yaml", "ini", "html", "js"}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_of_code_says_its_language(page: str):
    opened = re.findall(r"^ *```(.*)\n(?:.*\n)*?^ *```$", PAGES[page], re.MULTILINE)

    assert {one for one in opened if one not in LANGUAGES and not one.startswith("{")} == set()


def typed(text: str) -> Iterator[list[str]]:
    """The commands of ours that a page names: in blocks of a shell, and in backticks."""
    blocks = re.findall(r"^ *```(?:sh|console)\n(.*?)^ *```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.MULTILINE | re.DOTALL)
    lines += re.findall(r"`(langmem-isolated [^`]+)`", " ".join(prose.split()))
    # That is how names of formats end.
    for line in (one for one in lines if not re.search(r" v\d+$", one)):
        for part in re.split(r"&&|\||;|\$\(|\)(?=\s|$)", line.partition(" #")[0]):
            words = re.sub(r"^[\s$]*((?:sudo|exec|uv run|podman|docker)\b.*? )?", "", part)
            if words.startswith("langmem-isolated "):
                yield shlex.split(words.replace("…", ""))[1:]


def refused(words: list[str]) -> str:
    """The first word that the command line would not know."""
    command = PROGRAM
    while words:
        word, *words = words
        if word.startswith("-"):
            name, _, value = word.partition("=")
            options = {
                name: one for one in command.params for name in (*one.opts, *one.secondary_opts)
            }
            if name not in {*options, "--help"}:
                return word
            if not (value or name == "--help" or options[name].is_flag):
                words = words[1:]
        elif isinstance(command, TyperGroup):
            # `import` takes a file where it takes no kind of source.
            context = command.context_class(command)
            found = command.get_command(context, word)
            command = found or ("." in word and command.get_command(context, "FILE"))
            if not command:
                return word
    return ""


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_is_named_is_there_with_its_options(page: str):
    assert [shlex.join(words) for words in typed(PAGES[page]) if refused(words)] == []


def test_a_command_or_option_that_is_not_there_is_noticed():
    text = "```sh\nlangmem-isolated keys rotat\nexport A=$(langmem-isolated keygen --fil b)\n```"
    prose = "With `langmem-isolated\nsweep --dry` nothing."

    assert [refused(words) for words in typed(text + prose)] == ["rotat", "--fil", "--dry"]
