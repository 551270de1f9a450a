"""What an application logs and prints while it is tested: seen by whoever reads the log."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any, TextIO

from langmem_isolated.testing.sightings import LOG, Watch, current_run
from langmem_isolated.testing.visible import texts_in


@contextmanager
def watched_logs(watch: Watch, level: int) -> Iterator[None]:
    """Look through each log record of ``level`` or above, and through what is printed, inside."""
    before, root = logging.getLogRecordFactory(), logging.getLogger()
    level_before = root.level

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = before(*args, **kwargs)
        if made.levelno >= level:
            _look_at_record(watch, made)
        return made

    # Where records are made, not where they are handled: not every logger passes its records on.
    logging.setLogRecordFactory(record)
    root.setLevel(min(level, level_before) or level)
    try:
        with (
            redirect_stdout(_Watched(sys.stdout, watch, "standard output")),
            redirect_stderr(_Watched(sys.stderr, watch, "standard error")),
        ):
            yield
    finally:
        root.setLevel(level_before)
        logging.setLogRecordFactory(before)


def _look_at_record(watch: Watch, record: logging.LogRecord) -> None:
    where = f"a log record of {record.name}, level {record.levelname}"
    error = record.exc_info[1] if record.exc_info else None
    for _, text in texts_in([_formatted(record), error]):
        watch.look(LOG, where, text, current_run())


def _formatted(record: logging.LogRecord) -> object:
    """The message; its parts where they do not fit, which logging tells in its own way."""
    try:
        return record.getMessage()
    except Exception:  # noqa: BLE001 - a log must not fail the application
        return [str(record.msg), record.args]


class _Watched(io.TextIOBase):
    """A stream that passes on what is printed, and looks through it."""

    def __init__(self, stream: TextIO, watch: Watch, name: str) -> None:
        self._stream, self._watch, self._name = stream, watch, name

    def write(self, text: str) -> int:
        self._watch.look(LOG, self._name, text, current_run())
        return self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()
