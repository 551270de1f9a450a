"""Jobs of the admin page: they go on behind the page, tell how far they are, and can be stopped."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from langgraph.store.base import PutOp
from starlette.exceptions import HTTPException

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated.admin.operator.jobs import MOST_KEPT, MOST_RUNNING, Job, Jobs, Progress
from langmem_isolated.errors import AuditIsOff
from tests.operators import Operator, operator_of, tutor_of


class Work:
    """What goes on until it is let go, and says how far it is."""

    def __init__(self) -> None:
        self.step, self.begun = threading.Event(), threading.Event()

    def __call__(self, progress: Progress) -> dict[str, Any]:
        for count in range(1, 1000):
            progress(count)
            self.begun.set()
            if self.step.wait(0.02):
                break
        return {"done": True}


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.step.set()


@pytest.fixture
def memory(sqlite_url: str, root_key: LocalRootKey) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(sqlite_url, root_key=root_key) as memory:
        yield memory


@pytest.fixture
def carol(memory: IsolatedMemory) -> Operator:
    return operator_of(memory)


def begun(carol: Operator, work: Work) -> str:
    job: Job = carol.app.state.jobs.start("count", "carol", work)
    assert work.begun.wait(30)
    return f"/jobs/{job.id}"


def test_a_job_tells_how_far_it_is_and_is_refreshed_with_and_without_a_script(
    carol: Operator, work: Work
):
    path = begun(carol, work)
    page, told = carol.get(path).text, carol.get(f"/api{path}").json()

    assert (told["state"], told["count"] > 0) == ("running", True)
    assert '<meta http-equiv="refresh" content="5">' in page
    assert f'hx-get="{path}"' in page
    assert f'href="{path}"' in page
    work.step.set()
    assert carol.ended(path)["outcome"] == {"done": True}
    ended = carol.get(path).text
    assert "refresh" not in ended
    assert "hx-get" not in ended
    assert path in carol.get("/jobs").text


def test_a_job_is_stopped_between_two_batches(carol: Operator, work: Work):
    path = begun(carol, work)

    assert carol.do(f"{path}/stop").headers["location"] == path
    told = carol.ended(path)

    assert told["state"] == "stopped"
    assert told["outcome"] is None
    assert "To begin it again goes on" in carol.get(path).text


def test_only_so_many_run_at_once(carol: Operator, work: Work):
    for _ in range(MOST_RUNNING):
        begun(carol, work)
    refused = carol.post("/retention/sweep", dry_run="yes", confirmed="yes")

    assert refused.status_code == 409
    assert "Nothing was begun" in refused.text


def test_the_oldest_that_have_ended_are_forgotten():
    jobs = Jobs()
    first = jobs.start("x", "carol", lambda _: {})
    for _ in range(MOST_KEPT + MOST_RUNNING):
        jobs.stop(30)
        jobs.start("x", "carol", lambda _: {})
    jobs.stop(30)

    assert len([*jobs]) <= MOST_KEPT
    with pytest.raises(HTTPException) as caught:
        jobs.get(first.id)
    assert caught.value.status_code == 404


def test_one_that_the_system_gives_no_thread_takes_no_place(monkeypatch: pytest.MonkeyPatch):
    def refuses(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    jobs = Jobs()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuses)
        for _ in range(MOST_RUNNING):
            with pytest.raises(RuntimeError):
                jobs.start("x", "carol", lambda _: {})
    jobs.start("x", "carol", lambda _: {})
    jobs.stop(30)

    assert [job.state for job in jobs] == ["done"]


def test_what_fails_says_what_the_library_says_and_nothing_of_others(
    caplog: pytest.LogCaptureFixture,
):
    def refuses(_: Progress) -> dict[str, Any]:
        raise AuditIsOff

    def breaks(_: Progress) -> dict[str, Any]:
        raise KeyError("content of alice")

    jobs = Jobs()
    refused, broken = (jobs.start("x", "carol", work) for work in (refuses, breaks))
    jobs.stop(30)

    assert (refused.state, broken.state) == ("failed", "failed")
    assert "Auditing is off" in (refused.error or "")
    assert "KeyError" in (broken.error or "")
    for told in (broken.error, repr(broken), caplog.text):
        assert "alice" not in str(told)


def test_a_job_that_was_stopped_goes_on_when_it_is_begun_again(
    memory: IsolatedMemory, carol: Operator
):
    tutor_of(memory).store().batch(
        [PutOp(("drafts",), str(number), {"n": 1}, ttl=60 / 10**9) for number in range(700)]
    )
    jobs: Jobs = carol.app.state.jobs

    ready = threading.Event()

    def swept(progress: Progress) -> dict[str, Any]:
        ready.wait(30)
        return dict(memory.sweep(progress=progress).counts)

    job = jobs.start("sweep", "carol", swept)
    job.stop()
    ready.set()
    first = carol.ended(f"/jobs/{job.id}")
    second = carol.job("/retention/sweep")

    assert first["state"] == "stopped"
    assert 0 < first["count"] < 700
    assert second["outcome"]["counts"]["item"] == 700 - first["count"]


def test_a_memory_that_is_closed_ends_a_job_and_the_page_says_so(
    sqlite_url: str, root_key: LocalRootKey
):
    memory = IsolatedMemory(sqlite_url, root_key=root_key).open()
    carol = operator_of(memory)
    memory.close()
    job: Job = carol.app.state.jobs.start(
        "sweep", "carol", lambda progress: dict(memory.sweep(progress=progress).counts)
    )

    assert carol.ended(f"/jobs/{job.id}")["state"] == "failed"
    assert "closed" in (job.error or "")
