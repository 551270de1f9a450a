"""`threads` and `thread`: list LangGraph threads, change one."""

from typing import TYPE_CHECKING

import typer

from langmem_isolated.cli.containers import add_change, add_rename, marks
from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    ArchivedOption,
    BeforeOption,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    LimitOption,
    ModuleOption,
    ProjectOption,
    SearchOption,
    UserOption,
)
from langmem_isolated.cli.reasons import MinutesOption, ReasonOption, Why, permitted
from langmem_isolated.cli.terminal import DAMAGED, cell, minute, print_json, print_table, table

if TYPE_CHECKING:
    from langmem_isolated import IsolatedCheckpointSaver, Thread

_FIELDS = (
    *("id", "title", "checkpoints", "size", "created", "last_activity", "expires"),
    *("pinned", "archived", "damaged"),
)

commands = typer.Typer(
    help="Rename, archive, pin or delete a LangGraph thread.",
    no_args_is_help=True,
    epilog=shown("thread rename chat-1 Fractions --user ann --module tutor"),
)
add_rename(
    commands,
    "thread",
    lambda scope, name, title: scope.checkpointer().rename_thread(name, title),
)
for _verb, _done, _change in (
    ("archive", "archived", lambda scope, name: scope.checkpointer().archive_thread(name)),
    ("unarchive", "unarchived", lambda scope, name: scope.checkpointer().unarchive_thread(name)),
    ("pin", "pinned", lambda scope, name: scope.checkpointer().pin_thread(name)),
    ("unpin", "unpinned", lambda scope, name: scope.checkpointer().unpin_thread(name)),
    ("delete", "deleted", lambda scope, name: _delete(scope.checkpointer(), name)),
):
    add_change(commands, "thread", _verb, _done, _change)


def _delete(saver: "IsolatedCheckpointSaver", thread_id: str) -> None:
    # What LangGraph calls takes an unknown thread for no error; who types an id wants to know.
    saver.thread(thread_id)
    saver.delete_thread(thread_id)


def threads(
    *,
    user: UserOption,
    module: ModuleOption,
    project: ProjectOption = "default",
    limit: LimitOption = 100,
    before: BeforeOption = None,
    search: SearchOption = None,
    archived: ArchivedOption = False,
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List the LangGraph threads of one user in one module, newest first. Needs the root key.

    Pinned ones come first.
    """
    from langmem_isolated.cli.databases import existing_memory

    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, "threads", user, project, module=module, **why),
    ):
        saver = memory.scope(user_id=user, module_id=module, project_id=project).checkpointer()
        last = None if before is None else saver.thread(before)
        listed = saver.threads(limit=limit, before=last, archived=archived, search=search)
    if as_json:
        print_json([{name: getattr(thread, name) for name in _FIELDS} for thread in listed])
    elif listed:
        _print_threads(listed)
    elif before or search or archived:
        typer.echo("This scope has no such threads.")
    else:
        typer.echo(
            "This scope has no threads. Chat sessions: langmem-isolated sessions; the user's "
            "modules: langmem-isolated modules."
        )


def _print_threads(listed: "list[Thread]") -> None:
    is_titled, is_marked = any(thread.title for thread in listed), any(map(marks, listed))
    headings = ["thread", *(["title"] * is_titled), "checkpoints", "bytes", "created", "last, UTC"]
    rows = table(*headings, *(["is"] * is_marked))
    for thread in listed:
        names = [DAMAGED if thread.damaged else thread.id, *([thread.title] * is_titled)]
        numbers = (f"{number:,}" for number in (thread.checkpoints, thread.size))
        moments = map(minute, (thread.created, thread.last_activity))
        cells = (cell(name or "") for name in names)
        rows.add_row(*cells, *numbers, *moments, *([marks(thread)] * is_marked))
    print_table(rows)
