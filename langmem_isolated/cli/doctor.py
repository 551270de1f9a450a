"""`doctor`: checks an installation."""

from typing import TYPE_CHECKING

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
    ReplicaOption,
)
from langmem_isolated.cli.terminal import cell, one_line, print_json, print_table, table

if TYPE_CHECKING:
    from langmem_isolated.cli.checks import Finding

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(
    *,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
    read_replica: ReplicaOption = None,
) -> None:
    """Check root key, schema, settings and role; the status is 1 if something fails.

    Makes and upgrades nothing.
    """
    from langmem_isolated.cli.checks import examine

    findings = list(examine(database, key_store, read_replica))
    if as_json:
        print_json([finding._asdict() for finding in findings])
    else:
        _print_findings(findings)
    if any(state == "fail" for _, state, _ in findings):
        raise typer.Exit(1)


def _print_findings(findings: "list[Finding]") -> None:
    shown = table("check", "state", "finding")
    for check, state, finding in findings:
        shown.add_row(check, cell(state, _STYLES[state]), cell(one_line(finding)))
    print_table(shown)
