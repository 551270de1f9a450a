"""Run of `import`: from what was asked for to the report and the status."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from langmem_isolated.cli.importing.options import ImportOptions, UnmappedRule
from langmem_isolated.cli.importing.progress import watching
from langmem_isolated.cli.importing.report import print_plan, print_receipt
from langmem_isolated.cli.terminal import as_usage, print_json
from langmem_isolated.errors import LangmemIsolatedError

if TYPE_CHECKING:
    from langmem_isolated.importers import Import, SourceSpec

LEFT_OUT = 3
# As shells count a program that Ctrl-C ended.
_INTERRUPTED = 130


class _NotWritten(LangmemIsolatedError):
    """The file system refused."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(
            f"A file of the import could not be read or written: {reason}. Give --receipt, "
            "--rejects and --backup in folders that can be written. The same command goes on."
        )


def import_source(
    spec: SourceSpec, location: str, options: Mapping[str, Any], asked: ImportOptions
) -> None:
    """Import from a source, or plan to; ends with status 3 if something is left out."""
    from langmem_isolated.cli.databases import existing_memory
    from langmem_isolated.importers import Import

    if asked.by_scope and not asked.dry_run:
        raise typer.BadParameter("--by-scope tells of a --dry-run: give both.")
    with as_usage(), _as_one_line(), watching(verbose=asked.verbose) as progress:
        memory = existing_memory(asked.database, asked.key_store)
        with spec.make(location, **_with_columns(spec, options, asked)) as source:
            made = Import(
                memory,
                source,
                asked.rules(),
                unmapped=asked.unmapped.value,
                readmit=asked.readmit or (),
                receipt=asked.receipt,
                rejects=asked.rejects,
                backup=asked.backup_place,
                progress=progress,
            )
            if asked.dry_run:
                is_whole = _plan(made, asked)
            else:
                with memory:
                    is_whole = _run(made, asked)
    if not is_whole:
        raise typer.Exit(LEFT_OUT)


def _with_columns(
    spec: SourceSpec, options: Mapping[str, Any], asked: ImportOptions
) -> Mapping[str, Any]:
    """The options, and the columns of --user-column and others where none were named."""
    takes_columns = any(option.name == "columns" for option in spec.options)
    if options.get("columns") or not takes_columns or not asked.columns:
        return options
    return {**options, "columns": asked.columns}


def _plan(made: Import, asked: ImportOptions) -> bool:
    plan = made.plan(by_scope=asked.by_scope)
    if asked.as_json:
        print_json(plan.as_dict())
    else:
        print_plan(plan, unmapped=asked.unmapped.value)
    is_meant = asked.unmapped is UnmappedRule.skip
    return plan.is_whole or (is_meant and not plan.rejected)


def _run(made: Import, asked: ImportOptions) -> bool:
    try:
        receipt = made.run()
    except KeyboardInterrupt:
        _tell_of_interrupt(made)
        raise typer.Exit(_INTERRUPTED) from None
    if asked.as_json:
        print_json(receipt.as_dict() | {"receipt": str(made.receipt_path)})
    else:
        print_receipt(receipt, made.receipt_path)
    return receipt.is_whole


def _tell_of_interrupt(made: Import) -> None:
    told = "Interrupted; nothing was written."
    if made.receipt_path.exists():
        told = (
            "Interrupted; what was copied is in. The same command goes on; to undo it: "
            f"langmem-isolated rollback {made.receipt_path}"
        )
    typer.echo(told, err=True)


@contextmanager
def _as_one_line() -> Iterator[None]:
    try:
        yield
    except LangmemIsolatedError:
        raise
    except OSError as error:
        raise _NotWritten(error.strerror) from None
