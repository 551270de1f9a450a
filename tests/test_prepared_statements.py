"""What PostgreSQL is asked often it plans once: planning takes longer than what is planned."""

import gc
from collections.abc import Callable
from weakref import ref

import pytest
import sqlalchemy as sa
from langchain_core.messages import AIMessage, HumanMessage
from sqlalchemy import bindparam

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope
from langmem_isolated._database.transactions import Transaction
from langmem_isolated.errors import DatabaseError
from langmem_isolated.scoped_memory import ScopedMemory
from tests import served

Call = Callable[[ScopedMemory], object]

# More often than the server makes plans before it keeps one: five times.
TURNS = 20
TURN = [HumanMessage("q"), AIMessage("a")]
CALLS: dict[str, Call] = {
    "get": lambda scope: scope.store().get(("facts",), "one"),
    "put": lambda scope: scope.store().put(("facts",), "one", {"n": 1}),
    "append": lambda scope: scope.chat_history("monday").add_messages(TURN),
    "load": lambda scope: scope.chat_history("tuesday").messages,
}


def plans(memory: IsolatedMemory) -> tuple[int, int]:
    """How many plans were made for what is given, and how often one was used that was kept."""
    asked = "SELECT sum(custom_plans), sum(generic_plans) FROM pg_prepared_statements"
    (row,) = memory._database.inspect(lambda it: it.exec_driver_sql(asked).fetchall())
    return row[0] or 0, row[1] or 0


prepares = pytest.mark.skipif(served.IS_POOLED, reason="behind a pooler nothing is prepared")


@prepares
@pytest.mark.skipif(served.IS_DISTRIBUTED, reason="the coordinator plans for its workers")
@pytest.mark.parametrize("name", CALLS)
def test_what_is_asked_often_is_planned_once(name: str, postgres_url: str, root_key: LocalRootKey):
    with IsolatedMemory(postgres_url, root_key=root_key, pool_size=1) as memory:
        scope = memory.scope(Scope("alice", "tutor"))
        for call in CALLS.values():
            call(scope)
        call = CALLS[name]
        for _ in range(TURNS):
            call(scope)
        before = plans(memory)

        for _ in range(TURNS):
            call(scope)

        custom, generic = (now - then for now, then in zip(plans(memory), before, strict=True))
        assert custom == 0
        assert generic >= TURNS


def prepared(memory: IsolatedMemory) -> set[str]:
    """The names of what the server has prepared for autocommit cursors."""
    asked = "SELECT name FROM pg_prepared_statements WHERE starts_with(name, '_langmem')"
    rows = memory._database.inspect(lambda it: it.exec_driver_sql(asked).fetchall())
    return {name for (name,) in rows}


@prepares
def test_what_the_server_has_forgotten_is_prepared_again(postgres_url: str, root_key: LocalRootKey):
    """As when psycopg rolls a transaction back."""
    with IsolatedMemory(postgres_url, root_key=root_key, pool_size=1) as memory:
        scope = memory.scope(Scope("alice", "tutor"))
        for _ in range(TURNS):
            CALLS["put"](scope)
        memory._database.inspect(lambda it: it.exec_driver_sql("DEALLOCATE ALL"))
        assert not prepared(memory)

        for _ in range(TURNS):
            CALLS["put"](scope)

        assert prepared(memory)


@prepares
@pytest.mark.skipif(served.IS_DISTRIBUTED, reason="the coordinator plans for its workers")
def test_what_was_prepared_before_a_table_changed_is_prepared_again(
    postgres_url: str, root_key: LocalRootKey
):
    """As by an upgrade in another process: nobody is told that a plan is out of date."""
    changing = sa.table("changing", sa.column("number", sa.Integer))
    with IsolatedMemory(postgres_url, root_key=root_key, pool_size=1) as memory:
        run = memory._database.inspect
        run(lambda it: it.exec_driver_sql("CREATE TABLE changing AS SELECT 1 AS number"))
        one = sa.select(changing.c.number)
        for _ in range(TURNS):
            memory._database.read(Transaction.row, one)
        run(lambda it: it.exec_driver_sql("ALTER TABLE changing ALTER number TYPE bigint"))

        assert memory._database.read(Transaction.row, one) == (1,)


@prepares
def test_what_was_refused_stays_prepared(postgres_url: str, root_key: LocalRootKey):
    divided = sa.select(sa.literal_column("1") / bindparam("by", type_=sa.Integer))
    with IsolatedMemory(postgres_url, root_key=root_key, pool_size=1) as memory:
        for _ in range(TURNS):
            memory._database.read(Transaction.row, divided, by=1)
        before = prepared(memory)
        assert before

        with pytest.raises(DatabaseError):
            memory._database.read(Transaction.row, divided, by=0)
        for _ in range(TURNS):
            memory._database.read(Transaction.row, divided, by=1)

        assert prepared(memory) == before


def test_a_closed_connection_is_freed_at_once(postgres_url: str, root_key: LocalRootKey):
    """What it keeps for its statements does not keep it."""
    with IsolatedMemory(postgres_url, root_key=root_key, pool_size=1) as memory:
        CALLS["put"](memory.scope(Scope("alice", "tutor")))
        (idle,) = memory._database._engine.pool._idle  # type: ignore[attr-defined]
        connection = ref(idle.dbapi_connection)
        del idle
        gc.disable()
        try:
            memory.close()

            assert connection() is None
        finally:
            gc.enable()
