"""Drafts: what is written beside its place under another name, until it is whole.

A draft is a folder ``.NAME.….partial``, locked by who writes in it. A process that is killed leaves
the folder, and no lock: whoever writes to the same place next removes it.
"""

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from langmem_isolated._database.copies import make_durable

if sys.platform != "win32":
    import fcntl

_TOKEN_BYTES = 4


@contextmanager
def draft_beside(target: Path) -> Iterator[Path]:
    """A folder of mode 0700 beside ``target``, gone in the end with all that is in it then.

    Those that killed processes left of earlier drafts of ``target`` are removed first. Where the
    system has no locks for folders (Windows, some network file systems), none is.

    Raises:
        OSError: The folder above is not there, or cannot be written to.
    """
    _remove_left(target)
    folder, lock = _locked_folder(target)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def publish_file(draft: Path, target: Path) -> None:
    """Give a durable file its name, never in the place of another.

    Raises:
        FileExistsError: Something has the name by now.
        OSError: The file system refuses.
    """
    make_durable(draft)
    try:
        # Renaming would put it in the place of what came meanwhile; a second name does not.
        os.link(draft, target)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links.
        _rename(draft, target)
    _keep_name(target)


def publish_folder(draft: Path, target: Path) -> None:
    """Give a folder its name, never in the place of another.

    Raises:
        FileExistsError: Something has the name by now.
        OSError: The file system refuses.
    """
    make_durable(draft)
    _rename(draft, target)
    _keep_name(target)


def _keep_name(target: Path) -> None:
    # A folder that may be written to and not be read cannot be opened; the name is there already.
    with suppress(PermissionError):
        make_durable(target.parent)


def _rename(draft: Path, target: Path) -> None:
    # A rename takes the place of a file, and of a folder that is empty.
    if os.path.lexists(target):
        raise FileExistsError
    try:
        draft.rename(target)
    except OSError:
        if os.path.lexists(target):
            raise FileExistsError from None
        raise


def _locked_folder(target: Path) -> tuple[Path, int | None]:
    while True:
        token = secrets.token_hex(_TOKEN_BYTES)
        folder = target.with_name(f".{target.name}.{token}.partial")
        folder.mkdir(mode=0o700)
        lock = _lock(folder, wait=True)
        # Before it was locked, another could take it for what was left, and remove it.
        if folder.exists():
            return folder, lock
        if lock is not None:
            os.close(lock)


def _lock(folder: Path, *, wait: bool) -> int | None:
    """A descriptor that holds the lock of a folder; ``None`` where it cannot be had."""
    if sys.platform == "win32":
        return None
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _remove_left(target: Path) -> None:
    name = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{{2 * _TOKEN_BYTES}}}\.partial")
    with suppress(OSError):
        for folder in [one for one in target.parent.iterdir() if name.fullmatch(one.name)]:
            lock = _lock(folder, wait=False)
            if lock is not None:
                shutil.rmtree(folder, ignore_errors=True)
                os.close(lock)
