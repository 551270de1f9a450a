"""Imports that are killed: each goes on, gives what one clean run gives, and can be taken out.

Any source is tested with it: ``outlives_kills(make, tmp_path, kills=3)``, where ``make`` makes the
import for a memory and a folder in which its receipt may stand.
"""

import json
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langchain_core.messages import HumanMessage

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated.importers import Import, ImportReceipt
from tests.conftest import ROOT_KEY
from tests.processes import Child

Make = Callable[[IsolatedMemory, Path], Import]
NewTarget = Callable[[], str]

# What is of the moment of an import where a source tells no time, or of the target's own keys.
_OF_THE_RUN = {
    *("stored", "stored_at", "written_at", "created_at", "updated_at", "time"),
    *("entry_id", "expires_at"),
}
_READ = ("messages", "sessions", "threads", "checkpoints", "items", "documents", "profiles")


def opened(url: str) -> IsolatedMemory:
    # What was acknowledged outlives a kill; a loss of power is not tested.
    return IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), synchronous="NORMAL")


def told_of(memory: IsolatedMemory, users: list[Scope], folder: Path) -> dict[str, Any]:
    """All that an export tells of some users, but for times of the run and keys of the target."""
    found: dict[str, Any] = {}
    for number, (project, user) in enumerate(sorted({(s.project_id, s.user_id) for s in users})):
        output = folder / f"exported-{number}"
        memory.export_user(user, output, project_id=project)
        for kind in _READ:
            lines = (output / "data" / f"{kind}.jsonl").read_text().splitlines()
            found[f"{project} {user} {kind}"] = sorted(map(_without_the_run, lines))
        shutil.rmtree(output)
    return found


def _without_the_run(line: str) -> str:
    told = json.loads(line)
    kept = {name: told[name] for name in told if name not in _OF_THE_RUN}
    if told.get("space") in (["facts"], ["interests"]):
        # A fact's id is random, and both have times of the run where the source tells none.
        value = told["value"]
        kept |= {"key": None, "value": value.get("text", value.get("name"))}
    return json.dumps(kept)


def run_in(url: str, make: Make, beside: Path) -> ImportReceipt:
    """Run an import and close the target."""
    with opened(url) as memory:
        return make(memory, beside).run()


def outlives_kills(
    make: Make, folder: Path, *, kills: int = 3, new_target: NewTarget | None = None
) -> None:
    """Kill an import at random moments of its run, and hold each that goes on against a clean one.

    Args:
        make: Makes the import; it is called in this process and in those that are killed.
        folder: An empty one, for targets and receipts.
        kills: How many runs are killed, each in a target of its own.
        new_target: The URL of a new target; by default an SQLite file in ``folder``.
    """
    numbers = iter(range(kills + 1))
    target = new_target or (lambda: f"sqlite:///{folder}/target-{next(numbers)}.db")
    expected, spent = _clean(target(), make, folder)
    moments = random.Random(kills)
    for number in range(kills):
        url, beside = target(), folder / f"beside-{number}"
        beside.mkdir()
        _with_a_bystander(url)
        child = Child(run_in, url, make, beside)
        time.sleep(moments.uniform(0, spent))
        child.kill()
        _goes_on(url, make, beside, expected, is_verified=number == kills - 1)


def _clean(url: str, make: Make, folder: Path) -> tuple[dict[str, Any], float]:
    beside = folder / "beside-clean"
    beside.mkdir()
    _with_a_bystander(url)
    since = time.monotonic()
    # In a process, as those that are killed are: it takes as long to begin.
    Child(run_in, url, make, beside).result(timeout=300)
    spent = time.monotonic() - since
    with opened(url) as memory:
        return told_of(memory, _users(make, memory, beside), beside), spent


def _with_a_bystander(url: str) -> None:
    with opened(url) as memory:
        scope = memory.scope(user_id="bystander", module_id="other")
        scope.chat_history("mine").add_messages([HumanMessage("Mine stays", id="mine")])


def _users(make: Make, memory: IsolatedMemory, beside: Path) -> list[Scope]:
    return [*make(memory, beside).plan(by_scope=True).by_scope]


def _goes_on(
    url: str, make: Make, beside: Path, expected: dict[str, Any], *, is_verified: bool
) -> None:
    with opened(url) as memory:
        users = _users(make, memory, beside)
        receipt = make(memory, beside).run()
        assert receipt.status == "done"
        assert told_of(memory, users, beside) == expected
        if is_verified:
            assert memory.verify().is_clean
        done = memory.roll_back(bytes.fromhex(receipt.token))
        assert done.is_done
        assert not done.left
        assert memory.stats().total.scopes == 1
        history = memory.scope(user_id="bystander", module_id="other").chat_history("mine")
        assert [message.text for message in history.messages] == ["Mine stays"]
