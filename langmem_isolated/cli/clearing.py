"""`clear`: removes what a user no longer wants."""

from typing import Annotated

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ProjectOption,
    UserOption,
)
from langmem_isolated.cli.terminal import counting, print_counts, print_json


def clear(
    *,
    user: UserOption,
    module: Annotated[
        str | None, typer.Option("--module", help="Only in this module; otherwise in all.")
    ] = None,
    session: Annotated[
        str | None, typer.Option("--session", help="Only this chat session of the module.")
    ] = None,
    channel: Annotated[
        str | None, typer.Option("--channel", help="Only the messages of this channel.")
    ] = None,
    project: ProjectOption = "default",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Remove a user's memory in one module or in all; the account stays. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    if module is None and (session or channel):
        raise typer.BadParameter("--session and --channel are of one --module.")
    if session and channel:
        raise typer.BadParameter("Give --session or --channel, not both.")
    what = next(
        name
        for name, is_meant in (
            ("this session", session),
            ("this channel", channel),
            ("all that this user has in this module", module),
            ("all that this user has in every module", True),
        )
        if is_meant
    )
    if not yes:
        typer.confirm(f"Remove {what}? It cannot be brought back.", abort=True, err=True)
    with existing_memory(database, key_store) as memory, counting("removed") as progress:
        if module is None:
            counts = memory.clear_user(user, project_id=project, progress=progress)
        else:
            scope = memory.scope(user_id=user, module_id=module, project_id=project)
            counts = (
                scope.clear_session(session)
                if session
                else scope.clear(channel=channel, progress=progress)
            )
    if as_json:
        print_json(counts)
    else:
        print_counts(counts, nothing="There was nothing.")
