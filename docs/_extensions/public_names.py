"""Which modules and names are public, and under which name and on which page each stands."""

import inspect
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import NamedTuple

ROOT = "langmem_isolated"
# Run, not imported: the commands have pages of their own.
WITHOUT_PAGE = ("cli", "__main__")


class PublicName(NamedTuple):
    """A public object: its shortest name, and the public module whose page has it."""

    name: str
    page: str

    @property
    def found(self) -> object:
        """The object itself."""
        module, _, name = self.name.rpartition(".")
        return getattr(import_module(module), name)


def _is_public(name: str) -> bool:
    parts = name.split(".")[1:]
    return not any(part.startswith("_") for part in parts) and parts[0] not in WITHOUT_PAGE


@cache
def public_modules() -> tuple[str, ...]:
    """The root, every module without an underscore beside it, and modules that say `__all__`.

    Below a public folder a module is public where it is imported by its own path: where nothing
    above it has its names, and it has an `__all__`.
    """
    package = import_module(ROOT)
    top = [f"{ROOT}.{one.name}" for one in iter_modules(package.__path__)]
    deeper = [f"{ROOT}.wrapping.testing"]
    return (ROOT, *sorted(name for name in [*top, *deeper] if _is_public(name)))


def names_of(module: ModuleType) -> list[str]:
    """What a module gives: its `__all__`, or what it defines without an underscore."""
    if hasattr(module, "__all__"):
        return [*module.__all__]
    return [
        name
        for name, found in vars(module).items()
        if not name.startswith("_")
        and getattr(found, "__module__", None) == module.__name__
        and callable(found)
    ]


def _named(module: str) -> Iterator[tuple[object, str]]:
    """Each object of a module, or its name where it is a value, with its name."""
    loaded = import_module(module)
    for name in names_of(loaded):
        found = getattr(loaded, name)
        yield (found if inspect.isclass(found) or inspect.isroutine(found) else name), name


@cache
def _by_object() -> dict[object, PublicName]:
    short = {key: f"{ROOT}.{name}" for key, name in _named(ROOT)}
    found: dict[object, PublicName] = {}
    for module in (*public_modules()[1:], ROOT):
        for key, name in _named(module):
            # The same again from another folder is a link to the first.
            found.setdefault(key, PublicName(short.get(key, f"{module}.{name}"), module))
    return found


def public_names() -> tuple[PublicName, ...]:
    """Every public object once: on the page of its folder, under the root's name if it has one."""
    return tuple(_by_object().values())


def listed(module: str) -> list[PublicName]:
    """What a module gives, each as its page has it."""
    return [_by_object()[key] for key, _ in _named(module)]
