import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.graph import START, MessagesState, StateGraph

import langmem_isolated
from langmem_isolated import IsolatedMemory, LocalRootKey
from tests.test_docs import table

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()
PACKAGE = Path(langmem_isolated.__file__).parent


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_every_python_block_of_the_readme_runs_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGMEM_ISOLATED_ROOT_KEY", LocalRootKey.generate_text())
    namespace: dict[str, object] = {}

    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), namespace)


def test_every_environment_variable_of_the_package_is_on_its_page():
    page = (PROJECT / "docs" / "reference" / "environment.md").read_text()
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r"LANGMEM_ISOLATED_[A-Z0-9_]+[A-Z]", source))

    assert named <= set(re.findall(r"`(LANGMEM_ISOLATED_[A-Z0-9_]+)`", page))


def test_every_figure_of_the_readme_stands_on_the_page_about_performance():
    page = (PROJECT / "docs" / "explanation" / "performance.md").read_text()
    measured = set(re.findall(r"[\d.,]*\d", page))
    cells = [cell for row in table(README, "Figures") for cell in row]
    told = {figure for cell in cells for figure in re.findall(r"\d[\d.,]*\d", cell)}

    assert len(told) > 10
    assert told - measured == set()


def test_ci_runs_the_test_command_of_the_readme():
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    script = (PROJECT / ".ci" / "run").read_text().splitlines()

    assert 'pip install -e ".[test]" && pytest' in commands
    assert script[-1] == "pytest"


SECTIONS = [
    *("Install", "Twelve lines", "The leak", "One line each", "What it promises"),
    *("The life of memory", "Figures", "Limits", "Documentation"),
]


def test_the_readme_can_be_read_in_five_minutes():
    assert len(README.splitlines()) <= 150
    assert re.findall(r"^## (.+)$", README, re.MULTILINE) == SECTIONS


def test_the_first_program_of_the_readme_has_twelve_lines():
    first = blocks("python")[0]

    assert len([line for line in first.splitlines() if line]) <= 12
    assert first in README.partition("## Twelve lines")[2].partition("##")[0]


def test_every_python_block_of_the_readme_runs_again_where_it_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGMEM_ISOLATED_ROOT_KEY", LocalRootKey.generate_text())

    for _ in range(2):
        exec(compile("".join(blocks("python")), "README.md", "exec"), {})


CALLS = [
    (cells[0], call)
    for cells in table(README, "One line each")
    for call in re.findall(r"`([^`]+)`", " ".join(cells[1:]))
]


@pytest.fixture
def at_hand(sqlite_url: str, root_key: LocalRootKey) -> Iterator[dict[str, Any]]:
    builder = StateGraph(MessagesState).add_node("answer", lambda _: {})
    graph = builder.add_edge(START, "answer").compile()
    embeddings = DeterministicFakeEmbedding(size=8)
    shared = InMemoryVectorStore(embeddings)
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield {**locals(), "scope": memory.scope(user_id="alice", module_id="assistant")}


@pytest.mark.parametrize(("_", "call"), CALLS, ids=[call for _, call in CALLS])
def test_every_line_for_an_adapter_in_the_readme_is_one_that_runs(
    _: str, call: str, at_hand: dict[str, Any]
):
    with at_hand["memory"].using(at_hand["scope"]):
        assert eval(call, at_hand) is not None


def test_the_readme_has_a_line_for_everything_that_a_scope_makes():
    made = {
        name
        for name, member in vars(langmem_isolated.ScopedMemory).items()
        if not name.startswith(("_", "a")) and (callable(member) or name in ("sessions", "recall"))
    }
    # What is asked of a scope, and no adapter.
    asked = {"recent", "verify", "module"}

    assert {name for name in made - asked if f"scope.{name}" not in README} == set()


# What a checkout has that a clone of the repository has not.
NOT_CLONED = (".git", "__pycache__", ".*_cache", "*.db", "*.db-*", "*.key", "*.egg-info")
NOT_CLONED += (".venv", "dist")


def script_of_readme() -> str:
    """The commands of the README as printed, in its order; its Python is one file, which is run.

    One command is not: `pytest` in itself would have no end, and what it needs takes minutes to
    install (`.ci/run` does that in a new environment, too). In its place the tests are collected,
    by the Python that runs this one.
    """
    parts = []
    for language, block in re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL):
        if language == "python":
            parts.append(f"cat >> readme.py << 'END_OF_BLOCK'\n{block}END_OF_BLOCK\n")
        elif "pytest" in block:
            assert block == 'pip install -e ".[test]" && pytest\n'
            parts.append(
                f"'{sys.executable}' -m pytest -n 0 --collect-only -q tests/test_scope.py\n"
            )
        else:
            parts.append(block)
    return "".join(["set -euo pipefail\n", *parts, "python readme.py\n"])


@pytest.fixture
def fresh(disk_path: Path) -> Path:
    """A copy of this checkout beside an environment in which nothing is installed."""
    ignored = shutil.ignore_patterns(*NOT_CLONED)
    clone = shutil.copytree(PROJECT, disk_path / "clone", ignore=ignored)
    subprocess.run([sys.executable, "-m", "venv", disk_path / "environment"], check=True)
    pip = disk_path / "environment" / "bin" / "pip"
    # What pip would fetch first; where it cannot, nobody can install anything.
    asked = [pip, "download", "--quiet", "--no-deps", "--dest", disk_path, "hatchling"]
    if subprocess.run(asked, capture_output=True, check=False).returncode:
        pytest.skip("pip reaches no package index from here")
    return clone


# A minute on two cores, most of it pip's; more where it has to fetch.
@pytest.mark.timeout(900)
def test_the_readme_can_be_followed_from_top_to_bottom_in_a_fresh_environment(fresh: Path):
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LANGMEM_ISOLATED_", "PYTHON", "PYTEST_"))
    }
    binaries = fresh.parent / "environment" / "bin"
    ran = subprocess.run(
        ["bash", "-c", script_of_readme()],
        capture_output=True,
        check=False,
        cwd=fresh,
        env={**environment, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
        text=True,
    )

    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    assert "claims hold" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "I have heard: ['My PIN is 1234.']"
    assert (fresh / "memory.db").exists()
