"""Progress of an import: a bar with its rate and the time left, or a line for each unit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from langmem_isolated.cli.terminal import one_line

if TYPE_CHECKING:
    from langmem_isolated.importers import Step


@contextmanager
def watching(*, verbose: bool) -> Iterator[Callable[[Step], None]]:
    """What an import tells its progress to; beside standard output, which is for results."""
    if verbose:
        yield _print_step
        return
    console = Console(stderr=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,} records, {task.fields[rate]:,.0f} a second"),
        TimeRemainingColumn(),
    )
    hidden = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task("reading", total=None, rate=0)

        def show(step: Step) -> None:
            rate = step.done / step.seconds if step.seconds else 0
            bar.update(
                task,
                description=step.stage,
                completed=step.done,
                total=step.total,
                rate=rate,
            )

        yield show


def _print_step(step: Step) -> None:
    counted = f"{step.records:>9,} records  {step.seconds:>9.2f} s"
    typer.echo(f"{step.state:<10}{counted}  {one_line(step.place)}", err=True)
