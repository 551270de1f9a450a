"""The READMEs of examples lead to what is there, and the tutorial says what the example does."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_docs import LINK, PAIR, names_in

PROJECT = Path(__file__).parent.parent
EXAMPLES = PROJECT / "examples"
READMES = sorted(EXAMPLES.rglob("README.md"))
TUTORIAL = PROJECT / "docs" / "tutorials" / "fastapi-chat.md"


def name_of(path: Path) -> str:
    return path.relative_to(EXAMPLES).as_posix()


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_what_a_readme_of_an_example_names_is_there(readme: Path):
    text, folder = readme.read_text(), readme.parent
    missing = [link for link in LINK.findall(text) if not (folder / link).exists()]
    for path, name in PAIR.findall(text):
        found = [root / path for root in (folder, PROJECT) if (root / path).exists()]
        if not found or name not in names_in(found[0]):
            missing.append(f"{path} {name}")

    assert missing == []


@pytest.mark.parametrize("readme", [one for one in READMES if one.parent != EXAMPLES], ids=name_of)
def test_a_readme_says_how_to_run_it_in_two_commands_what_to_look_at_and_what_is_left_out(
    readme: Path,
):
    text = readme.read_text()
    commands = text.partition("```sh\n")[2].partition("```")[0].splitlines()

    assert len(commands) == 2
    assert "pip install" in commands[0]
    assert "\n## What to look at\n" in text
    assert "\n## What it leaves out\n" in text


def test_every_example_has_a_row_with_its_test():
    text = (EXAMPLES / "README.md").read_text()
    rows = {
        row[0]: row[1]
        for row in re.findall(r"^\| \[`([\w/.]+)`\].*`(\S+)` \|$", text, re.MULTILINE)
    }
    readmes = {f"{one.parent.name}/" for one in READMES if one.parent != EXAMPLES}

    assert {*readmes, "ag_ui.py", "anonymous_chat.py"} <= set(rows)
    for name in readmes:
        assert "def test_" in (PROJECT / rows[name]).read_text()
    rest = {path.name for path in EXAMPLES.iterdir() if path.name != "__pycache__"}
    named = {name.strip("/") for name in re.findall(r"`([\w.]+/?)`", text)} | {"README.md"}
    assert rest <= named


def defined(source: str) -> Iterator[tuple[str, str]]:
    """Functions, classes and constants of a source by name, in one spelling."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, ast.unparse(node)
        elif isinstance(node, ast.Assign):
            yield ast.unparse(node.targets[0]), ast.unparse(node.value)


def test_the_tutorial_defines_what_the_example_does_word_for_word():
    blocks = re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(), re.DOTALL)
    shown = dict(defined("\n".join(blocks)))
    example = dict(defined((EXAMPLES / "fastapi_sse" / "app.py").read_text()))
    # The page's folder is beside the example, wherever the tutorial runs.
    same = {name for name in shown.keys() & example.keys() if name != "PAGES"}

    assert {"application", "scope_of", "config_of", "conversations", "Text", "MODULE"} <= same
    assert [name for name in sorted(same) if shown[name] != example[name]] == []
