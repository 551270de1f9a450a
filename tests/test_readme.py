import re
from pathlib import Path

import pytest

import langmem_isolated
from langmem_isolated import LocalRootKey

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


def test_every_environment_variable_of_the_package_is_in_the_readme():
    source = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    named = set(re.findall(r"LANGMEM_ISOLATED_[A-Z_]+[A-Z]", source))

    assert named <= set(re.findall(r"`(LANGMEM_ISOLATED_[A-Z_]+)`", README))


def test_ci_runs_the_test_command_of_the_readme():
    commands = [line for block in blocks("sh") for line in block.splitlines()]
    script = (PROJECT / ".ci" / "run").read_text().splitlines()

    assert 'pip install -e ".[test]" && pytest' in commands
    assert script[-1] == "pytest"
