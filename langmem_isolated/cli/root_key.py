"""`rotate-root-key`: wraps every stored key by another root key."""

from pathlib import Path
from typing import Annotated

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
)
from langmem_isolated.cli.terminal import counting, print_json


def rotate_root_key(
    *,
    new_key_file: Annotated[
        Path,
        typer.Option(
            "--new-key-file", help="The file of the new root key, as keygen --file makes it."
        ),
    ],
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Wrap all keys by another root key. Needs the root key that is in use.

    Interrupted, run it again with the same two keys. First give the new key to every process as
    one of its accepted_root_keys: so none stops.
    """
    from langmem_isolated.cli.databases import existing_memory
    from langmem_isolated.root_keys import LocalRootKey

    new = LocalRootKey.from_file(new_key_file)
    # Accepted: where a run has come to its end, another one can begin, and finds nothing to do.
    with existing_memory(database, key_store, new) as memory, counting("owners") as progress:
        rotated = memory.rotate_root_key(new, progress=progress)
    if as_json:
        print_json({"root_key_id": new.key_id, "key_sets": rotated.key_sets, "keys": rotated.keys})
    elif rotated.keys:
        typer.echo(f"{rotated.keys:,} keys of {rotated.key_sets:,} owners were wrapped anew.")
    else:
        typer.echo("All keys were wrapped by this root key before.")
