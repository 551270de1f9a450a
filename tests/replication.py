"""A primary and its synchronous replicas, one of which may take its place."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from tests.postgres import PostgresServer


class ReplicaServer(PostgresServer):
    """A server that follows another one, under a name by which that one knows it."""

    def __init__(self, primary: PostgresServer, name: str, **options: bool) -> None:
        self._primary, self.name = primary, name
        super().__init__(**options)

    def _make_data(self) -> None:
        self._run(
            "pg_basebackup", "-D", str(self.data), "-d", followed(self._primary, self.name),
            "--write-recovery-conf", "--checkpoint=fast", "--no-sync",
        )  # fmt: skip

    def follow(self, primary: PostgresServer) -> None:
        """Follow another one from now on."""
        ask(self, f"ALTER SYSTEM SET primary_conninfo = '{followed(primary, self.name)}'")
        ask(self, "SELECT pg_reload_conf()")


def followed(primary: PostgresServer, name: str) -> str:
    return f"host=127.0.0.1 port={primary.port} user=postgres application_name={name}"


def ask(server: PostgresServer, sql: str, database: str = "postgres") -> list[Any]:
    """The rows of a statement, on a connection of its own."""
    with psycopg.connect(server.url(database), autocommit=True) as connection:
        cursor = connection.execute(sql)
        return cursor.fetchall() if cursor.description else []


class Cluster:
    """A primary and the replicas that follow it."""

    def __init__(self, primary: PostgresServer, replicas: list[ReplicaServer]) -> None:
        self.primary, self.replicas = primary, replicas
        self.servers = [primary, *replicas]

    def url(self, database: str = "postgres") -> str:
        """A URL with all of them, which leads to the one that writes."""
        ports = ",".join(str(server.port) for server in self.servers)
        hosts = ",".join("127.0.0.1" for _ in self.servers)
        options = f"host={hosts}&port={ports}&target_session_attrs=read-write"
        return f"postgresql://postgres@/{database}?{options}"

    def promote(self) -> PostgresServer:
        """Have the replica that received most take the place of the primary; the others follow."""
        received = "SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn"
        *others, new = sorted(self.replicas, key=lambda it: ask(it, received)[0][0])
        ask(new, "SELECT pg_promote()")
        for other in others:
            other.follow(new)
        self.primary, self.replicas = new, others
        return new


@contextmanager
def replicated(*names: str, **options: bool) -> Iterator[Cluster]:
    """A primary that waits at each commit for any one of its replicas.

    Args:
        names: Of the replicas.
        options: Those of `PostgresServer`.
    """
    with ExitStack() as stack:
        primary = stack.enter_context(PostgresServer(**options))
        replicas = [stack.enter_context(ReplicaServer(primary, name, **options)) for name in names]
        waited = f"ANY 1 ({', '.join(names)})"
        for server in (primary, *replicas):
            ask(server, f"ALTER SYSTEM SET synchronous_standby_names = '{waited}'")
            ask(server, "SELECT pg_reload_conf()")
        yield Cluster(primary, replicas)
