"""`modules`: lists the modules in which a user has memory."""

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ProjectOption,
    UserOption,
)
from langmem_isolated.cli.terminal import cell, print_json, print_table, table


def modules(
    *,
    user: UserOption,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List the modules in which one user has memory. Needs the root key.

    Tables name no one: users cannot be listed, and the modules of one are sealed with its key.
    """
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        found = memory.modules(user_id=user, project_id=project)
    if as_json:
        print_json(found)
        return
    if not found:
        typer.echo("This user has no memory in this project.")
        return
    shown = table("module")
    for module in found:
        shown.add_row(cell(module))
    print_table(shown)
