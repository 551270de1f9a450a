"""The house stands on its floors: a module imports only what stands before it in this list."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import langmem_isolated

PACKAGE = Path(langmem_isolated.__file__).parent

# In reading order. Floor 0: words. 1: sealing, pure. 2: storage. 3: adapters, and what they share.
# 4: walks over the same records. 5: the front door.
FLOORS = {
    "errors": 0,
    "scope": 0,
    "_forking": 0,
    "_warm": 0,
    "_sealing": 1,
    "_schema": 2,
    "_dialects": 2,
    "_write_queue": 2,
    "_database": 2,
    "root_keys": 2,
    "_scope_keys": 2,
    "_wrapped_keys": 2,
    "keyring": 2,
    "_records": 2,
    "_states": 2,
    "_sessions": 2,
    "_sessions.statements": 2,
    "_sessions.roster": 2,
    "_sessions.reading": 2,
    "_sessions.storing": 2,
    "_threads": 2,
    "_threads.statements": 2,
    "_threads.slots": 2,
    "_threads.roster": 2,
    "_threads.reading": 2,
    "_threads.storing": 2,
    "_transcripts": 2,
    "_items": 2,
    "_items.statements": 2,
    "_items.places": 2,
    "_items.forms": 2,
    "_items.reading": 2,
    "_items.writing": 2,
    "_entries": 2,
    "_documents": 2,
    "_encoding": 3,
    "_values": 3,
    "_values.form": 3,
    "_values.known": 3,
    "_values.serde": 3,
    "_values.encoder": 3,
    "_values.decoder": 3,
    "_scoping": 3,
    "_lexical": 3,
    "_filters": 3,
    "_metadata_filters": 3,
    "_vectors": 3,
    "_vector_stores": 3,
    "_checkpoints": 3,
    "_checkpoints.addresses": 3,
    "_checkpoints.bodies": 3,
    "_checkpoints.pruning": 3,
    "_checkpoints.listing": 3,
    "_checkpoints.history": 3,
    "_checkpoints.threads": 3,
    "chat_history": 3,
    "checkpointer": 3,
    "_batches": 3,
    "store": 3,
    "caches": 3,
    "indexing": 3,
    "vector_store": 3,
    "_stamps": 3,
    "wrapping._conditions": 3,
    "wrapping.adapters": 3,
    "wrapping.stores": 3,
    "wrapping._probe": 3,
    "wrapping.vector_store": 3,
    "wrapping.testing": 3,
    "wrapping": 3,
    "retriever": 3,
    "recall": 3,
    "sessions": 4,
    "recall_tool": 4,
    "_recording": 4,
    "callbacks": 4,
    "middleware": 4,
    "_ground": 5,
    "publisher": 5,
    "scoped_memory": 5,
    "memory": 5,
    "_terminal": 5,
    "demo.attack": 5,
    "demo.conversations": 5,
    "demo.sections": 5,
    "demo.agents": 5,
    "demo.retrieval": 5,
    "demo": 5,
    "cli": 5,
    "__main__": 5,
    "__init__": 5,
}
ORDER = list(FLOORS)
# Each stands alone: what two of them need is in a module that begins with an underscore.
ADAPTERS = {
    "chat_history",
    "checkpointer",
    "store",
    "vector_store",
    "retriever",
    "caches",
    "indexing",
    "recall",
}

STORAGE = {name for name, floor in FLOORS.items() if floor == 2}
ABOVE_STORAGE = {name for name, floor in FLOORS.items() if floor >= 3}
FRONT = {"_terminal", "demo", "demo.sections", "cli"}
ROOMS_OF_VALUES = {name for name in FLOORS if name.startswith("_values.")}
HOMES = {
    "cryptography": {"_sealing"},
    "sqlalchemy": STORAGE,
    # The demo's attacker and the doctor look at SQLite itself.
    "sqlite3": {"_dialects", "demo.attack", "cli"},
    "psycopg": {"_dialects"},
    "langchain_core": ABOVE_STORAGE,
    "langgraph": ABOVE_STORAGE,
    "langchain": {"middleware"},
    "ormsgpack": {"_encoding", *ROOMS_OF_VALUES, "_checkpoints.bodies"},
    "numpy": {"_vectors"},
    "pydantic": {"retriever", "recall_tool"},
    # Where the store is: the module imports it when it meets one.
    "qdrant_client": {"wrapping.stores"},
    # A suite that authors of adapters run.
    "pytest": {"wrapping.testing"},
    "rich": FRONT,
    "typer": {"cli"},
}


def modules() -> dict[str, str]:
    """The source of every module, by its name without the package's."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)
        found[name] = path.read_text()
    return found


def imported(source: str) -> Iterator[str]:
    """Every name a module imports, dotted, wherever in it the import stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


def ours(name: str) -> str | None:
    """Which module of ours an imported name stands for."""
    first, _, rest = name.partition(".")
    if first != "langmem_isolated":
        return None
    parts = rest.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((name for name in names if name in FLOORS), "__init__")


def violations(name: str, source: str) -> list[str]:
    """What a module imports and must not."""
    found, everywhere = [], FLOORS
    for target in imported(source):
        first, known = target.partition(".")[0], ours(target)
        if not first:
            found.append(f"{target}: imports are written out, from the package down")
        elif known:
            if ORDER.index(known) >= ORDER.index(name) and known != name:
                found.append(f"{known} stands after {name}")
            if known in ADAPTERS and name in ADAPTERS and known != name:
                found.append(f"{known} is an adapter, too")
        elif name not in HOMES.get(first, everywhere if first in sys.stdlib_module_names else ()):
            found.append(f"{first} has another home")
    return found


def test_every_module_has_its_place_in_the_list():
    assert set(modules()) == set(FLOORS)


def test_the_list_goes_up_floor_by_floor():
    assert list(FLOORS.values()) == sorted(FLOORS.values())


@pytest.mark.parametrize("name", modules())
def test_a_module_imports_only_what_stands_before_it_and_what_it_is_the_home_of(name: str):
    assert violations(name, modules()[name]) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("_sealing", "from langmem_isolated._database import Database"),
        ("_sealing", "from langmem_isolated import keyring"),
        ("_sealing", "def later():\n    import langmem_isolated.memory"),
        ("errors", "from langmem_isolated import IsolatedMemory"),
        ("chat_history", "from langmem_isolated import store"),
        ("store", "from langmem_isolated.chat_history import Page"),
        ("checkpointer", "if TYPE_CHECKING:\n    from langmem_isolated.store import IsolatedStore"),
        ("keyring", "from cryptography.hazmat.primitives.ciphers.aead import AESGCM"),
        ("chat_history", "import sqlalchemy as sa"),
        ("chat_history", "import sqlite3"),
        ("keyring", 'psycopg = import_module("psycopg")'),
        ("_records", "from langchain_core.messages import BaseMessage"),
        ("memory", "import rich"),
        ("chat_history", "import requests"),
        ("chat_history", "from . import _sessions"),
        ("chat_history", "from ._sessions import load"),
        ("demo.attack", "from langmem_isolated.demo import sections"),
    ],
)
def test_an_import_out_of_place_is_found(name: str, source: str):
    assert violations(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("keyring", "from langmem_isolated import _schema\nimport json, sqlalchemy"),
        ("demo.sections", "from langmem_isolated.demo import attack"),
        ("memory", "from langmem_isolated.chat_history import Page"),
        ("_dialects", 'psycopg = import_module("psycopg")'),
    ],
)
def test_an_import_in_place_is_let_through(name: str, source: str):
    assert violations(name, source) == []
