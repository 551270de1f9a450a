"""Sources of applications: their own tables, encrypted blobs and files, mem0, LangMem."""

from __future__ import annotations

from pathlib import Path

from langmem_isolated.importers.registry import SourceOption, SourceSpec

_HERE = "langmem_isolated.importers.application"
_DATABASE = "the path of an SQLite file, or postgresql://user@host/name"

SPECS = (
    SourceSpec(
        "tables",
        "An application's own tables, whose owners are found by joins: sessions, memory, profiles.",
        _DATABASE,
        f"{_HERE}.tables:TablesSource",
        (SourceOption("tables", "Table file: which tables hold what, in TOML.", type=Path),),
        ("tables app.db --tables tables.toml",),
    ),
    SourceSpec(
        "fernet",
        "A users table with each user's Fernet key and an encrypted conversation.",
        _DATABASE,
        f"{_HERE}.fernet:FernetSource",
        (
            SourceOption("table", "The users table.", "users"),
            SourceOption("id_column", "Column of the user's id.", "id"),
            SourceOption("key_column", "Column of the user's key.", "encryption_key"),
            SourceOption("memory_column", "Column of the token.", "conversation_memory"),
            SourceOption("keys", "CSV file of id,key in place of the column of keys.", type=Path),
            SourceOption(
                "channel", "Name in the document whose messages are a channel.", is_repeated=True
            ),
        ),
        ("fernet app.db --module chat",),
    ),
    SourceSpec(
        "profiles",
        "Profile files by persona: {persona}/user_{id}.json, and the older user_{id}.json.",
        "the folder of profiles",
        f"{_HERE}.profiles:ProfileFilesSource",
        (SourceOption("persona", "Only this persona.", is_repeated=True),),
        ("profiles data/profiles",),
    ),
    SourceSpec(
        "mem0",
        "mem0 2.x with Qdrant: memories, their history, each scope's last messages.",
        "the folder of a local Qdrant, or the URL of a server",
        f"{_HERE}.mem0:Mem0Source",
        (
            SourceOption("collection", "mem0's collection_name.", "mem0"),
            SourceOption("history", "mem0's history.db.", type=Path),
            SourceOption("api_key_env", "Environment variable with the key of a server."),
        ),
        ("mem0 /var/lib/mem0/qdrant --history ~/.mem0/history.db --module-column module",),
    ),
    SourceSpec(
        "langmem",
        "Memories of LangMem in SqliteStore or PostgresStore, their namespaces naming the user.",
        _DATABASE,
        f"{_HERE}.langmem:LangMemSource",
        (
            SourceOption(
                "namespace",
                "Template of namespaces: memories.{langgraph_user_id}, if none is given.",
                is_repeated=True,
            ),
        ),
        ("langmem store.db --namespace 'memories.{user}' --module assistant",),
    ),
)
