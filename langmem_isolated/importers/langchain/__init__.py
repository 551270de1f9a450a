"""Sources of LangChain: chat histories in databases, files and servers."""

from langmem_isolated.importers.registry import SourceSpec

SPECS: tuple[SourceSpec, ...] = ()
