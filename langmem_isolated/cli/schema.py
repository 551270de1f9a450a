"""`schema upgrade`: migrates the tables."""

from contextlib import closing

import typer

from langmem_isolated.cli.options import DEFAULT_DATABASE, DatabaseOption, KeyStoreOption

commands = typer.Typer(help="The tables and their version.", no_args_is_help=True)


@commands.command("upgrade")
def upgrade(database: DatabaseOption = DEFAULT_DATABASE, key_store: KeyStoreOption = None) -> None:
    """Make the tables, or bring them to the version of this package. Needs no root key."""
    from langmem_isolated._database.database import Database

    for name, url in (("database", database), ("key store", key_store)):
        if url:
            with closing(Database(url)) as opened:
                before, after = opened.upgrade()
            done = f"upgraded from {before}" if before < after else "nothing to do"
            typer.echo(f"{name}: schema version {after}, {done}")
