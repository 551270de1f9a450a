"""Options that every command of `import` has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from inspect import Parameter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_type_hints

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
)

if TYPE_CHECKING:
    from langmem_isolated.importers import Mapping

_OWNERS, _FILES = "Whose it becomes", "What is written beside the target"


class UnmappedRule(StrEnum):
    """What becomes of what has no owner."""

    stop = "stop"
    skip = "skip"
    report = "report"


def _of_owners(*names: str, told: str) -> Any:
    return typer.Option(*names, help=told, rich_help_panel=_OWNERS)


def _second(name: str) -> Any:
    # Both names in one option leave the help 24 columns of a terminal's 80.
    return typer.Option(name, hidden=True, help="As the one of the column.")


def _of_files(*names: str, told: str) -> Any:
    return typer.Option(*names, help=told, rich_help_panel=_FILES)


VerboseOption = Annotated[
    bool, typer.Option("--verbose", help="A line for each session, thread or item, with its place.")
]


@dataclass(frozen=True)
class ImportOptions:
    """What was asked for on the command line."""

    user: Annotated[
        str | None, _of_owners("--user", told="The user's id, for all of the source.")
    ] = None
    user_column: Annotated[
        str | None,
        _of_owners(
            "--user-column",
            told="The column, or path such as metadata.user_id, that has the user's id; or "
            "--user-path.",
        ),
    ] = None
    user_path: Annotated[str | None, _second("--user-path")] = None
    module: Annotated[
        str | None, _of_owners("--module", told="The module's id, for all of the source.")
    ] = None
    module_column: Annotated[
        str | None,
        _of_owners("--module-column", told="The one that has the module's id; or --module-path."),
    ] = None
    module_path: Annotated[str | None, _second("--module-path")] = None
    project: Annotated[
        str | None,
        _of_owners("--project", told='The project\'s id, for all; "default" if nothing tells it.'),
    ] = None
    project_column: Annotated[
        str | None,
        _of_owners(
            "--project-column", told="The one that has the project's id; or --project-path."
        ),
    ] = None
    project_path: Annotated[str | None, _second("--project-path")] = None
    id_pattern: Annotated[
        str | None,
        _of_owners(
            "--id-pattern",
            told="A regular expression that ids match, with groups named user, module, project, "
            "session or thread: (?P<user>[^:]+):(?P<session>.+)",
        ),
    ] = None
    map: Annotated[
        Path | None,
        _of_owners(
            "--map",
            told="A CSV file whose header has id, user and, as you like, module, project, name.",
        ),
    ] = None
    map_function: Annotated[
        str | None, _of_owners("--map-function", told="package.module:function that tells owners.")
    ] = None
    mapping: Annotated[Path | None, _of_owners("--mapping", told="A TOML file of these rules.")] = (
        None
    )
    drop_labels: Annotated[
        bool,
        _of_owners(
            "--drop-labels", told="Drop labels of namespaces in which --id-pattern found the owner."
        ),
    ] = False
    unmapped: Annotated[
        UnmappedRule,
        _of_owners("--unmapped", told="What becomes of what has no owner; report: to the rejects."),
    ] = UnmappedRule.stop
    readmit: Annotated[
        list[str] | None,
        _of_owners("--readmit", told="An erased user who may come back; several times."),
    ] = None
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what would go where; change nothing.")
    ] = False
    by_scope: Annotated[
        bool, typer.Option("--by-scope", help="With --dry-run: count for each user, and name them.")
    ] = False
    receipt: Annotated[
        Path | None,
        _of_files("--receipt", told="Where the receipt goes, by default import-….json here."),
    ] = None
    rejects: Annotated[
        Path | None,
        _of_files("--rejects", told="Where what cannot be put in is told, by default beside it."),
    ] = None
    backup: Annotated[
        Path | None,
        _of_files("--backup", told="Where the backup of the target goes, by default beside it."),
    ] = None
    no_backup: Annotated[bool, _of_files("--no-backup", told="Make no backup.")] = False
    verbose: VerboseOption = False
    as_json: JsonOption = False
    database: DatabaseOption = DEFAULT_DATABASE
    key_store: KeyStoreOption = None

    def rules(self) -> Mapping:
        """The mapping that was asked for.

        Raises:
            MappingRefused: The rules cannot be meant.
        """
        from langmem_isolated.importers import Field, Mapping

        told: dict[str, Any] = {
            "user": self.user,
            "module": self.module,
            "project": self.project,
            "pattern": self.id_pattern,
            "table": self.map,
            "function": self.map_function,
            "drop_labels": self.drop_labels or None,
        }
        for part in ("user", "module", "project"):
            if column := self._column(part):
                if told[part] is not None:
                    raise typer.BadParameter(f"Give --{part} or --{part}-column.")
                told[part] = Field(column)
        given = {name: value for name, value in told.items() if value is not None}
        return replace(Mapping.from_file(self.mapping) if self.mapping else Mapping(), **given)

    @property
    def columns(self) -> list[str]:
        """The columns that rules read, for a source that reads none but those it is told of."""
        named = map(self._column, ("user", "module", "project"))
        return [column for column in named if column and "." not in column]

    def _column(self, part: str) -> str | None:
        names = (f"{part}_column", f"{part}_path")
        column, path = (cast("str | None", getattr(self, name)) for name in names)
        if column and path:
            raise typer.BadParameter(f"Give --{part}-column or --{part}-path.")
        return column or path

    @property
    def backup_place(self) -> Path | bool:
        """Where the backup goes; whether there is one, where no place was given."""
        if self.backup and self.no_backup:
            raise typer.BadParameter("Give --backup or --no-backup.")
        return self.backup or not self.no_backup


def shared_parameters() -> Iterator[Parameter]:
    """Those of all sources; one of the same name of a source's own has precedence."""
    hints = get_type_hints(ImportOptions, include_extras=True)
    for one in fields(ImportOptions):
        yield Parameter(
            one.name, Parameter.KEYWORD_ONLY, default=one.default, annotation=hints[one.name]
        )
