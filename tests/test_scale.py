"""What the page about scale says of a million users follows from what it says of one."""

import re
from pathlib import Path

from benchmarks import scale
from langmem_isolated import IsolatedMemory
from tests.test_docs import PAGES, table

PAGE = PAGES["docs/explanation/scale.md"]
ACTIVE, TURNS, BUSIEST = 0.1, 10, 0.2


def number(cell: str) -> float:
    return float(cell.replace(",", ""))


def constant(name: str) -> float:
    """What the page's block of Python gives a name, among others."""
    line = next(line for line in PAGE.splitlines() if re.match(rf"[A-Z_, ]*\b{name}\b.* = ", line))
    names, _, values = line.partition("#")[0].partition(" = ")
    assigned = dict(zip(names.split(", "), values.split(", "), strict=True))[name]
    parts = [float(part) for part in assigned.replace("_", "").split(" / ")]
    return parts[0] / parts[1] if len(parts) == 2 else parts[0]


def test_a_users_tables_add_up_to_what_a_user_takes():
    *tables, in_all = table(PAGE, "One user")
    sums = [sum(number(row[column]) for row in tables) for column in (1, 2, 3)]

    assert sums == [number(cell) for cell in in_all[1:]]
    assert sums[:2] == [constant("ROWS"), constant("BYTES")]


def test_the_cost_of_millions_is_that_of_one_user_as_often():
    anew = constant("ROWS") * constant("SEALED_ANEW")
    each = (constant("ROWS"), constant("BYTES") / 1e9, ACTIVE * TURNS * BUSIEST / 3_600)
    jobs = (constant("SWEEP"), constant("STATISTICS"), constant("ERASURE"), anew)
    costs = (*each, *jobs, constant("WRAPPED_ANEW"), constant("BACKUP"))
    rows = table(PAGE, "From ten to ten million")

    assert [number(row[0]) for row in rows] == [10**power for power in range(1, 8)]
    for row in rows:
        told, users = [number(cell) for cell in row[1:]], number(row[0])
        assert told == [float(f"{users * cost:.2g}") for cost in costs]


def test_copies_of_users_take_as_much_room_and_leave_the_users_as_they_are(tmp_path: Path):
    databases = scale.SqliteFiles(tmp_path)
    scale._make(databases.url, scale.chat(), range(3))
    key = scale.CountingKey()
    with IsolatedMemory(databases.url, root_key=key) as memory:
        before = scale.tables_of(memory)

    databases.multiply(4)

    with IsolatedMemory(databases.url, root_key=key) as memory:
        after = scale.tables_of(memory)
        histories = [scale.scope_of(memory, n).chat_history("session-0") for n in range(3)]
        assert [len(history.messages) for history in histories] == [scale.MESSAGES] * 3
    # The installation's own key set is nobody's.
    kept = {"keys": 2, "key_sets": 1}
    for name in scale.TABLES:
        own = kept.get(name, 0)
        assert after[name][0] - own == 4 * (before[name][0] - own)
