"""`profile show` and `profile compare`: print what modules know of one user."""

import json
from dataclasses import asdict
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
from langmem_isolated.cli.reasons import MinutesOption, ReasonOption, Why, permitted
from langmem_isolated.cli.terminal import cell, minute, print_json, print_table, second, table

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import (
        ModuleComparison,
        ModuleKnowledge,
        Overview,
        ProfileContents,
    )

commands = typer.Typer(
    help="What modules know of one user.",
    no_args_is_help=True,
    epilog=shown("profile show --user ann --module tutor", "profile compare --user ann"),
)

OneOfModulesOption = Annotated[
    list[str] | None,
    typer.Option("--module", help="A module's id; may be given again. By default all modules."),
]


@commands.command("show", epilog=shown("profile show --user ann --module tutor --json"))
def show(
    *,
    user: UserOption,
    module: ModuleOption,
    project: ProjectOption = "default",
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Print what one module knows of one user, and how much it has. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, "profile_show", user, project, module=module, **why),
    ):
        scope = memory.scope(user_id=user, module_id=module, project_id=project)
        overview, contents = scope.overview(), scope.profile().contents()
    if as_json:
        print_json({"overview": asdict(overview), **_as_fields(contents)})
        return
    _print_overview(overview)
    if contents:
        _print_contents(contents)
    else:
        typer.echo(
            "This module knows nothing of the user. All of the user's modules: langmem-isolated "
            "profile compare."
        )


@commands.command(
    "compare",
    epilog=shown("profile compare --user ann", "profile compare --user ann --module tutor --json"),
)
def compare(
    *,
    user: UserOption,
    module: OneOfModulesOption = None,
    project: ProjectOption = "default",
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Print what the modules of one user know of them, side by side. Needs the root key."""
    from langmem_isolated.cli.databases import existing_memory

    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, None, user, project, **why),
    ):
        found = memory.compare_modules(user_id=user, project_id=project, modules=module)
    if as_json:
        modules = [_module_as_fields(one) for one in found.modules]
        print_json({"modules": modules, "notebook": _as_fields(found.notebook)})
    elif found.modules or found.notebook:
        _print_comparison(found)
    else:
        typer.echo("This user has no memory in this project.")


def _print_overview(overview: "Overview") -> None:
    found = table("conversations", "messages", "threads", "documents", "first, UTC", "last, UTC")
    counts = (overview.conversations, overview.messages, overview.threads, overview.documents)
    times = (overview.first_activity, overview.last_activity)
    found.add_row(*(f"{count:,}" for count in counts), *map(_shown, times))
    print_table(found)


def _print_contents(contents: "ProfileContents") -> None:
    found = table("kind", "id or name", "time, UTC", "text")
    if contents.summary:
        found.add_row("summary", "", "", cell(contents.summary))
    for name, value in contents.attributes.items():
        found.add_row("attribute", cell(name), "", cell(_json(value)))
    for interest in contents.interests:
        found.add_row("interest", cell(interest.name), second(interest.last), "")
    for fact in contents.facts:
        found.add_row("fact", fact.id, second(fact.time), cell(fact.text))
    print_table(found)


def _print_comparison(found: "ModuleComparison") -> None:
    compared = table("what", *map(_heading, found.module_ids))
    for aspect, name, values in found.rows():
        compared.add_row(cell(f"{aspect} {name}".strip()), *map(cell, map(_shown, values)))
    print_table(compared)
    if found.notebook:
        typer.echo("The notebook that all modules share:")
        _print_contents(found.notebook)


def _heading(module_id: str) -> str:
    return cell(module_id).markup


def _shown(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return minute(value) if hasattr(value, "tzinfo") else _json(value)


def _module_as_fields(one: "ModuleKnowledge") -> dict[str, Any]:
    return {
        "module": one.module_id,
        "overview": asdict(one.overview),
        **_as_fields(one.profile),
        "session_summaries": [summary._asdict() for summary in one.session_summaries],
    }


def _as_fields(contents: "ProfileContents") -> dict[str, Any]:
    return {
        "summary": contents.summary,
        "facts": [_without_position(asdict(fact)) for fact in contents.facts],
        "interests": [asdict(interest) for interest in contents.interests],
        "attributes": contents.attributes,
    }


def _without_position(fact: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fact.items() if name != "position"}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
