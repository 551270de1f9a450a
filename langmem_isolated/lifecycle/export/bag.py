"""Bag: the archive that holds all, in the layout of BagIt (RFC 8493)."""

from __future__ import annotations

import json
from datetime import UTC, datetime

from langmem_isolated.lifecycle.export.archive import Archive
from langmem_isolated.lifecycle.export.lines import Line

FORMAT = 1
_DECLARATION = "BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"


class Bag(Archive):
    """A file of lines for each kind below ``data``, and the SHA-256 of every file."""

    def _describe(self, about: Line) -> None:
        about = {"format": FORMAT, **about}
        self._write("data/about.json", json.dumps(about, indent=2) + "\n")
        self._write("bagit.txt", _DECLARATION)
        payload = sorted((self._folder / "data").iterdir())
        size = sum(path.stat().st_size for path in payload)
        self._write(
            "bag-info.txt",
            f"Bagging-Date: {datetime.now(UTC):%Y-%m-%d}\nPayload-Oxum: {size}.{len(payload)}\n"
            f"Langmem-Isolated-Export-Format: {FORMAT}\n",
        )
        self._write("manifest-sha256.txt", self._manifest(payload))
        tags = sorted(path for path in self._folder.iterdir() if path.is_file())
        self._write("tagmanifest-sha256.txt", self._manifest(tags))
