"""Pages as Markdown beside the built ones, for `llms.txt`; pages of files above `docs/`."""

import re
import shutil
from pathlib import Path

from made_files import write_made
from sphinx.application import Sphinx

# Files of the project that have a page of the site.
PAGES = {"CONTRIBUTING.md": "contributing", "SECURITY.md": "security", "CHANGELOG.md": "changelog"}
# A link from a file beside `docs/`, and from one in a folder of it.
FROM_PROJECT, FROM_FOLDER = re.compile(r"\]\(([\w/-]+\.md)"), re.compile(r"\]\(\.\./\.\./(\w+\.md)")


def _place(file: str) -> str:
    """Where a file of the project stands in the site; what a README says is on its first page."""
    if file.startswith("docs/"):
        return file.removeprefix("docs")
    return f"/project/{PAGES[file]}.md" if file in PAGES else "/index.md"


def _write_project(app: Sphinx) -> None:
    """Pages of the project's files, whose links lead into the site."""
    project = Path(app.srcdir).parent
    pages = {
        f"{page}.md": FROM_PROJECT.sub(
            lambda link: f"]({_place(link[1])}", (project / file).read_text()
        )
        for file, page in PAGES.items()
    }
    write_made(Path(app.srcdir) / "project", pages)


def _lead_to_pages(_: Sphinx, __: str, content: list[str]) -> None:
    """A link to a file of the project, which is right in the repository, leads to its page."""
    content[0] = FROM_FOLDER.sub(lambda link: f"]({_place(link[1])}", content[0])


def _copy_markdown(app: Sphinx, error: Exception | None) -> None:
    """Beside `guide.html` stands `guide.md`, as it is in the repository."""
    if error or app.builder.format != "html":
        return
    for name in app.env.found_docs:
        source = app.env.doc2path(name)
        if source.suffix == ".md":
            shutil.copyfile(source, Path(app.outdir) / f"{name}.md")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", _write_project)
    app.connect("source-read", _lead_to_pages)
    app.connect("build-finished", _copy_markdown)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
