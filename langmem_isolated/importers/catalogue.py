"""Catalogue of sources: all that can be named, of each family."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path

from langmem_isolated.importers import application, langchain, langgraph, people
from langmem_isolated.importers.registry import SourceSpec


@cache
def source_specs() -> Mapping[str, SourceSpec]:
    """Every source that can be named, by its kind."""
    families = (langchain, langgraph, application, people)
    return {spec.kind: spec for family in families for spec in family.SPECS}


def detect_source(path: Path) -> SourceSpec:
    """Which source reads a file or folder of an export.

    Raises:
        SourceRefused: It looks like none; says what it looks like, and what would work.
    """
    detection = import_module("langmem_isolated.importers.people.detection")
    found: SourceSpec = detection.detect(path)
    return found
