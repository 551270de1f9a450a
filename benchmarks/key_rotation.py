"""Rotation of sealing keys: rows sealed anew a second, and what a turn costs meanwhile.

    python -m benchmarks.key_rotation --json key_rotation.json
    python -m benchmarks.key_rotation --messages 10000 --database postgres

A rotation is held against the writing of the same messages, 100 a call. A turn, a message that is
added and the session that is read back, is held against the same turn while nothing else goes on.
"""

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from langchain_core.messages import HumanMessage

from benchmarks.harness import Report, Target, machine
from benchmarks.leaving import write
from benchmarks.lifecycle import ROOT_KEY, database
from langmem_isolated import IsolatedMemory

TURNS = 200
MOST_OF_WRITING, MOST_OF_A_TURN = 2.0, 4.0


def turns(memory: IsolatedMemory, user: str, is_over: Callable[[], bool]) -> list[float]:
    """Seconds of each turn of another user, until it is over or there were enough."""
    history = memory.scope(user_id=user, module_id="tutor").chat_history("monday")
    taken: list[float] = []
    while len(taken) < TURNS and not is_over():
        begin = time.perf_counter()
        history.add_messages([HumanMessage("What are fractions? " * 5)])
        assert history.messages
        taken.append(time.perf_counter() - begin)
    return taken


def measure(report: Report, memory: IsolatedMemory, messages: int) -> None:
    """A rotation alone, a turn alone, and both at once."""
    written = write(memory, "ann", messages)
    begin = time.perf_counter()
    records = memory.rotate_keys("ann").records
    alone = time.perf_counter() - begin
    quiet = turns(memory, "bob", lambda: False)
    job = threading.Thread(target=memory.rotate_keys, args=("ann",))
    job.start()
    beside = turns(memory, "carol", lambda: not job.is_alive())
    job.join()
    milliseconds = [1000 * statistics.median(one) for one in (quiet, beside)]
    report.table(
        f"{records:,} rows of one user sealed anew",
        ("", "s", "rows a second", "a turn of another, ms"),
        [
            ("alone", alone, records / alone, milliseconds[0]),
            ("beside turns", "", "", milliseconds[1]),
        ],
    )
    report.targets += [
        Target("a rotation, of writing the same", alone / written, MOST_OF_WRITING),
        Target("a turn beside it", milliseconds[1] / milliseconds[0], MOST_OF_A_TURN),
    ]


def main() -> int:
    """Print what was measured; 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    report = Report("Key rotation", machine("langmem-isolated", "SQLAlchemy"))
    report.settings["database"] = given.database
    with (
        tempfile.TemporaryDirectory() as name,
        database(given.database, Path(name), "memory") as url,
        IsolatedMemory(url, root_key=ROOT_KEY) as memory,
    ):
        measure(report, memory, given.messages)
    report.finish(given.json)
    return not all(target.met for target in report.targets)


if __name__ == "__main__":
    sys.exit(main())
