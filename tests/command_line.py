"""Runs the command line in this process, with an environment of its own."""

import base64
import re

from typer.testing import CliRunner, Result

from langmem_isolated.cli import app

KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(32)).decode()

_OURS = ("ROOT_KEY", "ROOT_KEY_FILE", "DATABASE", "KEY_STORE", "ERASURE_LOG", "ACTOR")


def run(
    *arguments: object, key: str | None = KEY, stdin: str | None = None, **environment: str
) -> Result:
    """What `langmem-isolated` prints, 120 columns wide, and its exit code."""
    ours = {f"LANGMEM_ISOLATED_{name}": None for name in _OURS}
    return CliRunner().invoke(
        app,
        [str(argument) for argument in arguments],
        input=stdin,
        env={**ours, "COLUMNS": "120", "LANGMEM_ISOLATED_ROOT_KEY": key, **environment},
    )


def words(text: str) -> str:
    """The text without the line breaks and rules of tables."""
    return re.sub(r"[\s─]+", " ", text)


def error_line(result: Result) -> str:
    """The one line that a refused command prints."""
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.splitlines()
    return line
