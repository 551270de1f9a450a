"""Rejects of an import: what could not be put in, with its place and the reason, line by line."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, Literal, Self

from langmem_isolated.importers.receipts import open_private
from langmem_isolated.lifecycle import Rejected

RejectState = Literal["rejected", "unmapped", "erased", "locked", "taken"]
"""``"rejected"``: it cannot be stored, or is broken; ``"unmapped"``: no rule maps it;
``"erased"``: its user was erased here; ``"locked"``: its user alone has the keys; ``"taken"``:
something else stands under its name."""


class Rejects:
    """A file of JSON lines, ``{"state", "place", "reason"}``; there is none until the first.

    Args:
        path: Where; what a former run of the same import wrote there is gone. Its owner alone may
            read it (mode 0600): places name sessions, where a source knows them by nothing else.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: Any = None
        self.counts: Counter[str] = Counter()
        path.unlink(missing_ok=True)

    def add(self, state: RejectState, rejected: Rejected) -> None:
        """Keep one."""
        if self._file is None:
            self._file = open_private(self._path, "w")
        self.counts[state] += 1
        line = {"state": state, "place": rejected.place, "reason": rejected.reason}
        self._file.write(f"{json.dumps(line)}\n")

    @property
    def file(self) -> str | None:
        """Where they are, if there are any."""
        return str(self._path) if self.counts else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
