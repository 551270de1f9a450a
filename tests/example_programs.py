"""Runs the examples' programs as people do: a process of their own, in a folder of its own."""

import os
import subprocess
import sys
from pathlib import Path

from langmem_isolated import LocalRootKey

PROJECT = Path(__file__).parent.parent
KEY = LocalRootKey.generate_text()


def run_example(name: str, *arguments: str, folder: Path, said: str = "", **more: str) -> str:
    """What `python -m examples.NAME` prints, with a root key in its environment."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("LANGMEM_")
    }
    done = subprocess.run(
        [sys.executable, "-m", f"examples.{name}", *arguments],
        check=False,
        cwd=folder,
        env=environment
        | {"PYTHONPATH": str(PROJECT), "PYTHONIOENCODING": "utf-8"}
        | {"LANGMEM_ISOLATED_ROOT_KEY": KEY}
        | more,
        input=said,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
