"""`doctor`: checks an installation."""

import typer

from langmem_isolated.cli.options import DEFAULT_DATABASE, DatabaseOption, KeyStoreOption
from langmem_isolated.cli.terminal import cell, one_line, print_table, table

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def doctor(database: DatabaseOption = DEFAULT_DATABASE, key_store: KeyStoreOption = None) -> None:
    """Check root key, schema, settings and role; the status is 1 if something fails.

    Makes and upgrades nothing.
    """
    from langmem_isolated.cli.checks import examine

    findings = list(examine(database, key_store))
    shown = table("check", "state", "finding")
    for check, state, finding in findings:
        shown.add_row(check, cell(state, _STYLES[state]), cell(one_line(finding)))
    print_table(shown)
    if any(state == "fail" for _, state, _ in findings):
        raise typer.Exit(1)
