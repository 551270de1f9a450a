"""`export`: gives a user all that the memory holds of them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ProjectOption,
    UserOption,
)
from langmem_isolated.cli.reasons import MinutesOption, ReasonOption, Why, permitted
from langmem_isolated.cli.terminal import counting, one_line, print_counts, print_json
from langmem_isolated.errors import LangmemIsolatedError


class _NotWritten(LangmemIsolatedError):
    """The file system refused."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(
            f"The export could not be written: {reason}. Nothing was left behind. Give --output a "
            "place in a folder that is there and has room."
        )


def export(
    *,
    user: UserOption,
    output: Annotated[
        Path, typer.Option("--output", help="A new zip file, or a new folder if not named .zip.")
    ],
    module: Annotated[
        str | None, typer.Option("--module", help="Only in this module; otherwise in all.")
    ] = None,
    profile: Annotated[
        Literal["full", "mem"] | None,
        typer.Option(
            "--profile",
            help="full, or mem: the portable format, as by a name ending with .mem or .mem.zip.",
        ),
    ] = None,
    project: ProjectOption = "default",
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Write all that a user has into a zip file or folder, in plaintext. Needs the root key.

    What third-party vector stores hold is not in it; those that the user wrote to are named.
    """
    from langmem_isolated.cli.databases import existing_memory

    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, None, user, project, module=module, **why),
        counting("written") as progress,
    ):
        try:
            exported = memory.export_user(
                user,
                output,
                project_id=project,
                module_id=module,
                profile=profile,
                progress=progress,
            )
        except LangmemIsolatedError:
            raise
        except OSError as error:
            raise _NotWritten(error.strerror) from None
    if as_json:
        print_json(exported.as_dict())
    else:
        counts = {kind: count for kind, count in exported.counts.items() if count}
        print_counts(counts, nothing="There was nothing; the archive says so.", what="written")
        if exported.left_out:
            left = ", ".join(f"{count:,} {kind}" for kind, count in exported.left_out.items())
            typer.echo(f"The format has no place for {left}. A full export has.")
        if exported.stores:
            named = ", ".join(map(one_line, exported.stores))
            typer.echo(f"Not in it is what third-party vector stores hold of the user: {named}.")
