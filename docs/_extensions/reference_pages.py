"""Writes the pages of the reference that are made of the program: its modules, its commands."""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from made_files import write_made
from public_names import ROOT, PublicName, listed, public_modules, public_names
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from typer.cli import get_docs_for_click
from typer.core import TyperGroup
from typer.main import get_command

from langmem_isolated.cli import app as typer_app

PROGRAM = "langmem-isolated"
# The one special method that is more than it says: `scope.sessions()`.
CALLED = "__call__"


def _is_ours(base: type) -> bool:
    return base.__module__.startswith(ROOT)


def _stated_by(bases: Iterable[type]) -> set[str]:
    """Names of members, fields of models among them."""
    return {name for base in bases for name in {**vars(base), **inspect.get_annotations(base)}}


def _others_members(found: type) -> str:
    """Members of bases that are not ours, which are theirs to document; no class has them all."""
    ours = [base for base in found.__mro__ if _is_ours(base)]
    others = [base for base in found.__mro__ if not _is_ours(base)]
    names = _stated_by(others) - _stated_by(ours)
    return ", ".join(sorted(name for name in names if name == CALLED or not name.startswith("_")))


def _bases_of_root() -> set[type]:
    """What public classes of the root are made of, and whose members stand there."""
    classes = (one.found for one in public_names() if one.name.count(".") == 1)
    return {base for one in classes if isinstance(one, type) for base in one.__mro__[1:]}


def _about_value(one: PublicName) -> str:
    """What is said below a value where it is set, and for types what it stands for."""
    name = one.name.rpartition(".")[2]
    modules = [found for key, found in sorted(sys.modules.items()) if key.startswith(ROOT)]
    for module in modules:
        if name in {**vars(module), **getattr(module, "__annotations__", {})}:
            told = ModuleAnalyzer.for_module(module.__name__).find_attr_docs().get(("", name))
            if told:
                return " ".join(told).strip()
    raise ExtensionError(f"{one.name} has no docstring below it. Write one.")


def _directive(one: PublicName) -> str:
    """What has autodoc write about an object."""
    found = one.found
    if inspect.isclass(found):
        if found in _bases_of_root():
            return f".. autoclass:: {one.name}\n"
        members = "   :members:\n   :undoc-members:\n   :inherited-members:\n"
        members += f"   :special-members: {CALLED}\n"
        without = f"   :exclude-members: {_others_members(found)}\n"
        return f".. autoclass:: {one.name}\n{members}{without}"
    if inspect.isroutine(found):
        return f".. autofunction:: {one.name}\n"
    module, _, name = one.name.rpartition(".")
    return f".. py:data:: {name}\n   :module: {module}\n\n   {_about_value(one)}\n"


def _section(one: PublicName) -> str:
    title = one.name.rpartition(".")[2].replace("_", "\\_")
    return f"{title}\n{'-' * len(title)}\n\n{_directive(one)}"


def api_page(module: str) -> str:
    """The page of a public module: a table of its names, then each that has its home there."""
    names = listed(module)
    # Names of the page's own module go without it; values have no line of their own to show.
    objects = [one for one in names if callable(one.found)]
    shown = [f"~{one.name}".replace(f"~{module}.", "", 1) for one in objects]
    table = "".join(f"   {name}\n" for name in shown)
    here = "\n".join(_section(one) for one in names if one.page == module)
    return (
        f"{module}\n{'=' * len(module)}\n\n.. automodule:: {module}\n   :no-members:\n\n"
        f".. autosummary::\n   :nosignatures:\n\n{table}\n{here}"
    )


def _with_examples_as_code(text: str) -> str:
    """Typer's page has examples as paragraphs; here they are commands."""
    example = rf"(?:{PROGRAM} [^\n]*\n\n)+"

    def fenced(match: re.Match[str]) -> str:
        commands = match[1].replace("\n\n", "\n")
        return f"Examples:\n\n```sh\n{commands}```\n\n"

    # What begins a footnote in Markdown is a class of characters in a regular expression.
    text = text.replace("[^", "\\[^")
    return re.sub(rf"Examples:\n\n({example})", fenced, text)


def cli_pages() -> Iterator[tuple[str, str]]:
    """A page for each command, in the order of `--help`, as Typer writes it."""
    program = get_command(typer_app)
    context = program.make_context(PROGRAM, [], resilient_parsing=True)
    assert isinstance(program, TyperGroup)
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        assert command
        text = get_docs_for_click(obj=command, ctx=context, call_prefix=PROGRAM)
        yield name, _with_examples_as_code(text)


def _write_pages(app: Sphinx) -> None:
    """Both folders of pages that are made, and are not in the repository."""
    reference = Path(app.srcdir) / "reference"
    write_made(reference / "api", {f"{name}.rst": api_page(name) for name in public_modules()})
    write_made(reference / "commands", {f"{name}.md": text for name, text in cli_pages()})


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", _write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
