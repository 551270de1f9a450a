"""Archives of exports for tests: compared line by line, changed, and made to fit again."""

import hashlib
import json
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from langmem_isolated.lifecycle.export.export import FILES

Line = dict[str, Any]


def lines(folder: Path, kind: str) -> list[Line]:
    """The lines of a file."""
    text = (folder / "data" / f"{kind}.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def everything(folder: Path) -> dict[str, list[str]]:
    """All lines of all files; in which order sessions follow is their keys' affair."""
    return {kind: sorted(map(json.dumps, lines(folder, kind))) for kind in FILES}


def in_order(folder: Path, kind: str, name: str) -> dict[tuple[str, str], list[Line]]:
    """The lines of a file in their order, by module and by what they stand below."""
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines(folder, kind):
        found.setdefault((line["module"], line[name]), []).append(line)
    return found


def edited(folder: Path, kind: str, edit: Callable[[list[Line]], Any]) -> None:
    """Change the lines of a file, and all that stands for them."""
    there = lines(folder, kind)
    edit(there)
    path = folder / "data" / f"{kind}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in there))
    about = folder / "data" / "about.json"
    told = json.loads(about.read_text())
    told["counts"][f"{kind}.jsonl"] = len(there)
    about.write_text(json.dumps(told))
    sealed(folder)


def sealed(folder: Path) -> None:
    """Make the manifests and sizes of an archive fit to its files."""
    payload = sorted((folder / "data").iterdir())
    size = sum(path.stat().st_size for path in payload)
    (folder / "bag-info.txt").write_text(
        f"Bagging-Date: 2026-01-01\nPayload-Oxum: {size}.{len(payload)}\n"
        "Langmem-Isolated-Export-Format: 1\n"
    )
    _manifest(folder, "manifest-sha256.txt", payload)
    tags = [folder / name for name in ("bag-info.txt", "bagit.txt", "manifest-sha256.txt")]
    _manifest(folder, "tagmanifest-sha256.txt", tags)


def _manifest(folder: Path, name: str, paths: list[Path]) -> None:
    told = (f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}" for p in paths)
    (folder / name).write_text("".join(f"{line}\n" for line in told))


def zipped(folder: Path, output: Path, *more: tuple[str, bytes]) -> Path:
    """A zip file of a folder, with further members under any names."""
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, f"{folder.name}/{path.relative_to(folder).as_posix()}")
        for name, content in more:
            with warnings.catch_warnings():
                # One of a name that is there already.
                warnings.simplefilter("ignore", UserWarning)
                archive.writestr(name, content)
    return output
