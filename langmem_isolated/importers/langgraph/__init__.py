"""Sources of LangGraph: checkpointers and stores."""

from langmem_isolated.importers.registry import SourceSpec

SPECS: tuple[SourceSpec, ...] = ()
