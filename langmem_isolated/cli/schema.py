"""`schema upgrade`: migrates the tables."""

from contextlib import closing

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
