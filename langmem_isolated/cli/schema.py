"""`schema upgrade`, `schema roles`: migrates the tables, and says who may do what with them."""

from contextlib import closing
from typing import Annotated

import typer

from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    JsonOption,
    KeyStoreOption,
)
from langmem_isolated.cli.terminal import print_json

commands = typer.Typer(
    help="The tables and their version.", no_args_is_help=True, epilog=shown("schema upgrade")
)


@commands.command(
    "upgrade",
    epilog=shown("schema upgrade --database postgresql://owner@host/memory"),
)
def upgrade(
    *,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
) -> None:
    """Make the tables, or bring them to the version of this package. Needs no root key."""
    from langmem_isolated._database.database import Database

    found = []
    for name, url in (("database", database), ("key store", key_store)):
        if url:
            with closing(Database(url)) as opened:
                before, after = opened.upgrade()
            found.append({"name": name, "before": before, "version": after})
    if as_json:
        print_json(found)
        return
    for one in found:
        is_new = one["before"] != one["version"]
        done = f"upgraded from {one['before']}" if is_new else "nothing to do"
        typer.echo(f"{one['name']}: schema version {one['version']}, {done}")


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
