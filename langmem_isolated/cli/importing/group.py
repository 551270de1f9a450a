"""`import`: one command for each source of the catalogue, and one that finds out what a file is."""

from __future__ import annotations

import re
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.importing.file import FILE, FILE_EXAMPLES, file_command
from langmem_isolated.cli.importing.options import ImportOptions, shared_parameters
from langmem_isolated.cli.importing.run import import_source

if TYPE_CHECKING:
    from langmem_isolated.importers import SourceOption, SourceSpec

_HELP = "--help"
_NAME = re.compile("[a-z0-9]+(-[a-z0-9]+)*")


class _Sources(TyperGroup):
    """Makes a command of a source when it is asked for; what is no source's name is a file's."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - as above
        from langmem_isolated.importers import source_specs

        return [FILE, *source_specs()]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - as above
        return _command(cmd_name)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] != _HELP and args[0] not in self.list_commands(ctx):
            _refuse_misspelled(args[0], self.list_commands(ctx))
            args = [FILE, *args]
        return super().parse_args(ctx, args)


def _refuse_misspelled(given: str, sources: list[str]) -> None:
    """Refuse what is written as the names of sources are, and is no file."""
    if not _NAME.fullmatch(given) or Path(given).exists():
        return
    nearest = "".join(f", the nearest is {one}" for one in get_close_matches(given, sources, n=1))
    raise typer.BadParameter(
        f"No source has this name{nearest}, and no file is called so. import --help lists them."
    )


commands = typer.Typer(
    cls=_Sources,
    help="Move in from other stores, or put in what an export wrote. The source stays as it is.",
    epilog=shown("import sql-chat-history chats.db --user-column owner --module chat")
    + "\n\nWhat is no name of these is a file: what it is is found out.",
    no_args_is_help=True,
)


@commands.callback()
def _sources() -> None:
    """Move in from other stores, or put in what an export wrote. The source stays as it is."""


# 10 ms each.
@cache
def _command(name: str) -> Any:
    from langmem_isolated.importers import source_specs

    if name == FILE:
        return _made(FILE, file_command(), FILE_EXAMPLES)
    spec = source_specs().get(name)
    if spec is None:
        return None
    return _made(name, command_of(spec), [f"import {typed}" for typed in spec.examples])


def _made(name: str, function: Callable[..., None], examples: Any) -> Any:
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    alone.command(name, epilog=shown(*examples) if examples else None)(function)
    made = typer.main.get_command(alone)
    made.name = name
    return made


def command_of(spec: SourceSpec) -> Callable[..., None]:
    """The function of a source's command, with its options and those that all sources have."""
    own = [option.name for option in spec.options]

    def command(location: str, **given: Any) -> None:
        options = {name: given.pop(name) for name in own}
        told = {name: value for name, value in options.items() if value is not None}
        import_source(spec, location, told, ImportOptions(**given))

    argument = Annotated[str, typer.Argument(metavar="LOCATION", help=_sentence(spec.location))]
    command.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            Parameter("location", Parameter.POSITIONAL_OR_KEYWORD, annotation=argument),
            *(_parameter_of(option) for option in spec.options),
            *(one for one in shared_parameters() if one.name not in own),
        ]
    )
    command.__annotations__ = {}
    command.__doc__ = _sentence(spec.help)
    return command


def _sentence(told: str) -> str:
    return f"{told[:1].upper()}{told[1:].removesuffix('.')}."


def _parameter_of(option: SourceOption) -> Parameter:
    name = f"--{option.name.replace('_', '-')}"
    kind: Any = Path if option.type is Path else option.type
    if option.is_repeated:
        kind = list[kind]
    if option.type is not bool:
        kind = kind | None
    annotation = Annotated[kind, typer.Option(name, help=_sentence(option.help))]
    default = option.default
    if option.type is bool and default is None:
        default = False
    return Parameter(option.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
