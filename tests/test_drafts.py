"""Drafts: what is not whole has no name, and what killed processes left goes with the next one."""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langmem_isolated._database import drafts
from langmem_isolated._database.drafts import draft_beside, publish_file, publish_folder
from tests.processes import Child, all_at_once


def write_for_ever(target: Path) -> None:
    with draft_beside(target) as folder:
        (folder / "text").write_text("plaintext")
        time.sleep(600)


def child_that_writes(target: Path) -> tuple[Child, Path]:
    """A process, and the draft that it writes in."""
    before = {*target.parent.glob(".*")}
    child = Child(write_for_ever, target)
    deadline = time.monotonic() + 60
    while not (
        new := [
            p for p in target.parent.glob(".*/text") if p.parent not in before and p.read_text()
        ]
    ):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return child, new[0].parent


def draft(target: Path) -> None:
    with draft_beside(target):
        pass


def test_what_a_killed_process_left_goes_with_the_next_draft_of_the_same_name_alone(
    tmp_path: Path,
):
    child, left = child_that_writes(tmp_path / "a[b]*.zip")
    child.kill()

    draft(tmp_path / "another.zip")
    draft(tmp_path / "a[b]")
    assert left.exists()
    draft(tmp_path / "a[b]*.zip")

    assert not left.exists()


def test_what_another_process_writes_stays(tmp_path: Path):
    child, its = child_that_writes(tmp_path / "a.zip")
    try:
        draft(tmp_path / "a.zip")
        assert (its / "text").read_text() == "plaintext"
    finally:
        child.kill()


def test_eight_processes_that_draft_at_once_keep_what_they_write(tmp_path: Path):
    def write() -> int:
        kept = 0
        for _ in range(40):
            with draft_beside(tmp_path / "a") as folder:
                (folder / "text").write_text("mine")
                kept += (folder / "text").read_text() == "mine"
        return kept

    assert all_at_once([write] * 8) == [40] * 8
    assert [*tmp_path.iterdir()] == []


def test_a_draft_that_looks_left_before_it_is_locked_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    locked = drafts._lock
    removed: list[Path] = []

    def overtaken(folder: Path, *, wait: bool) -> int | None:
        if wait and not removed:
            removed.append(folder)
            folder.rmdir()
            folder.mkdir()
            descriptor = locked(folder, wait=True)
            folder.rmdir()
            return descriptor
        return locked(folder, wait=wait)

    monkeypatch.setattr(drafts, "_lock", overtaken)

    with draft_beside(tmp_path / "a") as folder:
        assert folder.is_dir()
        assert folder not in removed


def test_only_its_owner_may_look_into_a_draft(tmp_path: Path):
    with draft_beside(tmp_path / "a") as folder:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_only_has_such_a_name_is_left_alone(tmp_path: Path):
    file, link = tmp_path / ".a.00000000.partial", tmp_path / ".a.00000001.partial"
    others = tmp_path / "others"
    others.mkdir()
    (others / "theirs").write_text("theirs")
    file.write_text("mine")
    link.symlink_to(others)

    draft(tmp_path / "a")

    assert file.read_text() == "mine"
    assert (link / "theirs").read_text() == "theirs"


def test_where_folders_have_no_locks_drafts_are_written_and_none_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    child, left = child_that_writes(tmp_path / "a")
    child.kill()
    monkeypatch.setattr(fcntl, "flock", refuse)

    with draft_beside(tmp_path / "a") as folder:
        assert folder.is_dir()
    assert left.exists()


def without_links(*args: object) -> None:
    raise OSError(errno.EPERM, "Operation not permitted")


@pytest.mark.parametrize("has_links", [True, False])
@pytest.mark.parametrize("publish", [publish_file, publish_folder])
def test_what_is_published_never_takes_the_place_of_another(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    publish: Callable[[Path, Path], None],
    has_links: bool,
):
    if not has_links:
        monkeypatch.setattr(os, "link", without_links)
    places = [tmp_path / name for name in ("file", "folder", "link", "free")]
    places[0].write_text("theirs")
    places[1].mkdir()
    places[2].symlink_to(tmp_path / "nowhere")
    for place in places:
        mine = tmp_path / "mine"
        if publish is publish_file:
            mine.write_text("mine")
        else:
            mine.mkdir()
            (mine / "text").write_text("mine")
        if place.name == "free":
            publish(mine, place)
        else:
            with pytest.raises(FileExistsError):
                publish(mine, place)
            if mine.is_dir():
                (mine / "text").unlink()
                mine.rmdir()

    assert places[0].read_text() == "theirs"
    assert [*places[1].iterdir()] == []
    assert places[2].is_symlink()
    published: Any = places[3] if publish is publish_file else places[3] / "text"
    assert published.read_text() == "mine"


def test_what_is_published_in_a_folder_that_may_not_be_read_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    durable = drafts.make_durable

    def refuse(path: Path) -> None:
        if path == tmp_path:
            raise PermissionError(errno.EACCES, "Permission denied")
        durable(path)

    monkeypatch.setattr(drafts, "make_durable", refuse)
    (tmp_path / "mine").write_text("mine")

    publish_file(tmp_path / "mine", tmp_path / "published")

    assert (tmp_path / "published").read_text() == "mine"
