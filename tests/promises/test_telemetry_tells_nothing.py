"""Promise 3 again: what callers supply is in no span, no metric and no record of operations."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from langmem_isolated import IsolatedMemory
from tests.conftest import Attacker, Door
from tests.promises import (
    test_caches_and_indexes,
    test_documents_stay_apart,
    test_items_of_a_store,
    test_nothing_readable_on_disk,
    test_threads_unreadable,
)
from tests.promises.test_nothing_readable_on_disk import Log, canary, provoked, readable_in
from tests.tracing import Telemetry

USES: list[ModuleType] = [
    test_caches_and_indexes,
    test_documents_stay_apart,
    test_items_of_a_store,
    test_nothing_readable_on_disk,
    test_threads_unreadable,
]


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    """Of one kind: what is told of does not depend on it."""
    return sqlite_url


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[Log]:
    """The records of operations alone, with all their fields."""
    log, logger = Log(), logging.getLogger("langmem_isolated.operations")
    logger.addHandler(log)
    with caplog.at_level(logging.DEBUG, logger.name):
        yield log
    logger.removeHandler(log)


@pytest.mark.parametrize("module", USES, ids=lambda module: module.__name__.rpartition("_")[2])
async def test_no_field_is_in_what_is_told(
    memory: IsolatedMemory, telemetry: Telemetry, records: Log, door: Door, module: ModuleType
):
    use: Callable[..., Awaitable[Any]] = module.use_everything

    await use(memory, door)

    assert len(telemetry.spans) > 5
    assert readable_in(telemetry.everything().encode()) == []
    assert len(records.texts) > 10
    assert readable_in("".join(records.texts).encode()) == []


async def test_no_error_is_quoted_in_what_is_told(
    memory: IsolatedMemory, telemetry: Telemetry, records: Log, attacker: Attacker
):
    scoped = memory.scope(user_id=canary("user"), module_id=canary("module"))
    for _, provoke in provoked(scoped, attacker):
        with pytest.raises(Exception):  # noqa: B017 -- which one is another test's matter
            await asyncio.to_thread(provoke)

    failed = [span for span in telemetry.spans if "error.type" in (span.attributes or {})]
    assert len({span.attributes["error.type"] for span in failed}) > 3
    assert readable_in(telemetry.everything().encode()) == []
    assert readable_in("".join(records.texts).encode()) == []


async def test_no_field_of_what_operators_do_is_told(
    memory: IsolatedMemory, telemetry: Telemetry, records: Log, door: Door, tmp_path: Any
):
    user, module, project = canary("user"), canary("module"), canary("project")
    profile = memory.scope(user_id=user, module_id=module, project_id=project).profile()
    await door(profile, "add_fact", canary("fact"), source="user", session_id=canary("session"))
    await door(profile, "set_attribute", canary("attribute"), {canary("key"): canary("value")})
    reason = {"reason": canary("reason"), "by": canary("name"), "project_id": project}
    await door(memory.retention, "hold", user, **reason)
    await door(memory.retention, "release", user, project_id=project)
    await door(memory.retention, "keep", "message", days=1, user_id=user, project_id=project)
    memory.audit.switch_on()
    with memory.audit.acting_as(canary("actor")):
        memory.audit.break_glass(user, reason=canary("why"), minutes=5, project_id=project)
        with memory.audit.reading(user, canary("page"), project_id=project):
            await door(profile, "facts")
    await door(memory, "export_user", user, project_id=project, output=tmp_path / canary("file"))
    await door(memory, "erase_user", user, project_id=project)

    assert len(telemetry.spans) > 5
    assert readable_in(telemetry.everything().encode()) == []
    assert readable_in("".join(records.texts).encode()) == []


def test_the_search_finds_what_is_told(memory: IsolatedMemory, telemetry: Telemetry):
    """The proof of the tests above."""
    with telemetry.tracer.start_as_current_span("of the application") as span:
        span.set_attribute("question", canary("question"))

    assert readable_in(telemetry.everything().encode()) != []
