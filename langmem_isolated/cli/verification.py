"""`verify`: isolation and integrity of all that is stored, and a signed report of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ProjectOption,
)
from langmem_isolated.cli.terminal import cell, counting, one_line, print_json, print_table, table
from langmem_isolated.errors import LangmemIsolatedError

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import EvidenceKey, VerificationReport
    from langmem_isolated.memory import IsolatedMemory

_STYLES = {"ok": "green", "not checked": "yellow", "found": "bold red"}


class _EvidenceNotWritten(LangmemIsolatedError):
    """The file for an evidence pack cannot be made."""

    def __init__(self, reason: str | None) -> None:
        super().__init__(
            f"The file for the evidence pack cannot be made: {reason}. A file that exists is never "
            "overwritten: name a new one with --evidence."
        )


def verify(
    *,
    user: Annotated[
        str | None, typer.Option("--user", help="Only this user's memory, in all modules.")
    ] = None,
    project: ProjectOption = "default",
    sample: Annotated[
        int | None,
        typer.Option("--sample", min=1, help="Open the records of so many scopes, at random."),
    ] = None,
    read_only: Annotated[
        bool, typer.Option("--read-only", help="Write nothing: leave the canaries out.")
    ] = False,
    evidence: Annotated[
        Path | None,
        typer.Option("--evidence", help="Write the report, signed, to this new file."),
    ] = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Verify isolation and integrity of all memory, or one user's. Needs the root key.

    The status is 0 only if nothing was found. Unless --read-only, canaries are written through
    every adapter into scopes made for it, looked for in all of them, and removed.
    """
    from langmem_isolated.cli.databases import existing_memory

    # Before anything takes long: a report that cannot be signed or written is not wanted.
    key = None
    if evidence is not None:
        _refuse_a_place_that_is_taken(evidence)
        key = _evidence_key()
    with existing_memory(database, key_store) as memory:
        with counting("scopes") as progress:
            report = memory.verify(
                user, project_id=project, sample=sample, read_only=read_only, progress=progress
            )
        if evidence is not None:
            _write_evidence(memory, report, key, evidence)
    if as_json:
        print_json(report.as_dict())
    else:
        _print_report(report)
    if not report.is_clean:
        raise typer.Exit(1)


def _refuse_a_place_that_is_taken(path: Path) -> None:
    for error, is_so in (
        (errno.EEXIST, os.path.lexists(path)),
        (errno.ENOENT, not path.parent.is_dir()),
    ):
        if is_so:
            raise _EvidenceNotWritten(os.strerror(error))


def _evidence_key() -> EvidenceKey:
    from langmem_isolated.lifecycle import EvidenceKey

    return EvidenceKey.from_environment()


def _write_evidence(
    memory: IsolatedMemory, report: VerificationReport, key: EvidenceKey | None, path: Path
) -> None:
    pack = memory.evidence_pack(report, key=key)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(pack)
    except OSError as error:
        raise _EvidenceNotWritten(error.strerror) from None


def _print_report(report: VerificationReport) -> None:
    shown = table("check", "state", "looked at", "found")
    for check in report.checks:
        state = cell(check.state, _STYLES[check.state])
        shown.add_row(cell(check.name), state, f"{check.examined:,}", f"{check.found:,}")
    print_table(shown)
    _print_findings(report)
    for check in report.checks:
        if check.not_checked:
            typer.echo(f"Not checked: {check.name}: {one_line(check.not_checked)}.")
    _print_coverage(report)
    if report.subject == "user" and not report.scopes:
        typer.echo(
            "This user has no memory here: nothing is stored, or it is in another --project."
        )
    what = f"{report.found:,} findings." if report.found else "Nothing was found."
    typer.echo(f"{report.verified:,} of {report.scopes:,} scopes opened to the end. {what}")


def _print_findings(report: VerificationReport) -> None:
    found = [(check.name, one) for check in report.checks for one in check.findings]
    if not found:
        return
    shown = table("check", "finding", "scope", "where")
    for name, one in found:
        shown.add_row(cell(name), cell(one.problem), cell(one.scope), cell(one.place))
    print_table(shown)


def _print_coverage(report: VerificationReport) -> None:
    if report.locked:
        typer.echo(f"{report.locked:,} scopes are locked: rows and counts checked, contents not.")
    if report.ended:
        typer.echo(f"{report.ended:,} scopes were erased meanwhile, or are being erased.")
    if report.coverage is not None:
        of = report.coverage
        typer.echo(
            f"A sample of {of.sampled:,} of {of.population:,} scopes: where nothing was found, at "
            f"most {of.at_most:,} of them are damaged, at {of.confidence:.0%} confidence."
        )
