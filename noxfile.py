"""The checks of `.ci/run`, a session each: `nox` for all of them, `nox -s lint` for one."""

import os

import nox

nox.options.reuse_venv = "yes"

# Sessions see neither the keys nor the databases of whoever runs them.
for variable in ("ROOT_KEY", "ROOT_KEY_FILE", "DATABASE", "KEY_STORE"):
    os.environ.pop(f"LANGMEM_ISOLATED_{variable}", None)


@nox.session
def lint(session: nox.Session) -> None:
    """Form and style."""
    session.install("-e", ".[dev]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Types, strictly."""
    session.install("-e", ".[dev]")
    session.run("mypy")


@nox.session
def imports(session: nox.Session) -> None:
    """What an import brings along."""
    session.install("-e", ".[dev]")
    session.run("pytest", "-n", "0", "tests/test_import_time.py")


@nox.session
def demo(session: nox.Session) -> None:
    """The demo, as the README has it."""
    session.install("-e", ".[dev]")
    session.run("langmem-isolated", "demo")


@nox.session
def notebooks(session: nox.Session) -> None:
    """Every notebook from its first cell to its last."""
    session.install("-e", ".[dev]")
    session.run("pytest", "--nbmake", "notebooks", "-p", "no:cacheprovider")


@nox.session
def docs(session: nox.Session) -> None:
    """The site, as HTML in `build/site`; a warning ends it."""
    session.install("-e", ".[dev]")
    session.run("sphinx-build", "-W", "--keep-going", "-n", "-q", "docs", "build/site")


@nox.session
def tests(session: nox.Session) -> None:
    """Every test, those on a real PostgreSQL included."""
    session.install("-e", ".[dev]")
    session.run("pytest")
