"""The documentation as a site: complete, without a warning, and loading nothing from elsewhere."""

import fcntl
import importlib
import inspect
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest
from sphinx.util.inventory import InventoryFile
from typer.main import get_command

import langmem_isolated
from langmem_isolated.cli import app
from tests.test_docs import MADE, PAGES, PROJECT

# A minute where two processes share a core; half of it alone.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

# What has a browser load something as soon as it shows the page.
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


def built(project: Path) -> subprocess.CompletedProcess[str]:
    """The site of a copy of the project, as `nox -s docs` builds it."""
    strict = ["-W", "--keep-going", "-n", "-q"]
    return subprocess.run(
        [sys.executable, "-m", "sphinx", *strict, "docs", "build/site"],
        capture_output=True,
        check=False,
        cwd=project,
        text=True,
    )


def copy_of_documentation(to: Path) -> None:
    """Pages are made in the folder that is built: not in the one that other tests read."""
    made = shutil.ignore_patterns(*(Path(name).name for name in MADE))
    shutil.copytree(PROJECT / "docs", to / "docs", ignore=made)
    for path in PROJECT.glob("*.md"):
        shutil.copy(path, to)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site, once for all processes of the tests."""
    own = tmp_path_factory.getbasetemp()
    project = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "documentation"
    project.mkdir(exist_ok=True)
    with (project / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (project / "told").exists():
            copy_of_documentation(project)
            ran = built(project)
            (project / "told").write_text(f"{ran.returncode}\n{ran.stdout}{ran.stderr}")
    return project / "build" / "site"


def test_the_site_is_built_without_a_warning(site: Path):
    assert (site.parents[1] / "told").read_text() == "0\n"


def public_modules() -> Iterator[ModuleType]:
    """What applications import: the root, and what is beside it without an underscore."""
    yield langmem_isolated
    for found in pkgutil.iter_modules(langmem_isolated.__path__):
        # The commands are run, and have pages of their own.
        if not found.name.startswith("_") and found.name != "cli":
            yield importlib.import_module(f"langmem_isolated.{found.name}")


def public_names() -> Iterator[str]:
    for module in public_modules():
        own = [
            name
            for name, found in vars(module).items()
            if not name.startswith("_") and getattr(found, "__module__", "") == module.__name__
            if inspect.isclass(found) or inspect.isroutine(found)
        ]
        yield from (f"{module.__name__}.{name}" for name in getattr(module, "__all__", own))


def found_at(name: str) -> object:
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def documented(site: Path) -> set[str]:
    """The names that other sites can link to."""
    inventory = InventoryFile.loads((site / "objects.inv").read_bytes(), uri="")
    kinds = {kind: dict(items) for kind, items in inventory.data.items()}
    return {name for kind, items in kinds.items() if kind.startswith("py:") for name in items}


def test_every_public_object_is_on_a_page(site: Path):
    public, names = [*public_names()], documented(site)
    objects = {id(found_at(name)) for name in names if importable(name)}

    # A name that another folder gives, too, stands on one page.
    missing = [name for name in public if name not in names and id(found_at(name)) not in objects]
    assert len(public) > 300
    assert missing == []


def importable(name: str) -> bool:
    module = name.rpartition(".")[0]
    return module in sys.modules and hasattr(sys.modules[module], name.rpartition(".")[2])


@pytest.mark.parametrize("name", ["IsolatedMemory", "ScopedMemory", "IsolatedCheckpointSaver"])
def test_every_method_that_is_ours_is_on_its_page(site: Path, name: str):
    ours = {
        member
        for base in getattr(langmem_isolated, name).__mro__
        if base.__module__.startswith("langmem_isolated")
        for member in vars(base)
        if not member.startswith("_")
    }

    documented_here = documented(site)
    assert len(ours) > 15
    assert {one for one in ours if f"langmem_isolated.{name}.{one}" not in documented_here} == set()


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command with its options."""

    def below(command: object, path: str) -> Iterator[tuple[str, list[str]]]:
        shown = [one for one in command.params if not getattr(one, "hidden", False)]
        yield path, [option for one in shown for option in one.opts if option.startswith("--")]
        for name, inner in getattr(command, "commands", {}).items():
            if not inner.hidden:
                yield from below(inner, f"{path} {name}")

    yield from below(get_command(app), "langmem-isolated")


def test_every_command_is_on_a_page_with_each_of_its_options(site: Path):
    pages = [path.read_text() for path in (site.parents[1] / "docs/reference/commands").iterdir()]
    sections = re.split(r"^#+ `(.+)`$", "\n".join(pages), flags=re.MULTILINE)
    told = dict(zip(sections[1::2], sections[2::2], strict=True))

    # What the program itself takes stands on the page of the command line.
    first, *rest = commands()
    missing = [
        f"{path} {option}"
        for path, options in rest
        for option in ["Usage", *options]
        if option not in told.get(path, "")
    ]
    assert len(rest) > 80
    assert missing == []
    assert [one for one in first[1] if f"`{one}" not in PAGES["docs/reference/cli.md"]] == []


class Page(NamedTuple):
    """What a page of the site loads, where it leads, and what in it can be led to."""

    loads: list[str]
    links: list[str]
    ids: set[str]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page([], [], set())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if given.get(LOADS.get(tag, "")):
            self.page.loads.append(given[LOADS[tag]])
        if tag == "a" and "href" in given:
            self.page.links.append(given["href"])
        self.page.ids.update(given[name] for name in ("id", "name") if name in given)


@cache
def read(path: Path) -> Page:
    reader = _Reader()
    reader.feed(path.read_text())
    return reader.page


def elsewhere(addresses: list[str]) -> list[str]:
    """Those that name a host, with or without a scheme."""
    return [one for one in addresses if urlsplit(one).netloc]


def test_no_page_loads_anything_from_elsewhere(site: Path):
    pages = [*site.rglob("*.html")]
    styles = "".join(path.read_text() for path in site.rglob("*.css"))

    assert len(pages) > 80
    assert {one for path in pages for one in elsewhere(read(path).loads)} == set()
    assert elsewhere(re.findall(r"""(?:url\(|@import)\s*["']?([^"')\s]+)""", styles)) == []


def test_what_loads_from_elsewhere_is_noticed():
    reader = _Reader()
    reader.feed('<script src="//cdn.example/a.js"></script><img src="a.png"><a href="http://b/">')

    assert elsewhere(reader.page.loads) == ["//cdn.example/a.js"]


def broken_links(path: Path) -> Iterator[str]:
    for link in read(path).links:
        parts = urlsplit(link)
        if not parts.scheme:
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = target.suffix != ".html" or not parts.fragment or parts.fragment == "top"
            if not target.exists() or not (there or unquote(parts.fragment) in read(target).ids):
                yield f"{path.name}: {link}"


def test_every_link_inside_the_site_leads_to_a_place(site: Path):
    assert [one for path in site.rglob("*.html") for one in broken_links(path)] == []


def test_every_page_is_reached_from_the_first_and_stands_beside_it_as_markdown(site: Path):
    led_to = {urlsplit(link).path for link in read(site / "index.html").links}
    pages = [page.removeprefix("docs/") for page in PAGES if page.startswith("docs/")]

    assert {page for page in pages if page.replace(".md", ".html") not in led_to} <= {"index.md"}
    assert [page for page in pages if (site / page).read_text() != PAGES[f"docs/{page}"]] == []


def test_the_index_for_programs_is_beside_the_first_page(site: Path):
    assert (site / "llms.txt").read_text() == (PROJECT / "docs" / "llms.txt").read_text()
