"""`threads`: lists LangGraph threads."""

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    LimitOption,
    ModuleOption,
    ProjectOption,
    UserOption,
)
from langmem_isolated.cli.terminal import DAMAGED, cell, minute, print_json, print_table, table


def threads(
    *,
    user: UserOption,
    module: ModuleOption,
    project: ProjectOption = "default",
    limit: LimitOption = 100,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List the LangGraph threads of one user in one module, newest first. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        scope = memory.scope(user_id=user, module_id=module, project_id=project)
        listed = scope.checkpointer().threads()[:limit]
    names = ("id", "checkpoints", "size", "created", "last_activity", "damaged")
    if as_json:
        print_json([{name: getattr(thread, name) for name in names} for thread in listed])
        return
    if not listed:
        typer.echo(
            "This scope has no threads. Chat sessions: langmem-isolated sessions; the user's "
            "modules: langmem-isolated modules."
        )
        return
    shown = table("thread", "checkpoints", "bytes", "created", "last, UTC")
    for thread in listed:
        name = DAMAGED if thread.damaged else thread.id
        numbers = (f"{number:,}" for number in (thread.checkpoints, thread.size))
        moments = map(minute, (thread.created, thread.last_activity))
        shown.add_row(cell(name or ""), *numbers, *moments)
    print_table(shown)
