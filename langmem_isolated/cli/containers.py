"""`session` and `thread`: rename, archive, pin, close and delete one of a user in a module."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ModuleOption,
    ProjectOption,
    UserOption,
)
from langmem_isolated.cli.terminal import print_json

if TYPE_CHECKING:
    from langmem_isolated import ScopedMemory, Session, Thread

IdArgument = Annotated[
    str, typer.Argument(help="Its id. Write -- before one that begins with a dash.")
]
Change = Callable[["ScopedMemory", str], Any]


def add_change(group: typer.Typer, noun: str, verb: str, done: str, change: Change) -> None:
    """Add a command that does something to one session or thread, and says so."""

    def command(
        name: IdArgument,
        *,
        user: UserOption,
        module: ModuleOption,
        project: ProjectOption = "default",
        as_json: JsonOption = False,
        database: DatabaseOption = DEFAULT_DATABASE,
        key_store: KeyStoreOption = None,
    ) -> None:
        _run(change, name, (user, module, project), (database, key_store))
        _print(noun, done, as_json=as_json)

    command.__doc__ = f"{_SENTENCES[verb].format(noun)} Needs the root key."
    group.command(verb, epilog=shown(f"{noun} {verb} monday --user ann --module tutor"))(command)


def add_rename(group: typer.Typer, noun: str, rename: Callable[..., Any]) -> None:
    """Add the command that gives one another title."""

    def command(
        name: IdArgument,
        title: Annotated[str, typer.Argument(help="What people call it; '' takes it away.")],
        *,
        user: UserOption,
        module: ModuleOption,
        project: ProjectOption = "default",
        as_json: JsonOption = False,
        database: DatabaseOption = DEFAULT_DATABASE,
        key_store: KeyStoreOption = None,
    ) -> None:
        def change(scope: "ScopedMemory", name: str) -> None:
            rename(scope, name, title or None)

        _run(change, name, (user, module, project), (database, key_store))
        _print(noun, "renamed", as_json=as_json)

    command.__doc__ = f"Give a {noun} another title. Needs the root key."
    example = f"{noun} rename monday Fractions --user ann --module tutor"
    group.command("rename", epilog=shown(example))(command)


_SENTENCES = {
    "archive": "Leave a {} out of lists, unless they have --archived.",
    "unarchive": "List a {} again.",
    "pin": "List a {} before the others.",
    "unpin": "List a {} among the others again.",
    "close": "Let a {} take no more messages; it is read as before.",
    "reopen": "Let a {} take messages again.",
    "delete": "Remove a {} with all it has.",
}


def marks(one: "Session | Thread") -> str:
    """What a session or thread is, besides there, as tables show it."""
    names = ("pinned", "archived", "closed")
    return ", ".join(name for name in names if getattr(one, name, False))


def _run(
    change: Change, name: str, scope: tuple[str, str, str], databases: tuple[str, str | None]
) -> None:
    from langmem_isolated.cli.databases import existing_memory

    user, module, project = scope
    with existing_memory(*databases) as memory:
        change(memory.scope(user_id=user, module_id=module, project_id=project), name)


def _print(noun: str, done: str, *, as_json: bool) -> None:
    if as_json:
        print_json({done: 1})
    else:
        typer.echo(f"The {noun} is {done}.")
