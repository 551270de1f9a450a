"""How PostgreSQL is served in a run of the tests: as it is, bound by row-level security, pooled.

`LANGMEM_ISOLATED_TEST_POSTGRES` is `rls`, `pgbouncer` or both, `pgbouncer+rls`. Tests get URLs of
the application's role then, through the pooler; whoever attacks is the superuser, at the server.
With `citus` every database takes itself for a coordinator whose tables are distributed.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import psycopg

from langmem_isolated import IsolatedMemory
from langmem_isolated._database import row_level_security
from langmem_isolated._database.database import Database
from langmem_isolated._database.roles import Roles
from tests.pgbouncer import PgBouncer
from tests.postgres import PostgresServer

ROLES = Roles()
_AS = frozenset(filter(None, os.environ.get("LANGMEM_ISOLATED_TEST_POSTGRES", "").split("+")))
IS_BOUND, IS_POOLED, IS_DISTRIBUTED = "rls" in _AS, "pgbouncer" in _AS, "citus" in _AS
# The server's port, by that of the pooler in front of it.
_behind: dict[int, int] = {}


def make_bound(server: PostgresServer, name: str) -> None:
    """Give a database its roles, its tables and row-level security, as operators are told to."""
    with psycopg.connect(server.url(name), autocommit=True) as connection:
        connection.execute(ROLES.script())
    owner = Database(server.url(name, ROLES.owner))
    owner.upgrade()
    row_level_security.enable(owner)
    owner.close()


@contextmanager
def pooled(server: PostgresServer) -> Iterator[PgBouncer]:
    """A pooler in front of a server, for the roles that there are in tests."""
    with PgBouncer(server.port, "postgres", *ROLES) as bouncer:
        _behind[bouncer.port] = server.port
        yield bouncer


def as_role(url: str, role: str) -> str:
    """The same database under another role."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{role}@{rest.partition('@')[2]}"


def at_the_server(url: str) -> str:
    """The same database as the superuser sees it, past any pooler."""
    for pooler, server in _behind.items():
        url = url.replace(f":{pooler}/", f":{server}/")
    return as_role(url, "postgres") if IS_BOUND else url


def give_jobs_a_role() -> None:
    """Have every memory under the application's role run operators' jobs under the sweeper's."""
    if not IS_BOUND:
        return
    init = IsolatedMemory.__init__
    user = f"://{ROLES.application}@"

    @wraps(init)
    def with_jobs(self: Any, url: Any, **options: Any) -> None:
        if isinstance(url, str) and user in url:
            options.setdefault("jobs_url", as_role(url, ROLES.sweeper))
        init(self, url, **options)

    IsolatedMemory.__init__ = with_jobs  # type: ignore[method-assign]
