"""Sources of people: exports of chat products and messengers."""

from langmem_isolated.importers.registry import SourceSpec

SPECS: tuple[SourceSpec, ...] = ()
