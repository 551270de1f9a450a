"""One SQLite file under a server's workers: nothing is lost, nobody meets a lock or starves."""

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path

import sqlalchemy as sa

from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._database.database import Database
from langmem_isolated._database.transactions import Transaction
from langmem_isolated.memory import ScopedMemory
from tests.processes import all_at_once
from tests.servers.chat import MODULE, NAMESPACE
from tests.servers.crowd import KEY, Crowd, crowd, workers

PROCESSES, USERS, TURNS = 4, 200, 1_200
DOING = ["history", "thread", "items"]
# One of four processes waited for 300 to 1,060 writes of the others at most; where each waits as
# SQLite does by itself, for 1,360 to 6,230.
WRITES, LONGEST = 24_000, 2_500
NOTES = sa.Table("notes", sa.MetaData(), sa.Column("writer", sa.Integer))
ADD = sa.insert(NOTES).values(writer=sa.bindparam("writer")).inline()
WRITERS = sa.select(NOTES.c.writer).order_by(sa.literal_column("rowid"))


def test_two_hundred_users_of_four_workers_lose_nothing_and_no_worker_starves(tmp_path: Path):
    with workers(tmp_path, PROCESSES) as server:

        def go_on(seen: Crowd) -> bool:
            return len(seen.turns) < TURNS

        seen = asyncio.run(crowd(server, USERS, PROCESSES, DOING, go_on))

    assert seen.errors == {}
    assert stored(tmp_path, USERS) == seen.counts(lambda turn: (turn.user, turn.what))
    each = seen.counts(lambda turn: turn.worker)
    assert len(each) == PROCESSES
    assert min(each.values()) > TURNS / PROCESSES / 3
    assert min(seen.counts(lambda turn: turn.user).values()) > TURNS / USERS / 4


def stored(folder: Path, users: int) -> Counter[tuple[str, str]]:
    """How many turns of each user and kind the database has."""
    found: Counter[tuple[str, str]] = Counter()
    url = f"sqlite:///{folder}/memory.db"
    with IsolatedMemory(url, root_key=LocalRootKey.from_text(KEY)) as memory:
        for number in range(users):
            scope = memory.scope(user_id=f"user-{number}", module_id=MODULE)
            for what, count in zip(DOING, turns_of(scope), strict=True):
                found[f"user-{number}", what] = count
    return +found


def turns_of(scope: ScopedMemory) -> tuple[int, int, int]:
    thread = scope.checkpointer().get_tuple({"configurable": {"thread_id": "monday"}})
    said = thread.checkpoint["channel_values"]["messages"] if thread else []
    items = scope.store().search(NAMESPACE, limit=1_000)
    return len(scope.chat_history("monday").messages) // 2, len(said) // 2, len(items)


def test_no_process_keeps_the_others_out_for_long(tmp_path: Path):
    """Counted by the order of their writes, which all make without a pause."""
    path = tmp_path / "notes.db"
    with closing(Database(f"sqlite:///{path}")) as database:
        database.write(lambda it: it.execute(sa.text("CREATE TABLE notes (writer INTEGER)")))

        all_at_once([partial(write_on_and_on, path, number) for number in range(PROCESSES)])

        writers = [writer for (writer,) in database.read(Transaction.rows, WRITERS)]

    begun = max(writers.index(number) for number in range(PROCESSES))
    waits = [longest_wait(writers[begun:WRITES], number) for number in range(PROCESSES)]
    assert max(waits) < LONGEST


def longest_wait(writers: list[int], writer: int) -> int:
    """How many writes of others there were at most between two of one."""
    own = [at for at, one in enumerate(writers) if one == writer]
    return max(after - before for before, after in pairwise([0, *own, len(writers)]))


def write_on_and_on(path: Path, writer: int) -> None:
    """From several threads, until all processes together have written enough."""
    with closing(Database(f"sqlite:///{path}", synchronous="NORMAL")) as database:

        def add(transaction: Transaction) -> int:
            added: int = transaction.query(ADD, writer=writer).lastrowid
            return added

        def write() -> None:
            while database.write(add) < WRITES:
                pass

        with ThreadPoolExecutor(8) as threads:
            for one in [threads.submit(write) for _ in range(8)]:
                one.result()
