"""Notebooks as they are stored: run from top to bottom, without errors, readable by everybody.

That they run is tested by nbmake: `nox -s notebooks`.
"""

import ast
import base64
import io
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageColor

PROJECT = Path(__file__).parent.parent
NOTEBOOKS = {
    path.stem: json.loads(path.read_text()) for path in (PROJECT / "notebooks").glob("*.ipynb")
}
# Okabe and Ito's colours for people who see red and green alike.
OKABE_ITO = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7")
PRINTING = {"print", "pretty_print", "show"}
# Of a machine: folders of its own, kernels and packages as tracebacks and warnings name them.
MACHINE = re.compile(
    r"(?<![\w.])/(?:tmp|home|root|Users|opt|work|var|private|usr)/|site-packages|ipykernel_\d"
    r"|[A-Z]:\\"
)
PALETTE = np.array([[int(one[n : n + 2], 16) for n in (1, 3, 5)] for one in OKABE_ITO])
every_notebook = pytest.mark.parametrize("name", sorted(NOTEBOOKS))


def code_cells(name: str) -> list[dict[str, Any]]:
    return [cell for cell in NOTEBOOKS[name]["cells"] if cell["cell_type"] == "code"]


def texts_of(output: dict[str, Any]) -> Iterator[str]:
    """All that an output says; images apart."""
    for one in (output.get("text", ""), *output.get("traceback", [])):
        yield "".join(one)
    for kind, data in output.get("data", {}).items():
        if kind.startswith("text/"):
            yield "".join(data)


def images_of(name: str) -> Iterator[np.ndarray]:
    """The charts, as red, green and blue."""
    for cell in code_cells(name):
        for output in cell["outputs"]:
            if "image/png" in output.get("data", {}):
                image = Image.open(io.BytesIO(base64.b64decode(output["data"]["image/png"])))
                yield np.asarray(image.convert("RGB")).astype(int)


def title_of(page: Path) -> str:
    """The title of a page of the documentation."""
    return page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def prints(source: str) -> bool:
    """Whether a cell says something, as far as can be seen without running it."""
    lines = [line for line in source.splitlines() if not line.startswith("%")]
    body = ast.parse("\n".join(lines)).body
    told = [node for node in body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in (inner for outer in told for inner in ast.walk(outer)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in PRINTING:
                return True
    # The value of the last line is shown, unless it is `None`, as of many calls.
    last = body[-1] if body else None
    return isinstance(last, ast.Expr) and not isinstance(last.value, ast.Call | ast.Await)


def distance_of(colour: np.ndarray) -> float:
    """From the palette, and from what its colours are with black or white in them.

    So are the edges of lines, letters and hatches.
    """
    from_end = [(PALETTE - end, colour - end) for end in (0, 255)]
    ways = [
        np.abs(found - np.clip((way @ found) / (way**2).sum(axis=1), 0, 1)[:, None] * way)
        for way, found in from_end
    ]
    return float(min(way.sum(axis=1).min() for way in ways))


def strange_colours(image: np.ndarray) -> dict[tuple[int, ...], float]:
    """Colours beside greys and the palette, and how much of the image each covers.

    What covers less than 1 in 500 is where two colours meet, and nobody's choice.
    """
    pixels = image.reshape(-1, 3)
    coloured = pixels[pixels.max(axis=1) - pixels.min(axis=1) > 30]
    found, counts = np.unique(coloured, axis=0, return_counts=True)
    often = counts > len(pixels) / 500
    return {
        tuple(colour.tolist()): count / len(pixels)
        for colour, count in zip(found[often], counts[often].tolist(), strict=True)
        if distance_of(colour) > 12
    }


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 8


@every_notebook
def test_every_cell_was_run_once_in_order(name: str):
    counts = [cell["execution_count"] for cell in code_cells(name)]

    assert counts == list(range(1, len(counts) + 1))


@every_notebook
def test_every_cell_that_prints_has_its_output(name: str):
    silent = [
        cell["execution_count"]
        for cell in code_cells(name)
        if prints("".join(cell["source"])) and not cell["outputs"]
    ]

    assert silent == []


@every_notebook
def test_no_output_is_an_error_or_names_a_machine_or_a_folder_of_it(name: str):
    outputs = [output for cell in code_cells(name) for output in cell["outputs"]]
    texts = [text for output in outputs for text in texts_of(output)]
    machine = [found[0] for text in texts if (found := MACHINE.search(text))]

    assert [output["output_type"] for output in outputs if output["output_type"] == "error"] == []
    assert [output["name"] for output in outputs if output.get("name") == "stderr"] == []
    assert machine == []
    here = (str(Path.home()), str(PROJECT), socket.gethostname())
    assert [text for text in texts if any(name in text for name in here)] == []


@every_notebook
def test_no_cell_keeps_when_it_was_run(name: str):
    # Every run would change every cell: `notebooks/store_outputs.py` leaves it out.
    assert [cell["metadata"] for cell in NOTEBOOKS[name]["cells"] if cell["metadata"]] == []


@every_notebook
def test_charts_are_in_colours_that_everybody_tells_apart(name: str):
    images = list(images_of(name))
    shown = "".join("".join(cell["source"]) for cell in code_cells(name)).count("plt.show()")

    assert len(images) >= shown
    assert [strange_colours(image) for image in images if strange_colours(image)] == []


@every_notebook
def test_a_notebook_leads_to_pages_of_the_documentation_by_their_titles(name: str):
    told = "".join("".join(cell["source"]) for cell in NOTEBOOKS[name]["cells"])
    pages = re.findall(r"\[([^\]]+)\]\(\.\./(docs/[\w./-]+\.md)\)", told)

    assert "\n\nIn the documentation: [" in told
    assert pages
    assert [title for title, path in pages if title != title_of(PROJECT / path)] == []
    assert len(pages) == told.count("](")


@pytest.mark.parametrize("colour", ["red", "lime", "purple", "#2ca02c", "#d62728", "#1f77b4"])
def test_another_colour_in_a_chart_is_noticed(colour: str):
    image = np.full((100, 100, 3), 255)
    image[:10] = ImageColor.getrgb(colour)
    image[20:30] = PALETTE[0]

    assert list(strange_colours(image).values()) == [0.1]


@pytest.mark.parametrize(
    "text", ["/tmp/x", "in /home/ann/x.py", "/tmp/ipykernel_12/1.py:3", "C:\\Users\\ann"]
)
def test_a_path_of_a_machine_is_noticed(text: str):
    assert MACHINE.search(text)
    assert not MACHINE.search("a/tmp/b, docs/usr/x and https://example.org/opt/x")
