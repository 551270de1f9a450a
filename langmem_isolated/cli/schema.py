"""`schema`: the tables, their version, and who may do what with them."""

from typing import Annotated

import typer

from langmem_isolated.cli import upgrades
from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.options import JsonOption
from langmem_isolated.cli.terminal import print_json

commands = typer.Typer(
    help="The tables and their version.", no_args_is_help=True, epilog=shown("schema upgrade")
)


commands.command(
    "upgrade",
    epilog=shown(
        "schema upgrade --database postgresql://owner@host/memory --backed-up",
        "schema upgrade --dry-run",
        "schema upgrade --backup before.db --yes",
    ),
)(upgrades.upgrade)
commands.command("status", epilog=shown("schema status", "schema status --json"))(upgrades.status)


def _role(flag: str, what: str) -> object:
    return typer.Option(flag, help=f"The role that {what}.")


@commands.command("roles", epilog=shown("schema roles --application chatbot"))
def roles(
    *,
    owner: Annotated[str, _role("--owner", "owns the tables")] = "langmem_owner",
    application: Annotated[
        str, _role("--application", "serves, one scope at a time")
    ] = "langmem_app",
    sweeper: Annotated[str, _role("--sweeper", "runs jobs over all scopes")] = "langmem_sweeper",
    backup: Annotated[str, _role("--backup", "reads all for pg_dump")] = "langmem_backup",
    as_json: JsonOption = False,
) -> None:
    """Print the SQL of PostgreSQL roles with no more rights than each needs; runs nothing."""
    from langmem_isolated._database.roles import Roles

    script = Roles(owner, application, sweeper, backup).script()
    if as_json:
        print_json({"sql": script})
    else:
        typer.echo(script, nl=False)


@commands.command("citus", epilog=shown("schema citus", "schema citus --timeout 10"))
def citus(
    *,
    timeout: Annotated[
        float,
        typer.Option("--timeout", min=0.001, help="Seconds that a statement waits for a lock."),
    ] = 30.0,
    as_json: JsonOption = False,
) -> None:
    """Print the SQL that spreads the tables over a Citus cluster by scope; runs nothing."""
    from langmem_isolated._database.distribution import script

    if as_json:
        print_json({"sql": script(timeout)})
    else:
        typer.echo(script(timeout), nl=False)
