"""Row-level security: what it costs an operation, direct and through PgBouncer.

    python -m benchmarks.row_level_security --rounds 400

The same calls on four memories of one server, in turn: without and with policies, direct and
through a pooler in transaction mode. Timings differ; ratios of one run hold.
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg
from langchain_core.messages import HumanMessage
from rich.console import Console
from rich.table import Table

from benchmarks.harness import in_turn, microseconds, ratio
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database.database import Database
from tests.postgres import PostgresServer
from tests.served import ROLES, make_bound, pooled

LOADED = 20
OPERATIONS = ("append", "load 20", "count", "put", "get", "search")
WAYS = ("direct", "pooled")


def prepared(server: PostgresServer, name: str, *, is_bound: bool) -> str:
    """A database with our tables, by the role that serves from it."""
    with psycopg.connect(server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    if is_bound:
        make_bound(server, name)
        return server.url(name, ROLES.application)
    database = Database(server.url(name))
    database.upgrade()
    database.close()
    return server.url(name)


def steps(memory: IsolatedMemory) -> Iterator[Callable[[int], object]]:
    """One step for each of `OPERATIONS`."""
    scope = memory.scope(user_id="alice", module_id="tutor")
    scope.chat_history("full").add_messages([HumanMessage(f"m {n}") for n in range(LOADED)])
    growing, full, store = scope.chat_history("growing"), scope.chat_history("full"), scope.store()
    store.put(("facts",), "one", {"n": 0})
    yield lambda number: growing.add_messages([HumanMessage(f"message {number}")])
    yield lambda _: full.messages
    yield lambda _: full.count()
    yield lambda number: store.put(("facts",), "one", {"n": number})
    yield lambda _: store.get(("facts",), "one")
    yield lambda _: store.search(("facts",))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=400)
    rounds = parser.parse_args().rounds
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer())
        bouncer = stack.enter_context(pooled(server))
        actions = {}
        for is_bound in (False, True):
            url = prepared(server, "bound" if is_bound else "free", is_bound=is_bound)
            for way in WAYS:
                served = bouncer.url(url) if way == "pooled" else url
                memory = IsolatedMemory(served, root_key=LocalRootKey(bytes(32)))
                actions[way, is_bound] = [*steps(stack.enter_context(memory))]
        measured = in_turn(actions, rounds, warm_up=20)  # type: ignore[type-var]
    shown = Table("operation", *(f"{way}, µs, with / without" for way in WAYS))
    for number, operation in enumerate(OPERATIONS):
        cells = []
        for way in WAYS:
            free, bound = measured[way, False][number], measured[way, True][number]
            cells.append(
                f"{microseconds(bound):.0f} / {microseconds(free):.0f} = {ratio(bound, free):.2f}"
            )
        shown.add_row(operation, *cells)
    Console().print(shown)


if __name__ == "__main__":
    main()
