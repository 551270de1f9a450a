"""Command-line application: gathers the commands, shows errors as one line."""

import os
import sys
from contextlib import suppress
from errno import EPIPE
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from langmem_isolated import __version__
from langmem_isolated._runtime.environment import ACTOR_VARIABLE
from langmem_isolated.cli import (
    demo,
    grants,
    locks,
    merges,
    profile,
    retention,
    rls,
    schema,
    sealing_keys,
)
from langmem_isolated.cli import sessions as session
from langmem_isolated.cli import threads as thread
from langmem_isolated.cli.adoption import adopt
from langmem_isolated.cli.audit import anchor, audit
from langmem_isolated.cli.backup import backup
from langmem_isolated.cli.clearing import clear
from langmem_isolated.cli.doctor import doctor
from langmem_isolated.cli.erasure import erase
from langmem_isolated.cli.evidence import evidence
from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.export import export
from langmem_isolated.cli.importing import commands as importing
from langmem_isolated.cli.importing import rollback
from langmem_isolated.cli.keys import keygen
from langmem_isolated.cli.modules import modules
from langmem_isolated.cli.moving import move, move_keys
from langmem_isolated.cli.reasons import act_as
from langmem_isolated.cli.restore import restore
from langmem_isolated.cli.root_key import rotate_root_key
from langmem_isolated.cli.serve import serve
from langmem_isolated.cli.sessions import sessions, show
from langmem_isolated.cli.stats import digest, stats
from langmem_isolated.cli.sweeping import sweep
from langmem_isolated.cli.terminal import one_line
from langmem_isolated.cli.threads import threads
from langmem_isolated.cli.verification import verify
from langmem_isolated.errors import LangmemIsolatedError


class _OneLineErrors(TyperGroup):
    """Shows errors of ours, and of the system, as one line; a traceback could hold content."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LangmemIsolatedError as error:
            _tell(str(error))
            raise typer.Exit(1) from None
        except OSError as error:
            if error.errno == EPIPE:
                # Who read the output has what they wanted; typer ends without a word.
                raise
            _tell(f"The system refused: {error.strerror or type(error).__name__}.")
            raise typer.Exit(1) from None


def _tell(error: str) -> None:
    typer.echo(f"langmem-isolated: {one_line(error)}", err=True)


app = typer.Typer(
    cls=_OneLineErrors,
    help="Memory for LangChain and LangGraph that cannot leak between users.",
    epilog=(
        f"{shown('demo', '--version')}\n\n"
        "The status is 0 when all is done, 1 when something is refused or does not hold, 2 "
        "when a command is not written as --help says, and 3 when a sweep, a rotation of keys or "
        "a rollback has more to do, an upgrade of the tables is pending, or an import has put in "
        "all but what it tells as rejects."
    ),
    no_args_is_help=True,
    add_completion=False,
    # Its tracebacks show local variables, and those hold messages and keys.
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
)
for command, examples in (
    (keygen, ("keygen", "keygen --file root.key")),
    (demo.demo, ("demo", "demo --conversations exported.jsonl")),
    (modules, ("modules --user ann",)),
    (
        sessions,
        (
            "sessions --user ann --module tutor",
            "sessions --user ann --module tutor --limit 5 --json",
            "sessions --user ann --module tutor --search fractions --archived",
        ),
    ),
    (
        show,
        (
            "show monday --user ann --module tutor",
            "show monday --user ann --module tutor --last 20 --json",
        ),
    ),
    (threads, ("threads --user ann --module tutor --json",)),
    (stats, ("stats", "stats --project shop --days 7", "stats --user ann --module tutor --json")),
    (digest, ("digest --user ann --module tutor",)),
    (
        sweep,
        (
            "sweep --dry-run",
            "sweep --max-seconds 60 --json",
            "sweep --every 3600 --max-seconds 300",
        ),
    ),
    (clear, ("clear --user ann --module tutor", "clear --user ann --yes --json")),
    (
        erase,
        (
            "erase --user ann",
            "erase --module tutor",
            "erase --resume",
            "erase --receipts --user ann",
        ),
    ),
    (rotate_root_key, ("rotate-root-key --new-key-file new.key",)),
    (
        verify,
        (
            "verify",
            "verify --user ann --read-only",
            "verify --sample 300 --json",
            "verify --evidence report.json",
        ),
    ),
    (backup, ("backup monday.db", "backup monday.db --key-store-output keys.db --json")),
    (
        restore,
        (
            "restore monday.db --erasure-log erasures.jsonl",
            "restore --database postgresql://service@host/memory --erasure-log erasures.jsonl",
        ),
    ),
    (
        adopt,
        (
            "adopt chroma ./chroma --collection notes --user-column owner --module tutor --dry-run",
            "adopt qdrant http://localhost:6333 --collection notes --mapping owners.toml",
            "adopt chroma ./chroma --collection notes --roll-back",
        ),
    ),
    (rollback, ("rollback import-0123456789ab.json", "rollback receipt.json --yes --json")),
    (
        move,
        (
            "move --to postgresql://service@host/memory",
            "move --to sqlite:///new.db --copy-only",
            "move --to sqlite:///new.db --to-key-store sqlite:///keys.db --new-key-file new.key",
        ),
    ),
    (
        export,
        (
            "export --user ann --output ann.zip",
            "export --user ann --module tutor --output ann-tutor --json",
        ),
    ),
    (doctor, ("doctor", "doctor --database postgresql://service@host/memory --json")),
    (serve, ("serve", "serve --port 9000", "serve --host 0.0.0.0 --token-file /run/secrets/token")),
):
    app.command(epilog=shown(*examples))(command)
app.add_typer(importing, name="import")
_MOVE_KEYS = ("keys move --to sqlite:///keys.db", "keys move --to postgresql://keys@host/keys")
sealing_keys.commands.command("move", epilog=shown(*_MOVE_KEYS))(move_keys)
app.add_typer(evidence, name="evidence")
app.add_typer(audit, name="audit")
app.add_typer(anchor, name="anchor")
app.add_typer(grants.commands, name="grants")
app.add_typer(sealing_keys.commands, name="keys")
app.add_typer(locks.commands, name="lock")
app.add_typer(merges.commands, name="merge")
app.add_typer(profile.commands, name="profile")
app.add_typer(session.commands, name="session")
app.add_typer(thread.commands, name="thread")
app.add_typer(schema.commands, name="schema")
app.add_typer(rls.commands, name="rls")
app.add_typer(retention.retention, name="retention")
app.add_typer(retention.hold, name="hold")


def _print_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(f"langmem-isolated {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    actor: Annotated[
        str | None,
        typer.Option(
            "--actor",
            envvar=ACTOR_VARIABLE,
            help="Who runs the command, for the audit log; by default the system's user.",
        ),
    ] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Why, for the audit log, whatever the command.")
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Memory for LangChain and LangGraph that cannot leak between users."""
    del version  # it was printed
    act_as(context, actor, reason)


def main() -> None:
    """Run the command line."""
    if sys.stdout is None:
        # It was closed: what a command did is done all the same.
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):
            # A terminal that cannot show a character must not end the command.
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app()
