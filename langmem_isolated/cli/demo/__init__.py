"""Plays conversations of several users into one database and shows what each of them can see.

:mod:`.player` plays, :mod:`.conversations` reads files, :mod:`.attack` does what someone with the
database may do, :mod:`.sections`, :mod:`.agents` and :mod:`.retrieval` check and show.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def demo(
    database: Annotated[
        str | None,
        typer.Option("--database", help="URL of a database to use; else a temporary SQLite file."),
    ] = None,
    conversations: Annotated[
        Path | None,
        typer.Option(
            "--conversations",
            help="A file of conversations, read in any of these shapes. "
            'A conversation is {"messages": …}, a list of objects with role and content, as '
            "OpenAI's files have it, or that list alone. The file is JSON, one conversation or a "
            "list of them; or JSON lines with a conversation each. A conversation may have "
            "user_id, module_id and session_id. Or the file is a list or lines of messages that "
            "each have them, or what a product exported, as import reads it. Else those "
            "that come along.",
        ),
    ] = None,
) -> None:
    """Play conversations of several users into one database and show what each of them sees.

    Every claim is checked; the status is 1 if one does not hold. What the conversations cannot show
    is not claimed.
    """
    from langmem_isolated.cli.demo.player import run

    if not run(Console(), database, conversations):
        raise typer.Exit(1)
