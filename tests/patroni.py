"""Three servers that Patroni watches: it promotes one by itself when the primary is gone."""

import json
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from tests.postgres import die_with_parent, reachable_programs, unprivileged

# By which Patroni takes a leader for gone; it takes no fewer.
_TTL_SECONDS = 20
_HOST = "127.0.0.1"


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, below those that the system gives to whoever connects somewhere."""
    found: list[int] = []
    with ExitStack() as held:
        for port in random.sample(range(10_000, 30_000), 1_000):
            probe = held.enter_context(socket.socket())
            with suppress(OSError):
                probe.bind((_HOST, port))
                found.append(port)
            if len(found) == count:
                break
    return found


def _as_nobody() -> list[str]:
    """PostgreSQL refuses to run as root, and `nobody` reaches no virtual environment of root's."""
    if os.geteuid() != 0:
        return []
    who = pwd.getpwnam("nobody")
    # All that reads and passes folders; a container has it by default.
    capability = "+dac_override"
    return [
        "setpriv", "--pdeathsig=KILL", "--clear-groups",
        f"--reuid={who.pw_uid}", f"--regid={who.pw_gid}",
        f"--inh-caps={capability}", f"--ambient-caps={capability}",
    ]  # fmt: skip


class Member:
    """One server and the Patroni that watches it."""

    def __init__(
        self, folder: Path, name: str, ports: tuple[int, int, int], programs: Path
    ) -> None:
        self.name, self._folder, self._programs = name, folder, programs
        self.port, self.rest, self.raft = ports
        self.log = folder / f"{name}.log"

    def start(self, others: "list[Member]") -> None:
        file = self._folder / f"{self.name}.json"  # which YAML reads as well
        file.write_text(json.dumps(self._configuration(others)))
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*_as_nobody(), sys.executable, "-m", "patroni", str(file)],
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "LC_ALL": "C.UTF-8", "HOME": str(self._folder)},
                start_new_session=True,
                preexec_fn=die_with_parent,  # noqa: PLW1509 - no thread of ours runs then
            )

    def _configuration(self, others: "list[Member]") -> dict[str, Any]:
        everyone = {"username": "postgres", "password": "not-asked"}
        trusted = ("local all all trust", "host all all 127.0.0.1/32 trust")
        return {
            "scope": "memory",
            "name": self.name,
            "restapi": {
                "listen": f"{_HOST}:{self.rest}",
                "connect_address": f"{_HOST}:{self.rest}",
            },
            "raft": {
                "data_dir": str(self._folder / f"{self.name}-raft"),
                "self_addr": f"{_HOST}:{self.raft}",
                "partner_addrs": [f"{_HOST}:{other.raft}" for other in others],
            },
            "bootstrap": {
                "dcs": {
                    "ttl": _TTL_SECONDS,
                    "loop_wait": 1,
                    "retry_timeout": 3,
                    "synchronous_mode": True,
                    "postgresql": {"parameters": {"max_connections": 100}},
                },
                "initdb": [{"encoding": "UTF8"}, {"auth": "trust"}, "no-sync"],
            },
            "postgresql": {
                "listen": f"{_HOST}:{self.port}",
                "connect_address": f"{_HOST}:{self.port}",
                "data_dir": str(self._folder / self.name),
                "bin_dir": str(self._programs),
                "pgpass": str(self._folder / f"{self.name}.pgpass"),
                "authentication": {"superuser": everyone, "replication": everyone},
                "parameters": {"unix_socket_directories": str(self._folder)},
                "pg_hba": [*trusted, "host replication all 127.0.0.1/32 trust"],
            },
        }

    def state(self) -> dict[str, Any]:
        """What its Patroni says of it; nothing where it does not answer."""
        with suppress(OSError, ValueError):
            url = f"http://{_HOST}:{self.rest}/patroni"
            with urllib.request.urlopen(url, timeout=2) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        return {}

    def kill(self) -> None:
        """End it and its server at once, as loss of power does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        file = self._folder / self.name / "postmaster.pid"
        with suppress(OSError, ValueError):
            server = int(file.read_text().splitlines()[0])
            children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
            for pid in (server, *map(int, children)):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.wait()


class PatroniCluster:
    """Three members that agree among themselves (Raft) who is the primary."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="langmem-patroni-"))
        programs = reachable_programs(self._folder, **unprivileged(self._folder))
        ports = iter(_free_ports(9))
        self.members = [
            Member(self._folder, f"m{n}", (next(ports), next(ports), next(ports)), programs)
            for n in range(3)
        ]

    def __enter__(self) -> Self:
        try:
            for one in self.members:
                self._start(one)
            self._wait(60)
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, member: Member) -> None:
        member.start([other for other in self.members if other is not member])

    def _wait(self, seconds: float) -> None:
        """Wait for all three, and until one of them waits for another at each commit."""
        end = time.monotonic() + seconds
        while True:
            for one in self.members:
                if one.process.poll() is not None:
                    self._start(one)  # as whatever supervises it does
            states = [one.state() for one in self.members]
            running = [one for one in states if one.get("state") in ("running", "streaming")]
            if len(running) == 3 and any(one.get("sync_standby") for one in states):
                return
            if time.monotonic() > end:
                logs = "\n".join(one.log.read_text()[-2000:] for one in self.members)
                raise TimeoutError(f"Patroni was not up within {seconds} s: {states}\n{logs}")
            time.sleep(0.2)

    def primary(self) -> Member | None:
        """Who takes writes, by what they say."""
        roles = [
            (one.state().get("role"), one) for one in self.members if one.process.poll() is None
        ]
        return next((one for role, one in roles if role in ("primary", "master")), None)

    def url(self) -> str:
        """A URL with all of them, which leads to the one that writes."""
        hosts = ",".join(f"{_HOST}:{one.port}" for one in self.members)
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    def __exit__(self, *_: object) -> None:
        for one in self.members:
            if hasattr(one, "process") and one.process.poll() is None:
                one.kill()
        shutil.rmtree(self._folder, ignore_errors=True)
