"""Runs `langgraph dev` for tests: on a free port, with the example's files, ended in any case."""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64encode
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

EXAMPLE = Path(__file__).parents[2] / "examples" / "langgraph_server"
PROBE = Path(__file__).with_name("probe.py")


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


class LangGraphDev:
    """The example's server, with the probe as a further graph; `url` once it is up."""

    def __init__(self, folder: Path, database: str, root_key: bytes, **changes: Any) -> None:
        shutil.copytree(EXAMPLE, folder)
        shutil.copy(PROBE, folder / "probe.py")
        config = json.loads((EXAMPLE / "langgraph.json").read_text())
        config["graphs"]["probe"] = "./probe.py:graph"
        changed = {key: value for key, value in {**config, **changes}.items() if value is not None}
        (folder / "langgraph.json").write_text(json.dumps(changed))
        self._folder = folder
        self._environment = {
            **os.environ,
            "LANGMEM_ISOLATED_ROOT_KEY": b64encode(root_key).decode(),
            "LANGMEM_ISOLATED_DATABASE": database,
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "LANGGRAPH_DISABLE_FILE_PERSISTENCE": "true",
            "LANGSMITH_TRACING": "false",
            "LANGCHAIN_TRACING_V2": "false",
            "NO_COLOR": "1",
        }

    def __enter__(self) -> Self:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.log = self._folder / "log"
        command = "langgraph_cli", "dev", "--no-browser", "--no-reload", "--n-jobs-per-worker", "8"
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command, "--port", str(port)],
                cwd=self._folder,
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
        while time.monotonic() < until and self._process.poll() is None:
            try:
                if httpx.get(f"{self.url}/ok", timeout=1).status_code == 200:
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
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
