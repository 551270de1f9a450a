"""`erase`: erases a user, guest, module or project, goes on with erasures, and prints receipts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    ErasureLogOption,
    JsonOption,
    KeyStoreOption,
)
from langmem_isolated.cli.terminal import (
    cell,
    counting,
    print_json,
    print_table,
    pulse,
    second,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from langmem_isolated.lifecycle import ErasureReceipt
    from langmem_isolated.memory import IsolatedMemory

_ONE = "Give one of --user, --guest, --module, --whole-project, --resume, --receipts, --finish."


def erase(
    *,
    user: Annotated[str | None, typer.Option("--user", help="A user's id.")] = None,
    guest: Annotated[
        str | None, typer.Option("--guest", help="The id of an anonymous session.")
    ] = None,
    module: Annotated[
        str | None, typer.Option("--module", help="A module's id: everybody's memory in it.")
    ] = None,
    project: Annotated[
        str | None, typer.Option("--project", help='The project\'s id; "default" if left out.')
    ] = None,
    whole_project: Annotated[
        bool, typer.Option("--whole-project", help="All users, guests and modules of --project.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with erasures that are not finished.")
    ] = False,
    receipts: Annotated[
        bool,
        typer.Option("--receipts", help="List the receipts of those that are; of one with --user."),
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Complete erasures whose receipt said pending.")
    ] = False,
    without_store: Annotated[
        list[str] | None,
        typer.Option(help="A third-party store that is left alone; may be given again."),
    ] = None,
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
    """Erase a user, guest, module or project: keys and all rows; prints a receipt.

    Needs the root key. Participants of the application and third-party stores are known in its
    process alone: this asks none of them. Keep the receipt; a restored backup has lost it.

    The status is 1 while it is not finished: a participant that was asked has not confirmed, or on
    SQLite bytes of it may be left in the database's files.
    """
    from langmem_isolated.cli.databases import existing_memory

    if whole_project and project is None:
        raise typer.BadParameter("Give --project with --whole-project.")
    whole = project if whole_project else None
    named = {"user": None if receipts else user, "guest": guest, "module": module, "project": whole}
    given = [(what, name) for what, name in named.items() if name is not None]
    if len(given) + resume + receipts + finish != 1:
        raise typer.BadParameter(_ONE)
    for what, name in given:
        if not yes:
            _confirm(what, name)
    opened = existing_memory(
        database, key_store, erasure_log=erasure_log, tombstone_days=tombstone_days
    )
    with opened as memory:
        if finish:
            is_done = _finished(memory, as_json) or database.startswith("postgresql")
        elif receipts:
            is_done = _listed(memory, user, project or "default", as_json)
        elif resume:
            is_done = _resumed(memory, without_store or (), as_json)
        else:
            place = {"project_id": project or "default", "without_stores": without_store or ()}
            is_done = _erased(memory, *given[0], place, as_json)
    if not is_done:
        raise typer.Exit(1)


def _confirm(what: str, name: str) -> None:
    keys = "the module's own keys" if what == "module" else "all keys"
    of_it = f"This erases the {what}: it destroys {keys} and all memory of it."
    typer.echo(f"{of_it} It cannot be brought back.", err=True)
    if typer.prompt(f"The {what}'s id, again", err=True) != name:
        raise typer.BadParameter("That is another id. Nothing was erased.")


def _erased(
    memory: IsolatedMemory, what: str, name: str, options: dict[str, Any], as_json: bool
) -> bool:
    calls: dict[str, Callable[..., ErasureReceipt]] = {
        "user": memory.erase_user,
        "guest": memory.erase_guest,
        "module": memory.erase_module,
        "project": memory.erase_project,
    }
    if what == "project":
        del options["project_id"]
    with counting("removed") as progress:
        receipt = calls[what](name, progress=progress, **options)
    if as_json:
        print_json(receipt.to_dict())
    else:
        typer.echo(str(receipt))
    return _is_done(receipt)


def _resumed(memory: IsolatedMemory, without: Collection[str], as_json: bool) -> bool:
    with pulse("going on"):
        receipts = memory.erasure.resume(without_stores=without)
    if as_json:
        print_json([receipt.to_dict() for receipt in receipts])
    else:
        typer.echo("\n\n".join(map(str, receipts)) or "No erasure is unfinished.")
    return all(map(_is_done, receipts))


def _listed(memory: IsolatedMemory, user: str | None, project: str, as_json: bool) -> bool:
    receipts = memory.erasure.receipts(user_id=user, project_id=project)
    if as_json:
        print_json([receipt.to_dict() for receipt in receipts])
        return True
    if not receipts:
        typer.echo("There are none in this database. One restored from a backup lost those since.")
        return True
    shown = table("erased", "what", "principal", "scopes", "records", "keys", "files", "horizon")
    for one in receipts:
        numbers = (one.scopes, sum(one.counts.values()), one.keys_destroyed)
        texts = second(one.erased_at), one.what, one.principal, *(f"{n:,}" for n in numbers)
        shown.add_row(*map(cell, (*texts, one.heap, one.horizon)))
    print_table(shown)
    return True


def _finished(memory: IsolatedMemory, as_json: bool) -> bool:
    heap = memory.finish_erasure()
    if as_json:
        print_json({"heap": heap})
    else:
        typer.echo(f"Bytes in the database's files: {heap}")
    return heap == "scrubbed"


def _is_done(receipt: ErasureReceipt) -> bool:
    return receipt.is_finished and (receipt.heap == "scrubbed" or receipt.is_postgres)
