"""The life of memory: verified."""

from langmem_isolated.lifecycle.verification import Verified, verified

__all__ = ["Verified", "verified"]
