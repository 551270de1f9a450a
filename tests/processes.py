"""Runs functions in forked children: real processes that need no time to import anything."""

import os
import pickle
import select
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import Any


class Child:
    """A forked process that runs ``function`` and hands back what it returns."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self._read, write = os.pipe()
        with warnings.catch_warnings():
            # Python warns of forking beside threads; that it works here is what is tested.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            os.close(self._read)
            _run(function, args, write)
        os.close(write)

    def result(self, timeout: float = 120) -> Any:
        """What the function returned; fails with its traceback if it raised or takes too long."""
        if not select.select([self._read], [], [], timeout)[0]:
            self.kill()
            raise TimeoutError(f"the child was not done within {timeout} s")
        with os.fdopen(self._read, "rb") as pipe:
            sent = pipe.read()
        os.waitpid(self.pid, 0)
        assert sent, "the child ended without a word"
        succeeded, value = pickle.loads(sent)
        assert succeeded, f"in the child:\n{value}"
        return value

    def kill(self) -> None:
        """End it as `kill -9` does."""
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._read)


def _run(function: Callable[..., Any], args: tuple[Any, ...], write: int) -> None:
    # A child must never come back into the test runner, whatever happens.
    try:
        outcome: tuple[bool, Any] = True, function(*args)
    except BaseException:  # noqa: BLE001
        outcome = False, traceback.format_exc()
    try:
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(outcome, pipe)
        sys.stdout.flush()
    finally:
        os._exit(0)


def in_child(function: Callable[..., Any], *args: Any) -> Any:
    """Run ``function`` in a process of its own and return what it returns."""
    return Child(function, *args).result()


def all_at_once(functions: list[Callable[[], Any]]) -> list[Any]:
    """Run each function in a process of its own, all let go at one moment."""
    ready, go = os.pipe()

    def begin(function: Callable[[], Any]) -> Any:
        os.close(go)
        os.read(ready, 1)
        return function()

    children = [Child(begin, function) for function in functions]
    os.close(go)
    os.close(ready)
    return [child.result() for child in children]
