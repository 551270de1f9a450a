"""`keys`: rotates sealing keys, and tells what is pending."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ProjectOption,
)
from langmem_isolated.cli.terminal import (
    cell,
    counting,
    print_json,
    print_table,
    printable,
    pulse,
    second,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from langmem_isolated.lifecycle import KeysRotated, KeyStatus, UserKeyStatus

Status = TypeVar("Status", "KeyStatus", "UserKeyStatus")

commands = typer.Typer(
    help="Rotates the keys that seal users' memory, and tells what is pending.",
    no_args_is_help=True,
    epilog=shown("keys status", "keys rotate --user ann"),
)
# A mistyped id must not look like a rotation.
_NOBODY = "This user has no keys here: nothing is stored, or it is in another --project."
_UserOption = Annotated[str | None, typer.Option("--user", help="The user's id.")]


@commands.command(
    "rotate",
    epilog=shown("keys rotate --user ann", "keys rotate --all --max-seconds 600 --json"),
)
def rotate(
    *,
    user: _UserOption = None,
    everybody: Annotated[
        bool, typer.Option("--all", help="Of everybody in the installation.")
    ] = False,
    max_seconds: Annotated[
        float | None, typer.Option("--max-seconds", min=0, help="Begin no batch after so many.")
    ] = None,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Give users new sealing keys, seal everything anew, and destroy the former keys.

    Needs the root key. Everybody goes on meanwhile. Interrupted, it loses nothing: run it again,
    and it goes on. The status is 3 where --max-seconds ended it, and 1 where a former key stays
    because something that it sealed was tampered with.
    """
    from langmem_isolated.cli.databases import existing_memory

    if (user is None) is not everybody:
        raise typer.BadParameter("Give --user or --all.")
    with existing_memory(database, key_store) as memory, counting("records") as progress:
        rotated = memory.rotate_keys(
            user, project_id=project, all=everybody, max_seconds=max_seconds, progress=progress
        )
    if as_json:
        print_json(asdict(rotated))
    else:
        _print_rotated(rotated, is_one=user is not None)
    if not rotated.is_done:
        raise typer.Exit(3)
    if rotated.damaged:
        raise typer.Exit(1)


def _print_rotated(rotated: KeysRotated, *, is_one: bool) -> None:
    told = asdict(rotated)
    if is_one and told.pop("is_done") and not any(told.values()):
        typer.echo(_NOBODY)
        return
    typer.echo(
        f"{rotated.keys_made:,} keys were made, {rotated.records:,} records sealed anew, "
        f"{rotated.keys_destroyed:,} former keys destroyed."
    )
    if not rotated.is_done:
        typer.echo("There is more to do: run it again.")
    if rotated.locked:
        typer.echo(f"{rotated.locked:,} users have locked their memory, and were left out.")
    if rotated.stores_left:
        names = ", ".join(map(printable, rotated.stores_left))
        typer.echo(
            f"Former keys stay for documents that are sealed in third-party stores: {names}. The "
            "application seals those anew: memory.rotate_keys(…, with_stores=True)."
        )
    if rotated.damaged:
        typer.echo(
            f"{rotated.damaged:,} records were tampered with. They stay, and so do the keys they "
            "name."
        )


@commands.command(
    "status", epilog=shown("keys status", "keys status --json", "keys status --user ann")
)
def status(
    *,
    user: _UserOption = None,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Tell which keys are pending; of a user also what each version has sealed, by module.

    Needs the root key.
    """
    from langmem_isolated.cli.databases import existing_memory

    opened = existing_memory(database, key_store)
    if user is None:
        with opened as memory:
            _print(memory.key_status(), _print_of_all, as_json=as_json)
        return
    with opened as memory:
        with pulse("counting"):
            found = memory.key_status_of(user, project_id=project)
        _print(found, _print_of_user, as_json=as_json)


def _print(found: Status, as_tables: Callable[[Status], None], *, as_json: bool) -> None:
    if as_json:
        print_json(asdict(found))
    else:
        as_tables(found)


def _print_of_all(found: KeyStatus) -> None:
    shown_ = table("", "")
    for what, value in (
        ("owners with keys", f"{found.owners:,}"),
        ("of these pending", f"{found.pending:,}"),
        ("former keys", f"{found.former_keys:,}"),
        ("the oldest of them", second(found.oldest_former)),
        ("rotation of all since", second(found.rotating_since)),
        ("most seals of a key", f"{found.most_seals:,} of {found.seals_allowed:,}"),
    ):
        shown_.add_row(what, cell(value))
    print_table(shown_)


def _print_of_user(found: UserKeyStatus) -> None:
    if not found.keys:
        typer.echo(_NOBODY)
        return
    keys = table("version", "state", "made", "destroyed")
    for key in found.keys:
        moments = second(key.made_at), second(key.destroyed_at)
        keys.add_row(str(key.version), key.state, *moments)
    print_table(keys)
    uses = table("module", "may seal from", "version", "records", "seals")
    for use in found.scopes:
        for version in sorted({*use.records, *use.seals}):
            uses.add_row(
                cell(use.module or "(shared by all)"),
                str(use.oldest_key),
                str(version),
                f"{use.records.get(version, 0):,}",
                f"{use.seals.get(version, 0):,}",
            )
    print_table(uses)
