"""`sweep`: removes what has expired, once for cron or at intervals as a service."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Annotated

import typer

from langmem_isolated.cli.options import (
    DEFAULT_DATABASE,
    DatabaseOption,
    ErasureLogOption,
    JsonOption,
    KeyStoreOption,
)
from langmem_isolated.cli.terminal import counting, print_counts, print_json

if TYPE_CHECKING:
    from langmem_isolated.lifecycle import Swept

# What `sweep` ends with when something that was due is left for the next one.
NOT_DONE = 3

# Put from a handler while the same thread waits: SimpleQueue allows that, threading.Event does not.
_Signals = SimpleQueue[int]


class _SignalledError(Exception):
    """Ends a sweep between two batches."""


def sweep(
    *,
    every: Annotated[
        float | None,
        typer.Option(
            "--every",
            min=1,
            help="Sweep again so many seconds after the last one, until SIGTERM or Ctrl-C.",
        ),
    ] = None,
    max_seconds: Annotated[
        float | None,
        typer.Option("--max-seconds", min=0, help="Begin nothing more after so many seconds."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Count what is due, and remove nothing.")
    ] = False,
    as_json: JsonOption = False,
    database: DatabaseOption = DEFAULT_DATABASE,
    key_store: KeyStoreOption = None,
    erasure_log: ErasureLogOption = None,
) -> None:
    """Remove what has expired, and what policies keep no longer. Needs the root key.

    The status is 0 when nothing more is due, and 3 when something is left for the next sweep. With
    --every it is 0 when a signal has ended it, and 1 when a sweep fails: have it started again.
    """
    from langmem_isolated.cli.databases import existing_memory

    with existing_memory(database, key_store, erasure_log=erasure_log) as memory:

        def once(is_ended: Callable[[], bool] = lambda: False) -> "Swept":
            with counting("removed") as shown:

                def progress(count: int) -> None:
                    if is_ended():
                        raise _SignalledError
                    shown(count)

                swept = memory.sweep(max_seconds, dry_run=dry_run, progress=progress)
            _print(swept, as_json=as_json)
            return swept

        if every is not None:
            _repeat(once, every)
        elif not once().is_done:
            raise typer.Exit(NOT_DONE)


def _repeat(once: "Callable[[Callable[[], bool]], Swept]", every: float) -> None:
    with _caught_signals() as signals:
        while signals.empty():
            try:
                once(lambda: not signals.empty())
                # A pipe is written in blocks; whoever reads the log waits for lines.
                sys.stdout.flush()
                signals.get(timeout=every)
            except Empty:
                continue
            except _SignalledError:
                pass
            return


@contextmanager
def _caught_signals() -> Iterator[_Signals]:
    """SIGTERM and Ctrl-C put themselves here, in place of ending the process."""
    caught = _Signals()
    ending = (signal.SIGINT, signal.SIGTERM)
    former = {one: signal.signal(one, lambda number, _: caught.put(number)) for one in ending}
    try:
        yield caught
    finally:
        for one, handler in former.items():
            signal.signal(one, handler)


def _print(swept: "Swept", *, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "counts": swept.counts,
                "is_done": swept.is_done,
                "held": swept.held,
                "damaged": swept.damaged,
                "is_dry_run": swept.is_dry_run,
                "locked": swept.locked,
            }
        )
        return
    print_counts(swept.counts, nothing="Nothing was due.")
    for count, why in (
        (swept.held, "users on legal hold keep what is due"),
        (swept.damaged, "records stay because they were tampered with"),
        (swept.locked, "users hold their own keys: something of theirs stays until they unlock"),
    ):
        if count:
            typer.echo(f"{count:,} {why}.")
    if not swept.is_done:
        typer.echo("More is due; the next sweep goes on.")
