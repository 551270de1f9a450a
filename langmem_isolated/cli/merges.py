"""`merge`: brings two modules of one user together, and undoes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

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
from langmem_isolated.cli.reasons import MinutesOption, ReasonOption, Why, permitted
from langmem_isolated.cli.terminal import cell, minute, print_json, print_table, pulse, table

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import (
        MergeConflicts,
        MergePlan,
        MergeReceipt,
        Named,
        NewName,
        Undone,
    )

commands = typer.Typer(
    help="Puts all of one module into another of the same user, too.",
    no_args_is_help=True,
    epilog=shown("merge plan --user ann --from tutor --into planner"),
)

FromOption = Annotated[str, typer.Option("--from", help="The module that is copied; it stays.")]
IntoOption = Annotated[str, typer.Option("--into", help="The module that it is put into.")]
_EXAMPLE = "--user ann --from tutor --into planner"


@commands.command("plan", epilog=shown(f"merge plan {_EXAMPLE}", f"merge plan {_EXAMPLE} --json"))
def plan(
    *,
    user: UserOption,
    from_module: FromOption,
    into_module: IntoOption,
    project: ProjectOption = "default",
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Say what a merge would put in and which names are taken; change nothing."""
    from langmem_isolated.cli.databases import existing_memory

    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, "merge_plan", user, project, **why),
        pulse("Looking"),
    ):
        found = memory.merge_modules(
            user_id=user, from_module=from_module, into_module=into_module, project_id=project
        )
    if as_json:
        print_json({"counts": found.counts, "conflicts": [*map(_as_fields, found.conflicts)]})
    else:
        _print_plan(found)


@commands.command(
    "run", epilog=shown(f"merge run {_EXAMPLE}", f"merge run {_EXAMPLE} --conflicts skip")
)
def run(
    *,
    user: UserOption,
    from_module: FromOption,
    into_module: IntoOption,
    conflicts: Annotated[
        str,
        typer.Option("--conflicts", help="For names that are taken: rename, skip or refuse."),
    ] = "rename",
    project: ProjectOption = "default",
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Merge, and print the receipt by which it can be undone; interrupted, run it again."""
    from langmem_isolated.cli.databases import existing_memory

    if conflicts not in ("rename", "skip", "refuse"):
        raise typer.BadParameter("--conflicts must be rename, skip or refuse.")
    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, None, user, project, **why),
        pulse("Merging"),
    ):
        receipt = memory.merge_modules(
            user_id=user,
            from_module=from_module,
            into_module=into_module,
            dry_run=False,
            conflicts=cast("MergeConflicts", conflicts),
            project_id=project,
        )
    if as_json:
        print_json(_as_receipt(receipt))
    else:
        _print_receipts([receipt])


@commands.command("list", epilog=shown("merge list --user ann"))
def list_receipts(
    *,
    user: UserOption,
    project: ProjectOption = "default",
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """List the receipts of 30 days: merges, and copies of facts."""
    from langmem_isolated.cli.databases import existing_memory

    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, "merge_list", user, project, **why),
    ):
        found = memory.receipts(user_id=user, project_id=project)
    if as_json:
        print_json([*map(_as_receipt, found)])
    elif found:
        _print_receipts(found)
    else:
        typer.echo("Nothing was merged or copied between this user's modules in 30 days.")


@commands.command("undo", epilog=shown("merge undo 0123456789abcdef0123456789abcdef --user ann"))
def undo(
    receipt: Annotated[str, typer.Argument(help="The receipt's id.")],
    *,
    user: UserOption,
    project: ProjectOption = "default",
    reason: ReasonOption = None,
    minutes: MinutesOption = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Take out what was put in and not changed since, and say what was left."""
    from langmem_isolated.cli.databases import existing_memory
    from langmem_isolated.errors import ReceiptNotFound

    why: Why = {"reason": reason, "minutes": minutes}
    with (
        existing_memory(database, key_store) as memory,
        permitted(memory, None, user, project, **why),
        pulse("Undoing"),
    ):
        found = memory.receipts(user_id=user, project_id=project)
        known = next((one for one in found if one.id == receipt), None)
        if known is None:
            raise ReceiptNotFound
        undone = memory.undo(known)
    if as_json:
        print_json({"removed": undone.removed, "left": [*map(_as_fields, undone.left)]})
    else:
        _print_undone(undone)


def _as_fields(named: Named) -> dict[str, object]:
    return {"kind": named.kind, "names": [*named.names]}


def _as_receipt(receipt: MergeReceipt) -> dict[str, object]:
    names = ("id", "what", "from_module", "into_module", "begun", "finished", "counts")
    renamed = [new._asdict() for new in receipt.renamed]
    return {**{name: getattr(receipt, name) for name in names}, "renamed": renamed}


def _print_counts(counts: dict[str, int], nothing: str) -> None:
    if not counts:
        typer.echo(nothing)
        return
    rows = table("kind", "count")
    for kind, count in counts.items():
        rows.add_row(cell(kind), f"{count:,}")
    print_table(rows)


def _print_plan(plan: MergePlan) -> None:
    _print_counts(plan.counts, "The one module has nothing that the other has not.")
    _print_named("taken in the other module", plan.conflicts)


def _print_undone(undone: Undone) -> None:
    _print_counts(undone.removed, "Nothing was there any more.")
    _print_named("left, for it was changed since", undone.left)


def _print_named(heading: str, found: tuple[Named, ...]) -> None:
    if found:
        rows = table("kind", heading)
        for kind, names in found:
            rows.add_row(cell(kind), cell(" · ".join(names)))
        print_table(rows)


def _print_receipts(receipts: list[MergeReceipt]) -> None:
    rows = table("receipt", "what", "from", "into", "begun, UTC", "put in", "renamed")
    for one in receipts:
        counts = ", ".join(f"{count:,} {kind}" for kind, count in one.counts.items())
        put_in = counts if one.finished else "interrupted: run it again, or undo it"
        rows.add_row(
            cell(one.id), cell(one.what), cell(one.from_module), cell(one.into_module),
            minute(one.begun), cell(put_in), cell("; ".join(map(_arrow, one.renamed))),
        )  # fmt: skip
    print_table(rows)


def _arrow(new: NewName) -> str:
    return f"{new.kind} {new.old} → {new.new}"
