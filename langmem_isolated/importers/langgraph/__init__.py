"""Sources of LangGraph: checkpointers and stores."""

from pathlib import Path

from langmem_isolated.importers.registry import SourceOption, SourceSpec

_SAVER_OPTIONS = (
    SourceOption(
        "history",
        "full, or latest: what each thread needs to go on, pending interrupts included.",
        default="full",
    ),
    SourceOption(
        "allow",
        "A model, dataclass, enum or named tuple of yours that may be rebuilt: module.Class.",
        is_repeated=True,
    ),
    SourceOption(
        "unknown",
        "reject, or data: keep the plain fields of objects of other classes.",
        default="reject",
    ),
    SourceOption("key_env", "Variable with the key of EncryptedSerializer: LANGGRAPH_AES_KEY."),
    SourceOption("key_file", "File with the key of EncryptedSerializer.", type=Path),
)

_SCHEMA = SourceOption("schema", "Schema of the tables; by default where the connection looks.")

SPECS = (
    SourceSpec(
        "sqlite-saver",
        "Threads of SqliteSaver and AsyncSqliteSaver (langgraph-checkpoint-sqlite 2 and 3).",
        "the SQLite file",
        "langmem_isolated.importers.langgraph.sqlite_saver:SqliteSaverSource",
        _SAVER_OPTIONS,
        ["sqlite-saver checkpoints.sqlite --module tutor --user-path metadata.user_id"],
    ),
    SourceSpec(
        "postgres-saver",
        "Threads of PostgresSaver and AsyncPostgresSaver (langgraph-checkpoint-postgres 2 and 3).",
        "URL of the database",
        "langmem_isolated.importers.langgraph.postgres_saver:PostgresSaverSource",
        (*_SAVER_OPTIONS, _SCHEMA),
        ["postgres-saver postgresql://localhost/app --module tutor --user-path metadata.user_id"],
    ),
    SourceSpec(
        "sqlite-store",
        "Items of SqliteStore and AsyncSqliteStore (langgraph-checkpoint-sqlite 2 and 3).",
        "the SQLite file",
        "langmem_isolated.importers.langgraph.sqlite_store:SqliteStoreSource",
        examples=[
            r"sqlite-store store.sqlite --module tutor --id-pattern 'users\.(?P<user>[^.]+).*'"
        ],
    ),
    SourceSpec(
        "postgres-store",
        "Items of PostgresStore and AsyncPostgresStore (langgraph-checkpoint-postgres 2 and 3).",
        "URL of the database",
        "langmem_isolated.importers.langgraph.postgres_store:PostgresStoreSource",
        (_SCHEMA,),
        ["postgres-store postgresql://localhost/app --module tutor --user-path namespace.1"],
    ),
)
