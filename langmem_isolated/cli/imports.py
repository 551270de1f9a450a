"""`import ARCHIVE`: puts in what an export wrote."""

from pathlib import Path
from typing import Annotated

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ProjectOption,
)
from langmem_isolated.cli.terminal import counting, print_counts, print_json
from langmem_isolated.errors import LangmemIsolatedError

AllowOption = Annotated[
    list[str] | None,
    typer.Option("--allow", help="module.Class whose objects may be in it; several times."),
]


class _NotRead(LangmemIsolatedError):
    """The file system refused."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(
            f"The archive could not be read: {reason}. Give the zip file or folder that an export "
            "wrote."
        )


def import_archive(
    *,
    archive: Annotated[Path, typer.Argument(help="The zip file or folder that an export wrote.")],
    user: Annotated[
        str | None, typer.Option("--user", help="Who gets it; otherwise whose export it is.")
    ] = None,
    allow: AllowOption = None,
    readmit: Annotated[
        list[str] | None,
        typer.Option("--readmit", help="An erased user who may come back; several times."),
    ] = None,
    project: ProjectOption = "default",
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Put in what an export wrote; run again, it goes on where it ended. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store) as memory, counting("imported") as progress:
        try:
            imported = memory.import_user(
                archive,
                user_id=user,
                project_id=project,
                allow=[_class(name) for name in allow or ()],
                readmit=readmit or (),
                progress=progress,
            )
        except LangmemIsolatedError:
            raise
        except OSError as error:
            raise _NotRead(error.strerror) from None
    if as_json:
        print_json(imported.as_dict())
        return
    counts = {kind: count for kind, count in imported.counts.items() if count}
    print_counts(counts, nothing="There was nothing in it.", what="imported")
    if skipped := {kind: count for kind, count in imported.skipped.items() if count}:
        print_counts(skipped, nothing="", what="left out")


def _class(name: str) -> tuple[str, str]:
    module, _, of_module = name.rpartition(".")
    if not module or not of_module:
        told = "give module.Class, such as app.models.Order"
        raise typer.BadParameter(told, param_hint="--allow")
    return module, of_module
