"""`rollback`: takes out what an import put in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated.cli.importing.options import VerboseOption
from langmem_isolated.cli.importing.report import print_modules
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
)
from langmem_isolated.cli.terminal import counting, print_counts, print_json
from langmem_isolated.errors import ReceiptRefused

if TYPE_CHECKING:
    from langmem_isolated.importers import ImportReceipt
    from langmem_isolated.lifecycle import RolledBack

_HAS_MORE = 3


def rollback(
    receipt: Annotated[Path, typer.Argument(help="The receipt that the import wrote.")],
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    verbose: VerboseOption = False,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Take out what an import put in, as far as nobody has changed it since. Needs the root key.

    The status is 3 while something stays because its users are on legal hold, or alone have the
    keys; the same command goes on then.
    """
    from langmem_isolated.cli.databases import existing_memory
    from langmem_isolated.importers import ImportReceipt

    told = ImportReceipt.read(receipt)
    memory = existing_memory(database, key_store)
    if not as_json:
        print_modules(told.modules)
    if not yes:
        typer.confirm("This is taken out of the database. Go on?", abort=True, err=True)
    with memory, counting("taken out") as progress:
        done = memory.roll_back(bytes.fromhex(told.token), progress=progress)
    _refuse_another_database(told, done)
    # Where nothing was found it may be another database than that of an import that was killed.
    if done.is_done and done.scopes:
        replace(told, status="rolled back").write(receipt)
    _print(done, as_json=as_json, verbose=verbose)
    if not done.is_done:
        raise typer.Exit(_HAS_MORE)


def _refuse_another_database(told: ImportReceipt, done: RolledBack) -> None:
    is_empty = not (done.scopes or done.held or done.locked)
    if is_empty and told.records and told.status != "rolled back":
        raise ReceiptRefused("nothing of that import is in this database")


def _print(done: RolledBack, *, as_json: bool, verbose: bool) -> None:
    if as_json:
        numbers = {"scopes": done.scopes, "held": done.held, "locked": done.locked}
        print_json({"counts": done.counts, "left": len(done.left), **numbers})
        return
    print_counts(done.counts, nothing="Nothing of it is there.", what="taken out")
    if done.left:
        typer.echo(f"{len(done.left):,} were changed since; they are their owners' and stay.")
    if verbose:
        typer.echo(f"Taken out of {done.scopes:,} scopes.")
    for count, why in ((done.held, "on legal hold"), (done.locked, "alone with their keys")):
        if count:
            typer.echo(f"In {count:,} scopes nothing was changed: their users are {why}.")
