"""Runs a server as people do, in a process of its own, and ends it in any case."""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import httpx

PROJECT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """Let a server end with a test process that is killed; elsewhere than on Linux it stays."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


class Program:
    """`python -m` something that serves; `url` once it is up, `log` has all that it printed.

    Args:
        module: And its arguments, of which ``{port}`` is filled in.
        folder: Where it runs; the log is written there.
        ready: The path that answers 200 when it is up.
        environment: In addition to this process's.
    """

    def __init__(
        self, module: Sequence[str], folder: Path, ready: str, environment: Mapping[str, str]
    ) -> None:
        self._module, self.folder, self._ready = module, folder, ready
        self._environment = {**os.environ, **environment}

    def __enter__(self) -> Self:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = self.folder / "log"
        command = [part.format(port=port) for part in self._module]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=self.folder,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own, so that its children end with it.
                start_new_session=True,
                preexec_fn=_die_with_parent,  # noqa: PLW1509 - it allocates nothing
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def _wait(self, seconds: float = 60) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            try:
                if httpx.get(self.url + self._ready, timeout=1).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise TimeoutError(f"the server did not start:\n{self.log.read_text()[-5000:]}")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Nothing of it is to be kept: an orderly end would only take longer.
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
