"""Run the notebooks that are named, or all of them, and store what they print.

Without the times of the run, which would change every cell with every run::

    python notebooks/store_outputs.py 03_retrieval
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent


def store_outputs(path: Path) -> None:
    """Run a notebook from its first cell to its last; an error stores nothing."""
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.metadata.clear()
    place = {"metadata": {"path": str(FOLDER)}}
    NotebookClient(notebook, record_timing=False, resources=place).execute()
    notebook.metadata.pop("language_info", None)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in FOLDER.glob("*.ipynb")):
        store_outputs(FOLDER / f"{name}.ipynb")
