"""`evidence`: keys that sign reports of verifications, and checks of such reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated._runtime.environment import EVIDENCE_KEY_VARIABLE
from langmem_isolated.cli.examples import shown
from langmem_isolated.cli.keys import write_new
from langmem_isolated.cli.options import JsonOption
from langmem_isolated.cli.terminal import cell, one_line, print_json, print_table, second, table

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import Evidence

evidence = typer.Typer(
    help="Signed reports of verifications.",
    no_args_is_help=True,
    epilog=shown("evidence keygen --file evidence.key"),
)
_MOST_BYTES = 1 << 26


@evidence.command(epilog=shown("evidence keygen --file evidence.key"))
def keygen(
    file: Annotated[
        Path, typer.Option("--file", help="Write the key to this new file, for you alone (0600).")
    ],
) -> None:
    """Make a key that signs evidence packs, and print the public key that verifies them.

    It is no root key and opens nothing. Whoever has it can sign any report; give the public key to
    those who will be shown reports, before and by another way.
    """
    from langmem_isolated.lifecycle import EvidenceKey

    text = EvidenceKey.generate_text()
    write_new(file, text)
    typer.echo(EvidenceKey.from_text(text).public_text)
    typer.echo(
        f"The secret key is in the file. Set {EVIDENCE_KEY_VARIABLE}_FILE to its path.", err=True
    )


@evidence.command(
    epilog=shown(
        "evidence check report.json --key lmi-evidence-public:…",
        "evidence check report.json --key lmi-evidence-public:… --stamp report.tsr --roots tsa.pem",
    )
)
def check(
    file: Annotated[Path, typer.Argument(help="The evidence pack.")],
    *,
    key: Annotated[str, typer.Option("--key", help="The public key, as you had it before.")],
    stamp: Annotated[
        Path | None, typer.Option("--stamp", help="A time stamp on it (RFC 3161, DER).")
    ] = None,
    roots: Annotated[
        list[Path] | None,
        typer.Option("--roots", help="Root certificates of time stamps that you trust, PEM."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Verify an evidence pack: who signed it, and that no byte of it was changed. No database.

    The status is 0 if it is what was signed, whatever it says was found.
    """
    from langmem_isolated.lifecycle import check_evidence

    stamped = None if stamp is None else _read(stamp)
    found = check_evidence(_read(file), key, stamp=stamped, roots=[*map(_read, roots or [])])
    if as_json:
        print_json({"stamped_at": found.stamped_at, "key": found.key, "pack": found.pack})
    else:
        _print_pack(found)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_MOST_BYTES)
    except OSError as error:
        # A mistyped path is no pack that somebody changed.
        raise typer.BadParameter(f"{path} cannot be read: {error.strerror}.") from None


def _print_pack(found: Evidence) -> None:
    report, speaks_to = found.pack["report"], found.pack["speaks_to"]
    listed = table("check", "state", "looked at", "found", "promises", "OWASP LLM", "GDPR")
    for one in report["checks"]:
        of = speaks_to[one["check"]]
        promises = ", ".join(str(promise["number"]) for promise in of["promises"])
        rules = ", ".join(of["owasp_llm_2025"]), ", ".join(of["gdpr"])
        cells = one["check"], one["state"], one["examined"], one["found"], promises, *rules
        listed.add_row(*map(cell, cells))
    print_table(listed)
    for one in found.pack["not_checked"]:
        typer.echo(one_line(f"Not checked: {one['what']}: {one['why']}."))
    what = f"{report['found']:,} findings" if report["found"] else "nothing was found"
    opened = f"{report['verified']:,} of {report['scopes']:,} scopes"
    typer.echo(f"It says: {opened} were opened to the end, and {what}.")
    if report["locked"]:
        typer.echo(f"{report['locked']:,} scopes were locked: their contents were not looked at.")
    typer.echo(one_line(f"Made at {found.made_at} by its own word, signed with {found.key}."))
    if found.stamped_at is not None:
        typer.echo(f"It was there at {second(found.stamped_at)} UTC, by the authority's word.")
    typer.echo(one_line(found.pack["statement"]))
