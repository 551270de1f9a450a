"""Folders of pages that are made at each build, and are not in the repository."""

from pathlib import Path


def write_made(folder: Path, pages: dict[str, str]) -> None:
    """Write what is new, remove what is no more; the rest Sphinx need not read again."""
    folder.mkdir(exist_ok=True)
    for old in set(folder.iterdir()) - {folder / name for name in pages}:
        old.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
