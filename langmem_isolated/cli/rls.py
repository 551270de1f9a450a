"""`rls enable`, `rls disable`, `rls status`: PostgreSQL's row-level security."""

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.options import DEFAULT_DATABASE, DatabaseOption, JsonOption
from langmem_isolated.cli.terminal import cell, print_json, print_table, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from langmem_isolated._database.database import Database
    from langmem_isolated._database.row_level_security import RowLevelSecurity

commands = typer.Typer(
    help="Row-level security: PostgreSQL itself refuses rows of other scopes.",
    no_args_is_help=True,
    epilog=shown("rls status"),
)
_OWNER = "--database postgresql://owner@host/memory"


@commands.command("enable", epilog=shown(f"rls enable {_OWNER}"))
def enable(
    *,
    jobs_role: Annotated[
        str | None,
        typer.Option(
            "--jobs-role",
            help="The role that sees everybody's rows, for sweeps and the like; by default "
            "langmem_sweeper, if it is there.",
        ),
    ] = None,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
) -> None:
    """Enable and force it on every table, as the owner of the tables. Needs no root key.

    What runs meanwhile is refused until it is opened again.
    """
    from langmem_isolated._database import row_level_security

    _tell(database, as_json, lambda opened: row_level_security.enable(opened, jobs_role=jobs_role))


@commands.command("disable", epilog=shown(f"rls disable {_OWNER}"))
def disable(*, as_json: JsonOption = False, database: DatabaseOption = DEFAULT_DATABASE) -> None:
    """Remove it from every table, as the owner of the tables. Needs no root key."""
    from langmem_isolated._database import row_level_security

    _tell(database, as_json, row_level_security.disable)


@commands.command("status", epilog=shown("rls status --json"))
def status(*, as_json: JsonOption = False, database: DatabaseOption = DEFAULT_DATABASE) -> None:
    """How it stands, for the role of the URL; the status is 1 where it should be in force."""
    from langmem_isolated._database import row_level_security

    found = _tell(database, as_json, row_level_security.status)
    if found.fault is not None:
        raise typer.Exit(1)


def _tell(
    url: str, as_json: bool, work: "Callable[[Database], RowLevelSecurity]"
) -> "RowLevelSecurity":
    from langmem_isolated._database.database import Database

    with closing(Database(url, auto_upgrade=False)) as opened:
        found = work(opened)
    if as_json:
        print_json({**asdict(found), "is_in_force": found.is_in_force, "fault": found.fault})
    else:
        _print(found)
    return found


def _print(found: "RowLevelSecurity") -> None:
    shown_table = table("what", "how it stands")
    for what, told in (
        ("enabled", _yes(found.is_enabled)),
        ("forced on every table", _yes(found.is_forced)),
        ("tables without", ", ".join(found.tables_without) or "none"),
        ("tables with others' policies", ", ".join(found.tables_opened) or "none"),
        ("roles of jobs", ", ".join(found.jobs_roles) or "none"),
        ("this role", found.role),
        ("in force for this role", _yes(found.is_in_force)),
        ("what is wrong", found.fault or "nothing"),
    ):
        shown_table.add_row(what, cell(told))
    print_table(shown_table)


def _yes(is_so: bool) -> str:
    return "yes" if is_so else "no"
