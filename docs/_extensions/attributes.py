"""What Sphinx would misread in docstrings: prose of attributes, defaults that are no Python."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

SECTIONS = ("Args:", "Raises:", "Returns:", "Yields:")
BEFORE_NAPOLEON, AFTER_NAPOLEON = 400, 600


# `<factory>` of a dataclass, `<object object at 0x7f…>`.
NO_PYTHON = re.compile(r"<[^<>]*>")


class _Prose:
    """Keeps a docstring of an attribute as it is: napoleon takes its first colon for a type's."""

    def __init__(self) -> None:
        self._kept: list[str] | None = None

    def keep(self, _: Sphinx, what: str, *more: Any) -> None:
        """Before napoleon."""
        lines: list[str] = more[-1]
        is_prose = not any(line.strip() in SECTIONS for line in lines)
        self._kept = [*lines] if what in ("attribute", "data", "property") and is_prose else None

    def put_back(self, _: Sphinx, *more: Any) -> None:
        """Behind napoleon."""
        if self._kept is not None:
            more[-1][:] = self._kept


def _readable(_: Sphinx, *more: Any) -> tuple[str, str | None] | None:
    """Defaults that have no literal are shown as `...`, and the rest of a signature is read."""
    signature, returns = more[-2:]
    return (NO_PYTHON.sub("...", signature), returns) if signature else None


def _with_dashes(_: Sphinx, document: nodes.document) -> None:
    """Between a parameter and its text; elsewhere two hyphens begin an option of a command."""
    for text in list(document.findall(nodes.Text)):
        if text == " -- ":
            text.parent.replace(text, nodes.Text(" – "))  # noqa: RUF001 - a dash is meant


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    prose = _Prose()
    app.connect("autodoc-process-docstring", prose.keep, priority=BEFORE_NAPOLEON)
    app.connect("autodoc-process-docstring", prose.put_back, priority=AFTER_NAPOLEON)
    app.connect("autodoc-process-signature", _readable)
    app.connect("doctree-read", _with_dashes)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
