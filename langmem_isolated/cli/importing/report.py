"""Reports of an import: tables of what went where, and of what did not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from langmem_isolated.cli.terminal import cell, one_line, print_counts, print_table, table

if TYPE_CHECKING:
    from langmem_isolated.importers import ImportPlan, ImportReceipt, ModuleCount, Rejected

_PLURAL = {
    "session": "messages",
    "thread": "checkpoints",
    "item": "items",
    "document": "documents",
    "profile": "entries of profiles",
}
_STYLES = {"rejected": "red", "unmapped": "red", "copied": "green", "continued": "green"}


def print_modules(modules: Sequence[ModuleCount]) -> None:
    """Print what goes to each module."""
    if not modules:
        typer.echo("There is nothing to be imported.")
        return
    shown = table("project", "module", "kind", "users", "of them", "records", "")
    for one in modules:
        numbers = (f"{n:,}" for n in (one.users, one.units, one.records))
        names = (cell(name) for name in (one.project, one.module, one.kind))
        shown.add_row(*names, *map(cell, numbers), cell(_PLURAL.get(one.kind, "")))
    print_table(shown)


def print_plan(plan: ImportPlan, *, unmapped: str) -> None:
    """Print what an import would do."""
    print_modules(plan.modules)
    _print_scopes(plan)
    _print_first("have no owner by this mapping", plan.unmapped, plan.unmapped_first)
    _print_first("cannot be put in", plan.rejected, plan.rejected_first)
    _print_notes(plan.notes)
    size = "" if plan.source_bytes is None else f" from {plan.source_bytes:,} bytes"
    becomes = "" if plan.target_bytes is None else f", about {plan.target_bytes:,} bytes here"
    time = f"in about {max(1, plan.seconds):,.0f} s, as measured on 2 cores"
    typer.echo(f"{plan.records:,} records{size}{becomes}, {time}. Nothing was written.")
    if plan.unmapped and unmapped == "stop":
        typer.echo("The import would be refused: see --unmapped.")


def _print_notes(notes: Mapping[str, int]) -> None:
    if notes:
        print_counts(notes, nothing="", what="left out, or told in words")


def _print_scopes(plan: ImportPlan) -> None:
    if not plan.by_scope:
        return
    shown = table("project", "user", "module", "records")
    for scope, count in plan.by_scope.items():
        ids = (scope.project_id, scope.user_id, scope.module_id)
        shown.add_row(*map(cell, (*ids, f"{count:,}")))
    print_table(shown)


def _print_first(what: str, count: int, first: Iterable[Rejected]) -> None:
    if not count:
        return
    typer.echo(f"{count:,} {what}; the first:")
    for one in first:
        typer.echo(f"  {one_line(one.place)}: {one_line(one.reason)}")


def print_receipt(receipt: ImportReceipt, path: object) -> None:
    """Print what an import did."""
    if receipt.modules:
        print_modules(receipt.modules)
    shown = table("what became of it", "")
    for state, count in receipt.units.items():
        shown.add_row(cell(state, _STYLES.get(state, "")), Text(f"{count:,}"))
    if receipt.units:
        print_table(shown)
    if receipt.rejects_file:
        print_counts(receipt.rejects, nothing="", what="left out")
        typer.echo(f"Places and reasons: {one_line(receipt.rejects_file)}")
    _print_notes(receipt.notes)
    if receipt.backup:
        typer.echo(f"What was there before: {one_line(receipt.backup)}")
    if receipt.modules:
        typer.echo(
            f"What is in was read back and compared. To undo it: langmem-isolated rollback {path}"
        )
    else:
        typer.echo("Nothing was put in.")
