"""`keygen`: makes root keys."""

import os
from pathlib import Path
from typing import Annotated

import typer

from langmem_isolated._runtime.environment import ROOT_KEY_VARIABLE
from langmem_isolated.errors import KeyringError


def keygen(
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Write the key to this new file, for you alone (mode 600)."),
    ] = None,
) -> None:
    """Make a root key: print it, or write it to a file.

    Without --file the key alone is printed, so that
    export LANGMEM_ISOLATED_ROOT_KEY=$(langmem-isolated keygen) works, for that shell. Keep a copy
    outside the database and its backups: without the root key nothing can be read.
    """
    from langmem_isolated.root_keys import LocalRootKey

    key = LocalRootKey.generate_text()
    if file is None:
        typer.echo(key)
        return
    write_new(file, key)
    typer.echo(f"The root key is in the file. Set {ROOT_KEY_VARIABLE}_FILE to its path, and keep a")
    typer.echo("copy apart from the database: without the root key nothing can be read.")


def write_new(path: Path, key: str) -> None:
    """Write a key to a new file that its owner alone can read; nothing is ever overwritten.

    Raises:
        KeyringError: It cannot be made or written; what was begun was removed.
    """
    try:
        # O_EXCL: never over a file that is there, and never through a link that waits.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise KeyringError(
            "The key file is there already, and is never overwritten. Nothing was written. If it "
            "is yours, go on with the key in it; otherwise name a new file."
        ) from None
    except OSError as error:
        raise KeyringError(
            f"The key file cannot be made: {error.strerror}. Nothing was written. Name a file in a "
            "folder that is there and that you may write to."
        ) from None
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"{key}\n")
            stream.flush()
            os.fsync(descriptor)
    except OSError as error:
        path.unlink()
        raise KeyringError(
            f"The key file cannot be written: {error.strerror}. It was removed."
        ) from None
