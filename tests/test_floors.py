"""Folders are floors: a module imports from its own floor or a lower one, and never in a circle."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import langmem_isolated

PACKAGE = Path(langmem_isolated.__file__).parent

# From the ground up; a name stands for a module or for a folder with all that is in it.
FLOORS = (
    {"errors", "scope", "_runtime"},
    {"_search"},
    {"_codecs"},
    {"_crypto", "root_keys"},
    {"_database"},
    {"_storage"},
    {
        *("_adapters", "lifecycle", "checkpointer", "store", "wrapping"),
        *("chat_history", "sessions", "recall", "callbacks", "middleware"),
        *("vector_store", "retriever", "caches", "indexing"),
    },
    {"scoped_memory", "publisher", "memory"},
    {"__init__"},
    {"importers", "admin", "telemetry", "testing", "langgraph_server"},
    {"cli", "__main__"},
)
FLOOR_OF = {name: number for number, names in enumerate(FLOORS) for name in names}
STORAGE = FLOOR_OF["_storage"]

# One interface of a third party each; what two of them need is in _adapters.
ADAPTERS = {
    *("chat_history", "checkpointer", "store", "vector_store", "wrapping"),
    *("retriever", "caches", "indexing", "recall"),
}
# Folders whose names are had from the folder, not from a module in it.
PUBLIC_FOLDERS = {
    *("checkpointer", "store", "wrapping", "root_keys", "lifecycle", "scoped_memory"),
    *("importers", "admin", "telemetry", "testing", "caches"),
}
# Other things than these they may not see. Importers see besides what reads foreign forms, where
# the drivers and ciphers for it are at home, third-party vector stores, and how a folder of files
# gets its name once it is whole.
FACE = {
    "memory",
    "scoped_memory",
    "scope",
    "errors",
    "__init__",
    "lifecycle",
    "_runtime",
}
READERS = {
    *("_database.foreign", "_codecs.stock_serializer", "_crypto.fernet", "_crypto.foreign_aes"),
    # Which classes of messages there are.
    "_codecs.message_fields",
    # Which adopts in place what other collections hold.
    "wrapping",
}
LIMITED = {"admin": FACE, "importers": FACE | READERS | {"_database.drafts"}}

ABOVE_STORAGE = {name for name, floor in FLOOR_OF.items() if floor > STORAGE}
UP_TO_STORAGE = {"_database", "_storage"}
HOMES = {
    "cryptography": {"_crypto"},
    "boto3": {"root_keys", "importers"},
    "botocore": {"root_keys", "importers"},
    "pymongo": {"importers"},
    "redis": {"importers"},
    "pkcs11": {"root_keys"},
    "rfc3161_client": {"_crypto"},
    "sqlalchemy": UP_TO_STORAGE,
    # Besides the driver's home: the demo's attacker and the doctor look at SQLite itself.
    "sqlite3": {"_database", "cli"},
    # Besides the driver's home: the kit for applications' tests dumps whole databases.
    "psycopg": {"_database", "testing"},
    # Ranking takes one function of it: how documents are chosen that are unlike one another.
    "langchain_core": {"_search", "_codecs", *ABOVE_STORAGE},
    "langgraph": {"_codecs", *ABOVE_STORAGE},
    "langchain": {"middleware"},
    "ormsgpack": {"_codecs", "checkpointer"},
    "numpy": {"_search"},
    "Stemmer": {"_search"},
    "opentelemetry": {"telemetry"},
    "rfc8785": {"lifecycle"},
    "pydantic": {"_codecs", "retriever", "recall", "lifecycle", "importers"},
    # Where its store is: the module imports it when it meets one.
    "qdrant_client": {"wrapping", "importers"},
    "chromadb": {"importers"},
    "langchain_chroma": {"importers"},
    "langchain_postgres": {"importers"},
    "langchain_qdrant": {"importers"},
    # A suite that authors of adapters run.
    "pytest": {"wrapping", "testing"},
    "starlette": {"admin"},
    "jinja2": {"admin"},
    "markupsafe": {"admin"},
    "uvicorn": {"cli"},
    "rich": {"cli"},
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


MODULES = modules()


@cache
def imported(source: str) -> tuple[str, ...]:
    """Every name a module imports, dotted, wherever in it the import stands."""
    return tuple(_imported(source))


def _imported(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{a.name}" for a in node.names)
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant))


@cache
def ours(name: str) -> str | None:
    """Which module of ours an imported name stands for."""
    first, _, rest = name.partition(".")
    if first != "langmem_isolated":
        return None
    parts = rest.split(".")
    names = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    # A folder that has yet to be built has its place all the same.
    return next((name for name in names if name in MODULES or name in FLOOR_OF), "__init__")


def room(name: str) -> str:
    """The module at the top, or the folder there, that a module is in."""
    return name.partition(".")[0]


def violations(name: str, source: str) -> list[str]:
    """What a module imports and must not."""
    found, here = [], room(name)
    for target in imported(source):
        first, known = target.partition(".")[0], ours(target)
        if not first:
            found.append(f"{target}: imports are written out, from the package down")
        elif known:
            found += _between_ours(here, known, target)
        elif here not in HOMES.get(first, FLOOR_OF if first in sys.stdlib_module_names else ()):
            found.append(f"{first} has another home")
    return found


def _between_ours(here: str, known: str, target: str) -> Iterator[str]:
    there = room(known)
    if here == there:
        return
    if FLOOR_OF[there] > FLOOR_OF[here]:
        yield f"{known} stands on a higher floor"
    if here in ADAPTERS and there in ADAPTERS:
        yield f"{known} is an adapter, too"
    if there in PUBLIC_FOLDERS and known not in (there, "wrapping.testing"):
        yield f"{target} goes past what {there} exports"
    inside = target.removeprefix("langmem_isolated.")
    if here in LIMITED and not {inside.rpartition(".")[0], known, there} & LIMITED[here]:
        yield f"{known} is not on the public face"


def circle(sources: dict[str, str]) -> list[str]:
    """The modules of a circle of imports, if there is one."""
    graph = {
        name: {found for target in imported(source) if (found := ours(target)) and found != name}
        for name, source in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_name_at_the_top_is_on_a_floor():
    assert {room(name) for name in MODULES} <= set(FLOOR_OF)


def test_no_single_file_at_the_top_begins_with_an_underscore():
    files = {path.stem for path in PACKAGE.glob("*.py")}

    assert [name for name in files if name.startswith("_") and not name.startswith("__")] == []


def test_the_top_can_be_taken_in_at_a_glance():
    assert len([path for path in PACKAGE.iterdir() if path.name != "__pycache__"]) <= 35


@pytest.mark.parametrize("name", MODULES)
def test_a_module_stays_within_400_lines(name: str):
    assert len(MODULES[name].splitlines()) <= 400


@pytest.mark.parametrize("name", MODULES)
def test_a_module_imports_only_from_its_floor_and_lower_and_what_it_is_the_home_of(name: str):
    assert violations(name, MODULES[name]) == []


def test_there_is_no_circle_of_modules():
    assert circle(MODULES) == []


def test_a_circle_is_found():
    seal = MODULES["_crypto.sealing"] + "\nfrom langmem_isolated._crypto.scope_keys import digest"

    found = circle({**MODULES, "_crypto.sealing": seal})

    assert {"_crypto.sealing", "_crypto.scope_keys"} <= set(found)


@pytest.mark.parametrize("name", sorted(PUBLIC_FOLDERS & {room(name) for name in MODULES}))
def test_a_public_folder_says_what_it_exports(name: str):
    tree = ast.parse(MODULES[name])
    targets = [ast.unparse(t) for n in tree.body if isinstance(n, ast.Assign) for t in n.targets]

    assert "__all__" in targets


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("_crypto.sealing", "from langmem_isolated._database.database import Database"),
        ("_crypto.sealing", "def later():\n    import langmem_isolated.memory"),
        ("_search.bm25", "from langmem_isolated._codecs import values"),
        ("errors", "from langmem_isolated import IsolatedMemory"),
        ("_adapters.recorder", "from langmem_isolated.scoped_memory import ScopedMemory"),
        ("memory", "from langmem_isolated.admin import pages"),
        ("telemetry.spans", "from langmem_isolated.cli import app"),
        ("chat_history", "from langmem_isolated import store"),
        ("store.batch", "from langmem_isolated.chat_history import Page"),
        (
            "checkpointer.saver",
            "if TYPE_CHECKING:\n    from langmem_isolated.store import Namespace",
        ),
        ("_storage.keyring", "from cryptography.hazmat.primitives.ciphers.aead import AESGCM"),
        ("chat_history", "import sqlalchemy as sa"),
        ("chat_history", "import sqlite3"),
        ("_storage.keyring", 'psycopg = import_module("psycopg")'),
        ("_storage.containers", "from langchain_core.messages import BaseMessage"),
        ("vector_store", "import numpy"),
        ("memory", "import rich"),
        ("chat_history", "import requests"),
        ("chat_history", "from . import _storage"),
        ("chat_history", "from ._storage import sessions"),
        ("memory", "from langmem_isolated.checkpointer.saver import IsolatedCheckpointSaver"),
        ("scoped_memory", "from langmem_isolated.wrapping.registry import adapter_of"),
        ("admin.pages", "from langmem_isolated._storage.keyring import Keyring"),
        ("importers.engine", "from langmem_isolated._storage.sessions import writing"),
        ("importers.engine", "from langmem_isolated.chat_history import Page"),
    ],
)
def test_an_import_out_of_place_is_found(name: str, source: str):
    assert violations(name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        (
            "_storage.keyring",
            "from langmem_isolated._database import schema\nimport json, sqlalchemy",
        ),
        ("cli.demo.sections", "from langmem_isolated.cli.demo import attack"),
        ("memory", "from langmem_isolated.chat_history import Page"),
        ("memory", "from langmem_isolated.checkpointer import IsolatedCheckpointSaver"),
        ("_database.dialects", 'psycopg = import_module("psycopg")'),
        ("admin.pages", "from langmem_isolated.lifecycle import Receipt"),
        ("importers.engine", "from langmem_isolated import IsolatedMemory"),
        ("importers.engine", "from langmem_isolated._database.foreign import open_sqlite"),
    ],
)
def test_an_import_in_place_is_let_through(name: str, source: str):
    assert violations(name, source) == []
