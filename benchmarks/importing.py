"""Moving in: histories of SQLChatMessageHistory, threads of SqliteSaver, verification included.

    python -m benchmarks.importing --json importing.json
    python -m benchmarks.importing --small

Imports run as the command, in a process of their own whose memory the system counts. One thread is
made by a real graph, and its rows copied under other ids.
"""

import argparse
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from langchain_core.messages import AIMessage, HumanMessage, message_to_dict
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from rich.progress import track

from benchmarks.harness import Report, Target, machine
from benchmarks.leaving import bytes_in
from benchmarks.lifecycle import ROOT_KEY, ROOT_KEY_TEXT
from langmem_isolated import IsolatedMemory

MOST_HISTORY, MOST_THREADS = 60.0, 480.0
MOST_MEGABYTES, MOST_OF_SOURCE = 300.0, 0.2
ASKS, SAYS = "How do I divide one half by three quarters? " * 3, "Multiply. " * 20
# ru_maxrss is in kB on Linux, in bytes on macOS.
_MAXIMUM_UNIT = 1 if sys.platform == "darwin" else 1024


def chat_history(path: Path, messages: int, users: int) -> None:
    """A table as SQLChatMessageHistory has it, two sessions a user, rows of all of them mixed."""
    create = "CREATE TABLE message_store (id INTEGER PRIMARY KEY, session_id TEXT, message TEXT)"
    each = messages // users
    said = (
        (f"user{user}:{number * 2 // each}", json.dumps(message_to_dict(one)))
        for number in range(each)
        for one in [AIMessage(f"{number} {SAYS}") if number % 2 else HumanMessage(ASKS)]
        for user in range(users)
    )
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(create)
        database.executemany("INSERT INTO message_store (session_id, message) VALUES (?, ?)", said)


def threads(path: Path, count: int, turns: int) -> None:
    """Threads ``user0:0``, ``user1:0``, …: one of a graph, and copies of its rows."""
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda _: {"messages": [AIMessage(SAYS)]})
    builder.add_edge(START, "model")
    with SqliteSaver.from_conn_string(str(path)) as saver:
        graph = builder.compile(saver)
        for _ in range(turns):
            said = {"messages": [HumanMessage(ASKS)]}
            graph.invoke(said, {"configurable": {"thread_id": "user0:0"}})
    with closing(sqlite3.connect(path)) as database:
        for table in ("checkpoints", "writes"):
            rows = database.execute(f"SELECT * FROM {table} LIMIT 1").description
            others = ", ".join(name for name, *_ in rows if name != "thread_id")
            for number in track(range(1, count), f"{table} of threads", transient=True):
                database.execute(
                    f"INSERT INTO {table} (thread_id, {others}) "
                    f"SELECT ?, {others} FROM {table} WHERE thread_id = 'user0:0'",
                    [f"user{number}:0"],
                )
            database.commit()


def imported(kind: str, source: Path, url: str) -> tuple[float, float, float]:
    """Seconds, seconds of processors, and megabytes at most, of the command that imports."""
    IsolatedMemory(url, root_key=ROOT_KEY).open().close()
    rules = ("--module", "tutor", "--id-pattern", r"(?P<user>\w+):(?P<session>\d+)", "--json")
    command = (sys.executable, "-m", "langmem_isolated", "import", kind, str(source), *rules)
    begin = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--database", url],
        cwd=source.parent,
        env={**os.environ, "LANGMEM_ISOLATED_ROOT_KEY": ROOT_KEY_TEXT},
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"the import ended with {process.returncode}")
    spent = time.perf_counter() - begin
    return spent, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _MAXIMUM_UNIT / 10**6


def measure(report: Report, kind: str, source: Path, records: int, most: float) -> None:
    """One import into a new SQLite file."""
    target = source.with_suffix(".ours")
    seconds, busy, megabytes = imported(kind, source, f"sqlite:///{target}")
    share = bytes_in(target) / bytes_in(source)
    report.table(
        f"{kind}: {records:,} records of {bytes_in(source) / 10**6:,.1f} MB",
        ("", "s", "s of processors", "records a second", "memory, MB", "of the source's size"),
        [("import", seconds, busy, records / seconds, megabytes, share)],
    )
    report.measured("import", kind, seconds=seconds, busy=busy, megabytes=megabytes, share=share)
    report.targets += [
        Target(f"{kind}, all of it", seconds, most, unit="s"),
        Target(f"{kind}, memory", megabytes, MOST_MEGABYTES, unit="MB"),
    ]
    if kind == "sqlite-saver":
        report.targets.append(Target(f"{kind}, of the source's size", share, MOST_OF_SOURCE))


def main() -> int:
    """Print what was measured; 1 where a target was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=1_000)
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--small", action="store_true", help="a minute's worth of it")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.small:
        given.messages, given.users, given.threads = 10_000, 100, 20
    report = Report("Moving in", machine("langmem-isolated", "langgraph-checkpoint-sqlite"))
    report.settings["chat history"] = f"{given.messages:,} messages of {given.users:,} users"
    report.settings["threads"] = f"{given.threads:,} of {given.turns} turns"
    with tempfile.TemporaryDirectory() as name:
        chats, saver = Path(name, "chats.db"), Path(name, "saver.db")
        chat_history(chats, given.messages, given.users)
        measure(report, "sql-chat-history", chats, given.messages, MOST_HISTORY)
        threads(saver, given.threads, given.turns)
        with closing(sqlite3.connect(saver)) as database:
            (count,) = database.execute("SELECT count(*) FROM checkpoints").fetchone()
        measure(report, "sqlite-saver", saver, count, MOST_THREADS)
    report.finish(given.json)
    return 0 if all(target.met for target in report.targets) else 1


if __name__ == "__main__":
    sys.exit(main())
