"""`rotate-root-key`: wraps every stored key by another root key."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
)
from langmem_isolated.cli.terminal import counting, print_json

if TYPE_CHECKING:
    from langmem_isolated.root_keys import RootKey


def rotate_root_key(
    *,
    new_key_file: Annotated[
        Path | None,
        typer.Option(
            "--new-key-file", help="The file of the new root key, as keygen --file makes it."
        ),
    ] = None,
    new_root_key: Annotated[
        str | None,
        typer.Option(
            "--new-root-key",
            help="The name of the new one in a key service: aws-kms:alias/…, or pkcs11:token=…",
        ),
    ] = None,
    most_per_second: Annotated[
        float | None,
        typer.Option("--most-per-second", help="At most so many owners a second.", min=0.001),
    ] = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Wrap all keys under another root key. Needs the root key that is in use.

    The new one is in a file, or has a name in a key service or token. Interrupted, run it again
    with the same two keys. First give the new key to every process as one of its
    accepted_root_keys: so none stops.
    """
    from langmem_isolated.cli.databases import existing_memory

    new = new_root_key_of(new_key_file, new_root_key)
    # Accepted: where a run has come to its end, another one can begin, and finds nothing to do.
    with existing_memory(database, key_store, new) as memory, counting("owners") as progress:
        rotated = memory.rotate_root_key(new, progress=progress, most_per_second=most_per_second)
    if as_json:
        print_json({"root_key_id": new.key_id, "key_sets": rotated.key_sets, "keys": rotated.keys})
    elif rotated.keys:
        typer.echo(f"{rotated.keys:,} keys of {rotated.key_sets:,} owners were wrapped anew.")
    else:
        typer.echo("All keys were wrapped by this root key before.")


def new_root_key_of(file: Path | None, name: str | None) -> "RootKey":
    """The root key that one of two options names."""
    from langmem_isolated.root_keys import LocalRootKey, named_root_key

    if file is not None and name is None:
        return LocalRootKey.from_file(file)
    if name is not None and file is None:
        return named_root_key(name)
    raise typer.BadParameter("Give one of --new-key-file and --new-root-key.")
