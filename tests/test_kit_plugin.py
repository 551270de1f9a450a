"""The plugin of pytest: its fixtures in other projects, and what it costs those without them."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_import_time import BEYOND_THE_COMMAND_LINE, among, imported

PROJECT = Path(__file__).parent.parent
PLUGIN = ("-p", "langmem_isolated.testing.plugin")
PAGE = (PROJECT / "docs" / "how-to" / "testing.md").read_text()


def ran(folder: Path, *options: str) -> str:
    """What pytest says of the tests in a folder, where nothing but the plugin is known."""
    (folder / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", *options, str(folder)],
        capture_output=True,
        check=False,
        cwd=folder,
        env={
            "PYTHONPATH": str(PROJECT),
            "PATH": "/usr/bin:/bin",
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        text=True,
    )
    return run.stdout + run.stderr


def test_the_page_has_tests_that_pass_as_they_stand(tmp_path: Path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    tests = [block for block in blocks if "\ndef test_" in block]
    (tmp_path / "test_page.py").write_text("\n".join(tests))

    assert len(tests) == 2
    assert "3 passed" in ran(tmp_path, *PLUGIN)


def test_the_first_test_of_the_page_has_fifteen_lines():
    first = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]

    assert len([line for line in first.splitlines() if line]) <= 15


def test_the_same_test_with_a_stock_saver_fails_and_shows_no_canary(tmp_path: Path):
    first = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
    stock = first.replace("isolated_memory.checkpointer()", "InMemorySaver()")
    (tmp_path / "test_page.py").write_text(
        f"from langgraph.checkpoint.memory import InMemorySaver\n{stock}"
    )

    told = ran(tmp_path, *PLUGIN, "--tb=line")

    assert "1 failed" in told
    assert "bob saw alice's canary (alice, message 1) in reply" in told
    assert "Zk4wQx" not in told


FIXTURES = """
def test_users_have_the_same_module_and_memories_of_their_own(isolated_users):
    alice, bob = isolated_users
    alice.chat_history("1").add_user_message("Hi")
    assert bob.chat_history("1").count() == 0
    assert alice.scope.module_id == bob.scope.module_id

def test_the_clock_stands_and_is_advanced(fake_clock):
    before = fake_clock.now
    assert fake_clock.now == before
    fake_clock.advance(90)
    assert (fake_clock.now - before).total_seconds() == 90

def test_a_canary_has_a_name(canary):
    assert canary("PIN").is_in(canary("PIN").text)
"""


def test_each_fixture_serves_a_project_that_has_nothing_else(tmp_path: Path):
    (tmp_path / "test_fixtures.py").write_text(FIXTURES)

    assert "3 passed" in ran(tmp_path, *PLUGIN)


def test_a_fixture_of_the_projects_own_takes_the_place_of_ours(tmp_path: Path):
    (tmp_path / "conftest.py").write_text(
        "import pytest\n@pytest.fixture\ndef fake_clock(): return 'mine'\n"
    )
    (tmp_path / "test_mine.py").write_text("def test_mine(fake_clock): assert fake_clock == 'mine'")

    assert "1 passed" in ran(tmp_path, *PLUGIN)


def test_the_plugin_brings_nothing_but_pytest():
    modules = imported("import pytest; import langmem_isolated.testing.plugin")

    assert among(modules, (*BEYOND_THE_COMMAND_LINE, "cryptography", "rich", "psycopg")) == []


def test_the_entry_point_names_the_plugin():
    project = (PROJECT / "pyproject.toml").read_text()

    assert "[project.entry-points.pytest11]" in project
    assert 'langmem_isolated = "langmem_isolated.testing.plugin"' in project


@pytest.mark.parametrize("name", ["absent", "assert_isolate"])
def test_a_name_that_the_kit_has_not_is_an_attribute_error(name: str):
    from langmem_isolated import testing

    with pytest.raises(AttributeError, match=name):
        getattr(testing, name)
    assert "assert_isolated" in dir(testing)
