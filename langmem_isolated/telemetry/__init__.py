"""OpenTelemetry: spans and metrics of what a memory does, by the conventions for generative AI.

>>> from langmem_isolated.telemetry import instrument, uninstrument
>>> instrument(memory)
>>> scope.chat_history("monday").count()
0
>>> uninstrument(memory)
"""

from langmem_isolated.telemetry.instrumentation import instrument, uninstrument

__all__ = ["instrument", "uninstrument"]
