"""Behind a pooler that hands sessions on between transactions nothing is left on a session."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database import schema
from langmem_isolated._database.admission import SETTING
from langmem_isolated._database.database import Database
from langmem_isolated._database.dialects import Postgres
from langmem_isolated._database.transactions import Transaction
from langmem_isolated.errors import DatabaseError, DatabaseLocked
from tests import served
from tests.conftest import ROOT_KEY, new_postgres_url
from tests.pgbouncer import PgBouncer
from tests.postgres import PostgresServer
from tests.served import ROLES, as_role

pytestmark = pytest.mark.system("pgbouncer")
ROOT = Path(__file__).parent.parent
# The adapters' tests, on PostgreSQL and through the synchronous door: it is one body.
SUITE = [
    f"tests/test_{name}.py"
    for name in (
        *("chat_history", "sessions", "checkpointer", "store", "vector_store", "caches"),
        *("sharing", "middleware", "erasure", "export", "anonymous", "retriever"),
    )
]
LEFT_OUT = (
    "postgres-async",
    # These ask the database themselves, past what admits them.
    *("looks_at_no_more_rows", "any_sequence_of_calls", "replaces_what_stood", "plan"),
    # Long, and of processes: the other runs do these.
    *("kill", "process", "slow"),
)


@pytest.fixture
def direct_url(postgres: PostgresServer) -> str:
    """A database under row-level security, by the application's role, past any pooler."""
    name = new_postgres_url(postgres).rpartition("/")[2]
    if not served.IS_BOUND:
        served.make_bound(postgres, name)
    return postgres.url(name, ROLES.application)


@pytest.fixture
def pooled_url(direct_url: str, pgbouncer: PgBouncer) -> str:
    return pgbouncer.url(direct_url)


@pytest.fixture
def memory(pooled_url: str) -> Iterator[IsolatedMemory]:
    with IsolatedMemory(pooled_url, root_key=LocalRootKey(ROOT_KEY), timeout=2) as memory:
        yield memory


def is_pooled(url: str) -> bool | None:
    with closing(Database(url)) as database:
        database.open()
        assert isinstance(database._dialect, Postgres)
        return database._dialect.is_pooled


def test_a_pooler_is_found_out_and_none_where_there_is_none(
    direct_url: str, pooled_url: str, postgres: PostgresServer
):
    assert is_pooled(pooled_url) is True
    assert is_pooled(direct_url) is False
    # One that takes the options of a connection and forgets them.
    forgetful = "ignore_startup_parameters = options\n"
    with PgBouncer(postgres.port, *ROLES, more=forgetful) as bouncer:
        assert is_pooled(bouncer.url(direct_url)) is True


def test_a_url_may_say_whether_there_is_a_pooler(direct_url: str, pooled_url: str):
    assert is_pooled(f"{direct_url}?pooler=transaction") is True
    assert is_pooled(f"{direct_url}?pooler=none") is False
    with pytest.raises(DatabaseError, match="transaction or none"):
        Database(f"{pooled_url}?pooler=session")


def test_the_next_client_finds_nothing_on_a_session(memory: IsolatedMemory, pooled_url: str):
    alice = memory.scope(user_id="alice", module_id="tutor")
    for number in range(20):
        alice.chat_history("monday").add_user_message(str(number))
        alice.store().put(("facts",), str(number), {"n": number})
        assert alice.chat_history("monday").messages

    for _ in range(4):
        with psycopg.connect(pooled_url, autocommit=True, prepare_threshold=None) as other:
            assert other.execute("SHOW lock_timeout").fetchone() == ("0",)
            found = other.execute(f"SELECT current_setting('{SETTING}', true)").fetchone()
            assert found in ((None,), ("",))
            assert other.execute("SELECT count(*) FROM pg_prepared_statements").fetchone() == (0,)


def test_many_users_share_two_sessions_and_meet_their_own_memory(memory: IsolatedMemory):
    def use(user: str) -> list[object]:
        scope = memory.scope(user_id=user, module_id="tutor")
        for number in range(15):
            scope.chat_history("monday").add_user_message(f"{user} {number}")
            scope.store().put(("facts",), "one", {"text": user})
            found = scope.store().get(("facts",), "one")
            assert found is not None
            assert found.value == {"text": user}
        return [message.content for message in scope.chat_history("monday").messages]

    users = [f"user {number}" for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        said = [*threads.map(use, users)]

    assert said == [[f"{user} {number}" for number in range(15)] for user in users]


@pytest.mark.parametrize("way", ["direct_url", "pooled_url"])
def test_whoever_waits_for_a_lock_waits_for_the_timeout(
    way: str, direct_url: str, request: pytest.FixtureRequest
):
    url = request.getfixturevalue(way)
    with (
        IsolatedMemory(url, root_key=LocalRootKey(ROOT_KEY), timeout=1) as memory,
        psycopg.connect(as_role(direct_url, "postgres")) as holder,
    ):
        history = memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
        history.add_user_message("Hi")
        holder.execute(f"LOCK TABLE {schema.POSTGRES_SCHEMA}.sessions")
        began = time.monotonic()
        with pytest.raises(DatabaseLocked):
            history.add_user_message("Hi again")
        with pytest.raises(DatabaseLocked):
            history.count()
        # Of 60 s that both would be by default.
        assert time.monotonic() - began < 50


def test_a_statement_that_fails_leaves_a_clean_session(memory: IsolatedMemory):
    alice = memory.scope(user_id="alice", module_id="tutor")
    alice.chat_history("monday").add_user_message("Hi")
    key = memory._database

    for _ in range(5):
        with pytest.raises(DatabaseError):
            key.read(Transaction.rows, schema.records.select())
        assert len(alice.chat_history("monday").messages) == 1


def failures_of_the_adapters_suite(served_as: str) -> str:
    """What the adapters' tests say where PostgreSQL is served in this way; empty if all pass."""
    without = " and ".join(f"not {name}" for name in LEFT_OUT)
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-n", "2", "-q", "--tb=short", *SUITE),
            *("-k", f"postgres and {without}"),
        ],
        cwd=ROOT,
        env={**os.environ, "LANGMEM_ISOLATED_TEST_POSTGRES": served_as},
        capture_output=True,
        text=True,
        check=False,
    )
    return f"status {ran.returncode}: {ran.stdout[-4000:]}" if ran.returncode else ""


# Three minutes where nothing else runs.
@pytest.mark.timeout(1500)
@pytest.mark.slow
def test_the_adapters_suite_passes_with_row_level_security_through_a_pooler():
    assert failures_of_the_adapters_suite("pgbouncer+rls") == ""
