"""Mem bundle: the archive in the portable `.mem` format (1.1), which other programs import."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from langmem_isolated.lifecycle.export.archive import Archive, sha256_of
from langmem_isolated.lifecycle.export.lines import Line
from langmem_isolated.lifecycle.export.portable import KINDS, Portable, canonical, second

FORMAT = "1.1.0"
_SPECIFICATION = "https://github.com/MacPaw/portable-memory/blob/main/Spec/portable-memory-spec.md"


class MemBundle(Archive):
    """A file of records for each kind below ``items``; what the format has no place for is counted.

    Args:
        output: As for :class:`Archive`.
        whose: Whose records.
    """

    lines_in = "items"

    def __init__(self, output: Path, whose: Portable) -> None:
        super().__init__(output, KINDS)
        self._whose = whose

    def add(self, kind: str, line: Line, within: Line | None = None) -> None:
        """Write the records that a line is, or count it as left out."""
        is_untrusted = within is not None and within["untrusted"]
        records = self._whose.of(kind, {**line, "untrusted": True} if is_untrusted else line)
        if records is None:
            self.left_out[kind] += 1
            return
        for name, record in records:
            self._write_line(name, canonical(record))

    def _describe(self, about: Line) -> None:
        files = [*self._described_files()]
        checksums = "".join(f"{one['sha256']}  {one['path']}\n" for one in files)
        self._write("CHECKSUMS", checksums)
        manifest = {
            "format": FORMAT,
            "specURL": _SPECIFICATION,
            "generator": f"langmem-isolated/{version('langmem-isolated')}",
            # To write what others read, without a trail of changes.
            "conformanceLevel": "L0",
            "createdAt": second(about["exported_at"]),
            "exportMode": "full",
            "schemaVersion": 1,
            "embeddingModel": "",
            "embeddingDim": 0,
            "embeddingsIncluded": False,
            "capabilities": ["ext"],
            "counts": {kind: count for kind, count in self.counts.items() if count},
            "files": files,
            "coverage": self._coverage(),
            "scopes": sorted(one["id"] for one in self._records("context")) or None,
            "bundleDigest": hashlib.sha256(checksums.encode()).hexdigest(),
            "langmemIsolated": {
                **{name: about[name] for name in ("project", "user", "modules", "only_module")},
                "leftOut": dict(self.left_out),
                "stores": about["stores"],
            },
        }
        self._write("manifest.json", canonical(manifest).decode() + "\n")

    def _described_files(self) -> Iterator[dict[str, Any]]:
        """Path, SHA-256 and size of each file of records; those that have none go."""
        for path in sorted((self._folder / "items").iterdir()):
            if size := path.stat().st_size:
                yield {"path": f"items/{path.name}", "sha256": sha256_of(path), "bytes": size}
            else:
                path.unlink()

    def _records(self, kind: str) -> Iterator[dict[str, Any]]:
        if self.counts[kind]:
            with (self._folder / "items" / f"{kind}.jsonl").open("rb") as file:
                yield from map(json.loads, file)

    def _coverage(self) -> dict[str, str] | None:
        """When the first and the last episode were."""
        first, last = "", ""
        for episode in self._records("episode"):
            moment = episode["eventTime"]
            first, last = min(first or moment, moment), max(last, moment)
        return {"from": first, "to": last} if first else None
