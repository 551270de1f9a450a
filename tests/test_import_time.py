"""What an import brings along, by name: times differ from machine to machine, names do not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent

# The memory of an application with a chat history: no vectors, agents, command line or tests.
CORE = """
from langmem_isolated import IsolatedMemory, LocalRootKey
with IsolatedMemory("sqlite://", root_key=LocalRootKey(bytes(32))) as memory:
    memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
"""
HEAVY = ("numpy", "faiss", "langchain.agents", "typer", "pytest")
# What `--help`, `keygen` and `doctor` begin with.
BEYOND_THE_COMMAND_LINE = ("sqlalchemy", "langgraph", "langchain_core", "langchain", "numpy")


def imported(code: str) -> set[str]:
    """Every module that a new interpreter imports for ``code``."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(PROJECT),
        # Tracing would be set up at the first import.
        "LANGSMITH_TRACING": "false",
    }
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        check=True,
        cwd=PROJECT,
        env=environment,
        text=True,
    )
    return set(re.findall(r"^import time: +\d+ \| +\d+ \| +(\S+)$", run.stderr, re.MULTILINE))


def among(modules: set[str], packages: tuple[str, ...]) -> list[str]:
    """Those of ``packages`` of which any part is in ``modules``."""
    return [
        package
        for package in packages
        if any(name == package or name.startswith(f"{package}.") for name in modules)
    ]


def test_the_log_of_imports_shows_what_is_imported():
    assert among(imported("import json.decoder"), ("json", "numpy")) == ["json"]


def test_the_core_imports_nothing_that_only_a_part_needs():
    assert among(imported("import langmem_isolated"), (*HEAVY, "rich")) == []


def test_a_memory_with_a_chat_history_imports_nothing_that_only_a_part_needs():
    # LangGraph's HTTP client imports rich where it is installed.
    assert among(imported(CORE), HEAVY) == []


@pytest.mark.parametrize("name", ["__version__", "Scope", "LocalRootKey", "LangmemIsolatedError"])
def test_a_name_of_the_package_brings_what_it_needs_itself(name: str):
    modules = imported(f"import langmem_isolated; langmem_isolated.{name}")

    assert among(modules, ("langchain_core", "langgraph", "sqlalchemy")) == []


def test_the_command_line_imports_a_commands_needs_only_when_it_runs():
    assert among(imported("import langmem_isolated.cli"), BEYOND_THE_COMMAND_LINE) == []


@pytest.mark.parametrize("command", ["--help", "keygen", "--version"])
def test_a_command_that_opens_no_database_imports_none(command: str):
    code = (
        f"import sys; sys.argv[1:] = [{command!r}]; from langmem_isolated.cli import main; main()"
    )

    assert among(imported(code), BEYOND_THE_COMMAND_LINE) == []
