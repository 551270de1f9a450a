"""Frozen databases: what a release wrote, kept under `tests/vectors/databases/` for ever.

``python -m tests.frozen_databases`` makes those of the version of now, SQLite's as a file and
PostgreSQL's as SQL, and refuses to write over any that is there.
"""

import gzip
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import psycopg
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import empty_checkpoint

from langmem_isolated import AuditOptions, IsolatedMemory, LocalRootKey
from langmem_isolated._database.upgrades import versions
from tests.embeddings import NGramEmbeddings
from tests.postgres import PostgresServer, programs

FOLDER = Path(__file__).parent / "vectors" / "databases"
# No secret: what it opens is in this file.
ROOT_KEY = bytes(range(32))
THREAD: Any = {"configurable": {"thread_id": "essay", "checkpoint_ns": ""}}


def remember(memory: IsolatedMemory) -> None:
    """What a frozen database holds: something of each kind, of two users."""
    tutor = memory.scope(user_id="alice", module_id="tutor")
    tutor.sessions.create("monday", title="Tables", channel="general")
    tutor.chat_history("monday").add_messages(
        [HumanMessage("What is 7 times 6?", id="q-1"), AIMessage("42", id="a-1")]
    )
    checkpoint = empty_checkpoint()
    checkpoint["channel_values"] = {"messages": [HumanMessage("Write an essay. " * 40, id="1")]}
    checkpoint["channel_versions"] = {"messages": "1"}
    saver = tutor.checkpointer()
    metadata: Any = {"source": "loop", "step": 1}
    config = saver.put(THREAD, checkpoint, metadata, {"messages": "1"})
    saver.put_writes(config, [("messages", "a draft")], "task-1")
    tutor.store(index={"embed": NGramEmbeddings(), "dims": 64}).put(
        ("facts",), "pet", {"text": "Alice has a cat."}
    )
    tutor.vector_store(NGramEmbeddings()).add_texts(
        ["Fractions are parts."], [{"year": 2026}], ids=["d-1"]
    )
    profile = tutor.profile()
    profile.add_fact("Learns at night.")
    profile.add_interest("algebra")
    profile.set_attribute("grade", 7)
    memory.scope(user_id="alice", module_id="planner").chat_history("plans").add_ai_message("plan")
    zoe = memory.scope(user_id="Zoë", module_id="tutor", project_id="école")
    zoe.sessions.create("leer")
    memory.grants.allow(
        user_id="alice", from_module="tutor", to_module="planner", kinds=["message"]
    )
    memory.retention.keep("message", module_id="tutor", age=None, days=36_500)


def path_of(backend: str, version: int) -> Path:
    """Where a frozen database is."""
    return FOLDER / f"v{version}_{backend}.{'db' if backend == 'sqlite' else 'sql'}.gz"


def restore_sqlite(version: int, file: Path) -> str:
    """The URL of a copy of a frozen database."""
    file.write_bytes(gzip.decompress(path_of("sqlite", version).read_bytes()))
    return f"sqlite:///{file}"


def restore_postgres(version: int, url: str) -> str:
    """The URL of an empty database, filled with a frozen one."""
    script = gzip.decompress(path_of("postgres", version).read_bytes()).decode()
    # What begins with a backslash is for psql.
    lines = [line for line in script.splitlines() if not line.startswith("\\")]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("\n".join(lines).encode())
    return url


def _filled(url: str) -> None:
    key = LocalRootKey(ROOT_KEY)
    with IsolatedMemory(url, root_key=key, audit=AuditOptions()) as memory:
        remember(memory)


def _frozen_sqlite(folder: Path) -> bytes:
    _filled(f"sqlite:///{folder}/memory.db")
    return (folder / "memory.db").read_bytes()


def _frozen_postgres() -> bytes:
    with PostgresServer() as server:
        _filled(server.url())
        dump = [programs() / "pg_dump", "--schema=langmem_isolated", "--inserts", "--no-owner"]
        done = subprocess.run([*dump, server.url()], check=True, capture_output=True)
    return done.stdout


def main() -> None:
    """Make the databases of the version of now."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        frozen = {"sqlite": _frozen_sqlite(Path(folder)), "postgres": _frozen_postgres()}
    for backend, content in frozen.items():
        file = os.open(
            path_of(backend, versions.newest()), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644
        )
        with os.fdopen(file, "wb") as opened:
            opened.write(gzip.compress(content, mtime=0))


if __name__ == "__main__":
    main()
