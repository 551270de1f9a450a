"""A real PgBouncer in transaction mode in front of a test server, from Debian's package."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from tests.system import program

_INI = """
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users.txt
pool_mode = transaction
default_pool_size = {size}
max_client_conn = 1000
server_idle_timeout = 5
logfile = {folder}/pgbouncer.log
"""


class PgBouncer:
    """One in a folder of its own: everybody shares `size` sessions, between transactions.

    Args:
        port: That of the server.
        users: Who may log in.
        size: How many sessions there are for each user of each database.
        more: Further lines of its settings.
    """

    def __init__(self, port: int, *users: str, size: int = 2, more: str = "") -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="langmem-pgbouncer-"))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        ini = self.folder / "pgbouncer.ini"
        told = _INI.format(server=port, port=self.port, folder=self.folder, size=size)
        ini.write_text(told + more)
        (self.folder / "users.txt").write_text("".join(f'"{user}" ""\n' for user in users))
        as_user: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            as_user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        self.process = subprocess.Popen(
            [program("pgbouncer") or "pgbouncer", "-q", str(ini)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            **as_user,
        )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.01)
            else:
                return

    def url(self, direct: str) -> str:
        """The same database and user through it."""
        parts = urlsplit(direct)
        return f"{parts.scheme}://{parts.username}@127.0.0.1:{self.port}{parts.path}"

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
