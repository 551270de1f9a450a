"""URLs of servers, without what a password may stand in."""

from __future__ import annotations

from urllib.parse import urlsplit

from langmem_isolated.errors import SourceRefused


def public(url: str) -> str:
    """Scheme, hosts and path; user, password and options are left out."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def not_installed(package: str, source: str, install: str) -> SourceRefused:
    """What to say where the client of a server is missing."""
    return SourceRefused(
        f"The source is in {source}, and {package} is not installed", f"{install} installs it."
    )


def not_read(source: str, error: Exception, instead: str) -> SourceRefused:
    """What to say where a server cannot be reached, or fails while it is read."""
    return SourceRefused(f"{source} cannot be read ({type(error).__name__})", instead)
