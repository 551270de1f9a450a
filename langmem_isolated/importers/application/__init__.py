"""Sources of applications: tables, sealed blobs, profiles, and other memory packages."""

from langmem_isolated.importers.registry import SourceSpec

SPECS: tuple[SourceSpec, ...] = ()
