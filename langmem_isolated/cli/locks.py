"""`lock`: users' own locks. Secrets come from a prompt or a file, never from the command line."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from getpass import GetPassWarning
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ProjectOption,
    UserOption,
)
from langmem_isolated.cli.terminal import as_usage, cell, counting, print_json, print_table, table

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import Collected

commands = typer.Typer(
    help="Users who hold their own keys.",
    no_args_is_help=True,
    epilog=shown("lock status --user ann"),
)

# What a passphrase or code may have; a larger file is another.
_MOST_BYTES = 4096


def _file(name: str, told: str) -> Any:
    return typer.Option(name, exists=True, dir_okay=False, help=told)


PassphraseFileOption = Annotated[
    Path | None, _file("--passphrase-file", "Has the passphrase; else it is asked for.")
]
RecoveryFileOption = Annotated[
    Path | None, _file("--recovery-file", "Has the recovery code, in place of the passphrase.")
]
RecoveryOption = Annotated[
    bool, typer.Option("--recovery", help="Ask for the recovery code in place of the passphrase.")
]
NewPassphraseFileOption = Annotated[
    Path | None, _file("--new-passphrase-file", "Has the new passphrase; else it is asked for.")
]


@commands.command("set", epilog=shown("lock set --user ann"))
def set_lock(
    *,
    user: UserOption,
    passphrase_file: PassphraseFileOption = None,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Lock a user's memory with a passphrase, and print the recovery code, once.

    All that is stored is sealed anew by a key that opens with the passphrase or the code alone.
    """
    from langmem_isolated.cli.databases import existing_memory

    passphrase = _passphrase(passphrase_file, "Passphrase", confirmed=True)
    with (
        existing_memory(database, key_store) as memory,
        counting("records") as progress,
        as_usage(),
    ):
        made = memory.lock_with(user, passphrase=passphrase, project_id=project, progress=progress)
    if as_json:
        print_json({"recovery_code": made.recovery_code, "records": made.records})
    else:
        typer.echo(f"Locked; {made.records:,} records were sealed anew. The recovery code:")
        typer.echo(made.recovery_code)
        typer.echo("It is not shown again. Without it and the passphrase all is lost.")


@commands.command("status", epilog=shown("lock status --user ann --json"))
def status(
    *,
    user: UserOption,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Tell whether a user holds the keys, and what is there, counted. Opens no content."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory:
        found = memory.lock_state(user, project_id=project)
    if as_json:
        fields: dict[str, Any] = asdict(found)
        del fields["seconds_left"]  # of this process, which ends here
        print_json(fields)
        return
    opened_by = " or ".join(found.opened_by)
    typer.echo(f"Locked; opened by {opened_by}." if found.has_lock else "This user has no lock.")
    shown_table = table("module", "sessions", "messages", "threads", "waiting")
    for module in found.modules:
        counts = (module.sessions, module.messages, module.threads, module.waiting)
        name = cell(module.module_id or "(shared by all)")
        shown_table.add_row(name, *(cell(f"{count:,}") for count in counts))
    if found.modules:
        print_table(shown_table)


@commands.command("change", epilog=shown("lock change --user ann --recovery"))
def change(
    *,
    user: UserOption,
    passphrase_file: PassphraseFileOption = None,
    recovery: RecoveryOption = False,
    recovery_file: RecoveryFileOption = None,
    new_passphrase_file: NewPassphraseFileOption = None,
    new_recovery: Annotated[
        bool, typer.Option("--new-recovery", help="Make another recovery code, and print it.")
    ] = False,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Change the passphrase of a user's lock. No record is sealed again."""
    from langmem_isolated.cli.databases import existing_memory

    secret = _secret(passphrase_file, recovery_file, asks_recovery=recovery)
    new = _passphrase(new_passphrase_file, "New passphrase", confirmed=True)
    with existing_memory(database, key_store) as memory, as_usage():
        code = memory.change_secret(
            user, **secret, new_passphrase=new, new_recovery=new_recovery, project_id=project
        )
    if as_json:
        print_json({"recovery_code": code})
    else:
        typer.echo("The passphrase was changed.")
        if code is not None:
            typer.echo(f"The recovery code, which is not shown again:\n{code}")


@commands.command("remove", epilog=shown("lock remove --user ann"))
def remove(
    *,
    user: UserOption,
    passphrase_file: PassphraseFileOption = None,
    recovery: RecoveryOption = False,
    recovery_file: RecoveryFileOption = None,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Give a user's keys back to the server, with what opens the lock."""
    from langmem_isolated.cli.databases import existing_memory

    secret = _secret(passphrase_file, recovery_file, asks_recovery=recovery)
    with (
        existing_memory(database, key_store) as memory,
        counting("messages") as progress,
        as_usage(),
    ):
        collected = memory.remove_lock(user, **secret, project_id=project, progress=progress)
    if not as_json:
        typer.echo("The lock was removed.")
    _tell_collected(collected, as_json=as_json)


@commands.command("collect", epilog=shown("lock collect --user ann"))
def collect(
    *,
    user: UserOption,
    passphrase_file: PassphraseFileOption = None,
    recovery: RecoveryOption = False,
    recovery_file: RecoveryFileOption = None,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Bring into their sessions what was said while a user's memory was locked."""
    from langmem_isolated.cli.databases import existing_memory

    secret = _secret(passphrase_file, recovery_file, asks_recovery=recovery)
    with (
        existing_memory(database, key_store) as memory,
        counting("messages") as progress,
        as_usage(),
        memory.unlock(user, **secret, seconds=60, project_id=project, progress=progress) as lent,
    ):
        collected = lent.collected
    _tell_collected(collected, as_json=as_json)


def _tell_collected(collected: Collected, *, as_json: bool) -> None:
    if as_json:
        print_json({"collected": collected.messages, "damaged": collected.damaged})
        return
    typer.echo(f"{collected.messages:,} messages were brought into their sessions.")
    if collected.damaged:
        typer.echo(f"The inbox of {collected.damaged:,} sessions was tampered with.")


def _secret(
    passphrase_file: Path | None, recovery_file: Path | None, *, asks_recovery: bool
) -> dict[str, Any]:
    if recovery_file is not None:
        return {"recovery": _content(recovery_file)}
    if asks_recovery:
        return {"recovery": _entered("Recovery code")}
    return {"passphrase": _passphrase(passphrase_file, "Passphrase", confirmed=False)}


def _passphrase(file: Path | None, asked: str, *, confirmed: bool) -> str:
    return _entered(asked, confirmed=confirmed) if file is None else _content(file)


def _entered(asked: str, *, confirmed: bool = False) -> str:
    """What is typed at a terminal, unseen; from elsewhere it would come without being hidden."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", GetPassWarning)
            entered: str = typer.prompt(asked, hide_input=True, confirmation_prompt=confirmed)
    except GetPassWarning:
        option = f"--{asked.lower().replace(' ', '-').removesuffix('-code')}-file"
        raise typer.BadParameter(f"There is no terminal to ask at. Give {option}.") from None
    return entered


def _content(file: Path) -> str:
    with file.open("rb") as opened:
        content = opened.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise typer.BadParameter(f"the file has more than {_MOST_BYTES} bytes; expected one line")
    try:
        # An editor ends the last line; a passphrase may end with spaces.
        return content.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise typer.BadParameter("the file is not UTF-8 text") from None
