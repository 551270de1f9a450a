"""`backup`: copies all memory into a new file."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
)
from langmem_isolated.cli.terminal import print_json, pulse


def backup(
    file: Annotated[Path, typer.Argument(help="The new file; one that is there is refused.")],
    *,
    key_store_output: Annotated[
        Path | None,
        typer.Option(
            "--key-store-output", help="A new file for the key store too; keep it elsewhere."
        ),
    ] = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Copy all memory on SQLite, without what was deleted, while others write. Needs the root key.

    The copy is checked and opened with the root key before it has its name. The root key is not in
    it: keep that apart. On PostgreSQL it says which pg_dump to run.
    """
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory, pulse("Copying"):
        done = memory.backup(file, key_store=key_store_output)
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(f"{done.size:,} bytes in {done.seconds:.1f} s. The root key opens them.")
    if done.key_store_size is not None:
        typer.echo(f"{done.key_store_size:,} bytes of the key store. Keep the two files apart.")
    elif done.has_wrapped_keys:
        typer.echo("The wrapped keys are in it, the root key is not: keep that elsewhere.")
    else:
        typer.echo("No key is in it: the key store needs a backup too (--key-store-output).")
