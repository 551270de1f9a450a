"""`move` and `keys move`: an installation, or its keys, into another database."""

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
from langmem_isolated.cli.terminal import counting, print_json, pulse


def move(
    *,
    to: Annotated[
        str,
        typer.Option("--to", help="URL of the new database: one that is unused, or half filled."),
    ],
    to_key_store: Annotated[
        str | None,
        typer.Option(
            "--to-key-store", help="URL of the key store there; by default the keys go along."
        ),
    ] = None,
    copy_only: Annotated[
        bool,
        typer.Option(
            "--copy-only", help="Only copy, while the application works; run it again without."
        ),
    ] = False,
    new_key_file: Annotated[
        Path | None,
        typer.Option("--new-key-file", help="The file of another root key for the new database."),
    ] = None,
    new_root_key: Annotated[
        str | None,
        typer.Option("--new-root-key", help="The same by its name in a key service or token."),
    ] = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Move all memory into another database, sealed as it is. Needs the root key.

    The old one is only read, and stays. Interrupted, run it again. Nobody may write meanwhile, but
    for --copy-only. Give the application the new URL afterwards.
    """
    from langmem_isolated.cli.databases import existing_memory
    from langmem_isolated.cli.root_key import new_root_key_of

    is_rewrapped = new_key_file is not None or new_root_key is not None
    new = new_root_key_of(new_key_file, new_root_key) if is_rewrapped else None
    with existing_memory(database, key_store) as memory, counting("rows") as progress:
        done = memory.move_to(to, key_store=to_key_store, finish=not copy_only, progress=progress)
    if new is not None and done.is_finished:
        with existing_memory(to, to_key_store) as moved:
            moved.rotate_root_key(new)
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(f"{sum(done.rows.values()):,} rows were put. Both databases are equal.")
    if done.is_finished:
        typer.echo("Give the application the new URL. Who is erased from now on is in the old one.")
    else:
        typer.echo("Nobody opens the new one yet: stop the application, and run it again.")


def move_keys(
    *,
    to: Annotated[str, typer.Option("--to", help="URL of the key store.")],
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Move the wrapped keys into a key store of their own, and out of where they are.

    Needs the root key. Stop the application first, and give it the key store afterwards.
    """
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory, pulse("Moving keys"):
        done = memory.move_keys(to)
    if as_json:
        print_json(asdict(done))
        return
    typer.echo(f"The keys of {done.key_sets:,} owners are in the key store, and there alone.")
    if not done.is_scrubbed:
        typer.echo(
            "Dead rows, logs and older backups have them yet: VACUUM FULL, and rotate-root-key."
        )
