"""`import FILE`: finds out what a file is, and imports it."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import fields
from inspect import Parameter, Signature
from pathlib import Path
from typing import Annotated, Any

import typer

from langmem_isolated.cli.importing.options import ImportOptions, shared_parameters
from langmem_isolated.cli.importing.run import import_source
from langmem_isolated.cli.imports import AllowOption, import_archive

FILE = "FILE"
FILE_EXAMPLES = (
    "import conversations.json --user ann --module chat",
    "import ann.zip",
    "import ann.zip --user anna --allow app.models.Order --json",
)
_ZIP = b"PK\3\4"
_DECLARATION = "bagit.txt"
_OF_ARCHIVES = {"user", "project", "readmit", "as_json", "database", "key_store"}


def file_command() -> Callable[..., None]:
    """The function of the command, with the options that all sources have."""

    def import_file(file: Path, allow: list[str] | None, **given: Any) -> None:
        """Find out what a file or folder is, and import it: an export of ours, or of a product.

        What an export of ours is goes to whom it was of, or to --user; run again, it goes on where
        it ended. Needs the root key.
        """
        from langmem_isolated.cli.databases import existing_database

        asked = ImportOptions(**given)
        # Before anything is said of the file: as for each command, there is a database.
        existing_database(asked.database).close()
        if is_archive(file):
            _import_archive(file, allow, asked)
        else:
            _import_what_it_is(file, allow, asked)

    argument = Annotated[Path, typer.Argument(metavar="FILE", help="What is imported.")]
    import_file.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter("file", Parameter.POSITIONAL_OR_KEYWORD, annotation=argument),
            Parameter("allow", Parameter.KEYWORD_ONLY, default=None, annotation=AllowOption),
            *shared_parameters(),
        ]
    )
    import_file.__annotations__ = {}
    return import_file


def is_archive(file: Path) -> bool:
    """Whether it is an export of ours; what is not there, or a broken zip, nobody knows."""
    if not file.exists():
        return False
    if file.is_dir():
        return (file / _DECLARATION).exists()
    try:
        if not _begins_as_zip(file):
            return False
        with zipfile.ZipFile(file) as archive:
            return any(Path(name).name == _DECLARATION for name in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def _begins_as_zip(file: Path) -> bool:
    """Whether it does, whatever it is called; nobody waits for a pipe."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(_ZIP)) == _ZIP


def _import_archive(file: Path, allow: list[str] | None, asked: ImportOptions) -> None:
    given = {one.name for one in fields(asked) if getattr(asked, one.name) != one.default}
    if others := sorted(given - _OF_ARCHIVES):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise typer.BadParameter(f"An export of ours says all that {names} would; leave it out.")
    import_archive(
        archive=file,
        user=asked.user,
        allow=allow,
        readmit=asked.readmit,
        project=asked.project or "default",
        as_json=asked.as_json,
        database=asked.database,
        key_store=asked.key_store,
    )


def _import_what_it_is(file: Path, allow: list[str] | None, asked: ImportOptions) -> None:
    from langmem_isolated.importers import detect_source

    spec = detect_source(file)
    if allow and "allow" not in {option.name for option in spec.options}:
        raise typer.BadParameter(f"--allow is not for {spec.kind}: it has no objects of classes.")
    import_source(spec, str(file), {"allow": allow} if allow else {}, asked)
