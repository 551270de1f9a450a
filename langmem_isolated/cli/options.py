"""Command-line options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from langmem_isolated._runtime.environment import (
    DATABASE_VARIABLE,
    ERASURE_LOG_VARIABLE,
    KEY_STORE_VARIABLE,
    REPLICA_VARIABLE,
)

DEFAULT_DATABASE = "sqlite:///langmem-isolated.db"

DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database",
        envvar=DATABASE_VARIABLE,
        help="URL of the database: sqlite:///file or postgresql://user@host/name.",
    ),
]
KeyStoreOption = Annotated[
    str | None,
    typer.Option(
        "--key-store",
        envvar=KEY_STORE_VARIABLE,
        help="URL of the database that holds the wrapped keys, if it is another one.",
    ),
]
ReplicaOption = Annotated[
    str | None,
    typer.Option(
        "--read-replica",
        envvar=REPLICA_VARIABLE,
        help="URL of a server that follows the database, to see whether it is behind.",
    ),
]
ErasureLogOption = Annotated[
    Path | None,
    typer.Option(
        "--erasure-log",
        envvar=ERASURE_LOG_VARIABLE,
        help="The file outside the database that keeps who was erased.",
    ),
]
UserOption = Annotated[str, typer.Option("--user", help="The user's id.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, help="At most this many.")]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON, in ASCII, with times in UTC as ISO 8601.")
]
ModuleOption = Annotated[str, typer.Option("--module", help="The module's id.")]
ProjectOption = Annotated[str, typer.Option("--project", help="The project's id.")]
SearchOption = Annotated[
    str | None, typer.Option("--search", help="Only those whose title has these words.")
]
ArchivedOption = Annotated[
    bool, typer.Option("--archived", help="Those that are archived, in place of the others.")
]
BeforeOption = Annotated[
    str | None, typer.Option("--before", help="The next page: the id of the last one of this.")
]
