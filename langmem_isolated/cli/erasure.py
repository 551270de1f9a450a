"""`erase`: erases a user, and prints the receipt."""

from typing import Annotated

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    ErasureLogOption,
    JsonOption,
    KeyStoreOption,
    ProjectOption,
)
from langmem_isolated.cli.terminal import counting, print_json


def erase(
    *,
    user: Annotated[str | None, typer.Option("--user", help="The user's id.")] = None,
    project: ProjectOption = "default",
    finish: Annotated[
        bool, typer.Option("--finish", help="Complete erasures whose receipt said pending.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for the id again.")] = False,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
    erasure_log: ErasureLogOption = None,
    tombstone_days: Annotated[
        int | None,
        typer.Option(
            "--tombstone-days", min=1, help="Keep for so long, by default for ever, who was erased."
        ),
    ] = None,
) -> None:
    """Erase a user: keys, rows of all modules, account; prints a receipt. Needs the root key.

    On SQLite the status is 1 while bytes of it may be left in the database's files.
    """
    from langmem_isolated.cli.databases import existing_memory

    if (user is None) != finish:
        raise typer.BadParameter("Give --user, or --finish alone.")
    if user is not None and not yes:
        _confirm(user)
    opened = existing_memory(
        database, key_store, erasure_log=erasure_log, tombstone_days=tombstone_days
    )
    with opened as memory, counting("removed") as progress:
        if user is None:
            heap = memory.finish_erasure()
            told: dict[str, object] = {"heap": heap}
            text = f"Bytes in the database's files: {heap}"
        else:
            receipt = memory.erase_user(user, project_id=project, progress=progress)
            heap, told, text = receipt.heap, receipt.to_dict(), str(receipt)
    if as_json:
        print_json(told)
    else:
        typer.echo(text)
    if heap == "pending" and not database.startswith("postgresql"):
        raise typer.Exit(1)


def _confirm(user: str) -> None:
    typer.echo("This destroys the user's keys and all memory. It cannot be brought back.", err=True)
    if typer.prompt("The user's id, again", err=True) != user:
        raise typer.BadParameter("That is another id. Nothing was erased.")
