"""What is installed here: the closure of requirements, from the metadata of packages."""

import tomllib
from collections.abc import Iterable
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parent.parent


def our_requirements(*extras: str) -> list[Requirement]:
    """What this package asks for itself, without and with extras."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    optional = (project["optional-dependencies"][extra] for extra in extras)
    return [Requirement(text) for texts in (project["dependencies"], *optional) for text in texts]


def closure(requirements: Iterable[Requirement]) -> dict[str, str]:
    """Versions of all that is needed for them on this machine, by name."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(one.name, extra) for one in requirements for extra in ("", *one.extras)]
    while waiting:
        name, extra = waiting.pop()
        if (canonicalize_name(name), extra) in seen:
            continue
        seen.add((canonicalize_name(name), extra))
        found = distribution(name)
        versions[canonicalize_name(name)] = found.version
        for one in map(Requirement, found.requires or ()):
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                waiting += [(one.name, further) for further in ("", *one.extras)]
    return versions
