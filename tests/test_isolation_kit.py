"""The kit for applications' tests finds each planted leak, and none where ours is used."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.testing import (
    LeakFound,
    Request,
    assert_isolated,
    assert_nothing_readable,
)
from tests.leaky_applications import LEAKS, Leak

NAMES = list(LEAKS)
README = (Path(__file__).parent.parent / "README.md").read_text()


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


def asked(user: str, session: str, text: str) -> Request:
    return Request("POST", "/chat", json={"text": text}, headers={"x-user": user})


def options_of(app: Any) -> dict[str, Any]:
    return {"request": asked} if hasattr(app, "router") else {}


@pytest.mark.parametrize("leak", LEAKS.values(), ids=NAMES)
def test_a_planted_leak_is_found_where_it_is(leak: Leak):
    app = leak.leaking()

    with pytest.raises(LeakFound) as caught:
        assert_isolated(app, users=leak.users, **options_of(app))

    told = [str(one) for one in caught.value.sightings]
    assert [line for line in told if leak.found_in in line]


@pytest.mark.parametrize("leak", LEAKS.values(), ids=NAMES)
def test_the_same_application_with_ours_has_no_leak(
    leak: Leak, memory: IsolatedMemory, tmp_path: Path
):
    app = leak.ours(memory)

    report = assert_isolated(app, users=leak.users, **options_of(app))

    assert report.runs > 20
    assert set(report.errors) <= {"EchoFailed"}
    memory.close()
    assert_nothing_readable(tmp_path, canaries=report.canaries)


def test_the_leak_of_the_readme_is_found_and_its_line_that_changes_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LANGMEM_ISOLATED_ROOT_KEY", LocalRootKey.generate_text())
    section = README.partition("## Twelve lines")[2].partition("## One line each")[0]
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)

    with pytest.raises(LeakFound) as caught:
        assert_isolated(names["stock"], users=2)
    report = assert_isolated(names["ours"], users=2)

    assert {(one.seer, one.owner) for one in caught.value.sightings} >= {("bob", "alice")}
    assert report.errors == {}
    names["memory"].close()
    assert_nothing_readable("memory.db", canaries=report.canaries)
