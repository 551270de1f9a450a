"""Mapping file: rules of a mapping as TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated.errors import MappingRefused
from langmem_isolated.importers.mapping_rules import PARTS, Field

_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(PARTS, (str, dict)),
    **dict.fromkeys(("pattern", "table", "function"), (str,)),
    "drop_labels": (bool,),
}


def read_mapping_file(path: Path) -> dict[str, Any]:
    """What `Mapping` is made with, as a file has it.

    Raises:
        MappingRefused: It cannot be read, or has a key or value that is not known.
    """
    try:
        with path.open("rb") as file:
            told = tomllib.load(file)
    except OSError as error:
        raise MappingRefused(f"The mapping file cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingRefused(f"The mapping file is no TOML: {error}.") from None
    rules = told.get("mapping", told)
    if not isinstance(rules, dict):
        raise MappingRefused(f"[mapping] must be a table, got {kind_of(rules)}.")
    return {name: _rule(name, value, path.parent) for name, value in rules.items()}


def _rule(name: str, value: Any, folder: Path) -> Any:
    expected = _TYPES.get(name)
    if expected is None:
        raise MappingRefused(
            f"The mapping file has a key that is not known. Expected {', '.join(_TYPES)}."
        )
    if not isinstance(value, expected) or (name == "name" and isinstance(value, str)):
        raise MappingRefused(f"{name} in the mapping file must not be {kind_of(value)}.")
    if isinstance(value, dict):
        return _field(name, value)
    return folder / str(value) if name == "table" else value


def _field(name: str, value: dict[str, Any]) -> Field:
    if len(value) != 1 or not set(value) <= {"column", "path"}:
        raise MappingRefused(f'{name} in the mapping file must be an id or {{ column = "…" }}.')
    return Field(next(iter(value.values())))
