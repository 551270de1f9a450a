"""Leaving: exports of one user, erasure, rotation of the root key, backups.

    python -m benchmarks.leaving --json leaving.json
    python -m benchmarks.leaving --messages 10000 --users 100 --database postgres

Exports run as the command, in a process of their own whose memory the system counts, and are held
against the writing of the same messages, 100 a call. A backup is held against SQLite's backup API,
which copies what was deleted, too.
"""

import argparse
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from pathlib import Path

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from rich.progress import track

from benchmarks.harness import Report, Target, in_turn, machine, ratio
from benchmarks.lifecycle import ROOT_KEY, ROOT_KEY_TEXT, database
from langmem_isolated import IsolatedMemory, LocalRootKey

SESSION, CALL = 1000, 100
MOST_EXPORT, MOST_MEGABYTES, MOST_BACKUP = 5.0, 200.0, 10.0
# ru_maxrss is in kB on Linux, in bytes on macOS.
_MAXIMUM_UNIT = 1 if sys.platform == "darwin" else 1024


def said(number: int) -> list[BaseMessage]:
    """What one call writes."""
    asks, says = "How do I divide one half by three quarters? " * 3, "Multiply. " * 20
    turn = [HumanMessage(f"{number} {asks}"), AIMessage(f"{number} {says}")]
    return turn * (CALL // 2)


def write(memory: IsolatedMemory, user: str, messages: int) -> float:
    """Write a user's messages; returns in how many seconds."""
    scope = memory.scope(user_id=user, module_id="tutor")
    begin = time.perf_counter()
    for number in track(range(0, messages, CALL), f"{messages:,} messages", transient=True):
        scope.chat_history(f"session {number // SESSION}").add_messages(said(number))
    return time.perf_counter() - begin


def taken(action: Callable[[], object]) -> float:
    """Seconds of one call."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def exported(url: str, output: Path, user: str = "ann") -> tuple[float, float]:
    """Seconds and megabytes, at most, of the command that exports."""
    command = [sys.executable, "-m", "langmem_isolated", "export", "--user", user, "--json"]
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--output", str(output), "--database", url],
        env={**os.environ, "LANGMEM_ISOLATED_ROOT_KEY": ROOT_KEY_TEXT},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    seconds = time.perf_counter() - begin
    if process.returncode:
        raise RuntimeError(f"the export ended with {process.returncode}")
    return seconds, usage.ru_maxrss * _MAXIMUM_UNIT / 10**6


def bytes_in(path: Path) -> int:
    """Of a file, or of all files in a folder."""
    files: Iterator[Path] = path.rglob("*") if path.is_dir() else iter([path])
    return sum(one.stat().st_size for one in files if one.is_file())


def measure_exports(report: Report, url: str, folder: Path, messages: int, writing: float) -> None:
    """A zip file, a folder, and the portable format."""
    # To start Python and to import takes as long for whoever has nothing.
    start, _ = exported(url, folder / "nobody", "nobody")
    rows, slowest, largest = [], 0.0, 0.0
    for name in ("ann.zip", "ann", "ann.mem"):
        seconds, megabytes = exported(url, folder / name)
        seconds = max(seconds - start, 0.001)
        slowest, largest = max(slowest, seconds), max(largest, megabytes)
        size = bytes_in(folder / name) / 10**6
        rows.append((name, seconds, messages / seconds, seconds / writing, megabytes, size))
        report.measured("export", name, seconds=seconds, megabytes=megabytes, written=size)
    report.table(
        f"export of {messages:,} messages, written in {writing:.1f} s; start: {start:.1f} s",
        ("output", "s", "messages a second", "of writing", "memory, MB", "size, MB"),
        rows,
    )
    report.targets += [
        Target("an export, of writing the messages", slowest / writing, MOST_EXPORT),
        Target("memory of an export", largest, MOST_MEGABYTES, unit="MB"),
    ]


def measure_erasure(report: Report, memory: IsolatedMemory, messages: int, writing: float) -> None:
    """A user with all the messages, and beside it one with none but a few."""
    few = write(memory, "bob", CALL)
    rows = []
    for user, number, written in (("ann", messages, writing), ("bob", CALL, few)):
        seconds = taken(lambda user=user: memory.erase_user(user))  # type: ignore[misc]
        rows.append((f"{number:,} messages", seconds, number / seconds, seconds / written))
        report.measured("erasure", user, messages=number, seconds=seconds)
    report.table("erasure", ("user", "s", "messages a second", "of writing"), rows)


def measure_rotation(report: Report, memory: IsolatedMemory, users: int) -> None:
    """All users' keys are wrapped anew."""
    for number in track(range(users), f"{users:,} users", transient=True):
        store = memory.scope(user_id=f"user {number}", module_id="tutor").store()
        store.put(("facts",), "one", {"n": number})
    new = LocalRootKey.from_text(LocalRootKey.generate_text())
    seconds = taken(lambda: memory.rotate_root_key(new))
    report.table(
        "rotation of the root key",
        ("users", "s", "ms a user"),
        [(f"{users:,}", seconds, seconds / users * 1000)],
    )
    report.measured("rotation", "", users=users, seconds=seconds)


def measure_backup(
    report: Report, memory: IsolatedMemory, path: Path, folder: Path, rounds: int
) -> None:
    """Ours, checked and opened, against SQLite's copy of pages."""
    ours, theirs = count(), count()

    def copy_pages(_: int) -> None:
        with (
            closing(sqlite3.connect(path)) as source,
            closing(sqlite3.connect(folder / f"pages {next(theirs)}")) as target,
        ):
            source.backup(target)

    steps = in_turn(
        {
            "memory.backup()": [lambda _: memory.backup(folder / f"copy {next(ours)}")],
            "SQLite's backup API": [copy_pages],
        },
        rounds,
        warm_up=1,
    )
    seconds = {name: one[0] for name, one in steps.items()}
    report.table(
        f"backup of {path.stat().st_size / 10**6:,.1f} MB, median",
        ("by", "s"),
        [(name, statistics.median(one)) for name, one in seconds.items()],
    )
    times = ratio(seconds["memory.backup()"], seconds["SQLite's backup API"])
    report.targets.append(Target("a backup, of a copy of pages", times, MOST_BACKUP))


def main() -> int:
    """Print what was measured; 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    messages = max(CALL, given.messages // CALL * CALL)
    report = Report("Leaving", machine("langmem-isolated", "SQLAlchemy"))
    report.settings["database"] = given.database
    report.settings["messages"] = f"{messages:,} in sessions of {SESSION:,}"
    with (
        tempfile.TemporaryDirectory() as name,
        database(given.database, Path(name), "memory") as url,
        IsolatedMemory(url, root_key=ROOT_KEY) as memory,
    ):
        folder = Path(name)
        writing = write(memory, "ann", messages)
        measure_exports(report, url, folder, messages, writing)
        if given.database == "sqlite":
            measure_backup(report, memory, folder / "memory.db", folder, given.rounds)
        measure_erasure(report, memory, messages, writing)
        measure_rotation(report, memory, given.users)
    report.finish(given.json)
    return not all(target.met for target in report.targets)


if __name__ == "__main__":
    sys.exit(main())
