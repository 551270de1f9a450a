"""Refusals that LangGraph may have swallowed: told in the log, and at the thread's next call."""

import logging

from langchain_core.runnables import RunnableConfig

from langmem_isolated._adapters.compat import runtime_of
from langmem_isolated._codecs.refusals import located
from langmem_isolated._runtime.lru import LRUCache
from langmem_isolated.checkpointer.addresses import Address
from langmem_isolated.errors import LimitExceeded, ValueNotStorable
from langmem_isolated.scope import Scope

_log = logging.getLogger("langmem_isolated")

Refusal = ValueNotStorable | LimitExceeded

# Threads of which a refusal is still to be told; an older one was told in the log alone.
_MOST = 1024


class Refusals:
    """What was refused in a subgraph, until somebody was told.

    LangGraph stores in the background. What is raised there reaches the application when its loop
    ends, but not when the loop of a subgraph ends with an interrupt: a person would be asked about
    a state that was never stored. The next call for the thread raises it instead, once. Nothing of
    the value is kept, nor the traceback.
    """

    def __init__(self) -> None:
        self._untold = LRUCache[tuple[Scope, str], Refusal](entries=_MOST)

    def told(
        self, refusal: Refusal, scope: Scope, config: RunnableConfig, stored: object
    ) -> Refusal:
        """What is to be raised for a refusal: the same, with its place in what was stored."""
        if isinstance(refusal, ValueNotStorable):
            refusal = located(refusal, stored, "a checkpoint")
        self._keep(scope, config, refusal)
        return refusal

    def _keep(self, scope: Scope, config: RunnableConfig, refusal: Refusal) -> None:
        if runtime_of(config.get("configurable", {})) is None:
            return
        what = getattr(refusal, "type_name", "state beyond the limit value_bytes")
        _log.error("A %s could not be stored in a checkpoint of a run.", what)
        address = Address.of(config)
        if address.namespace:
            # Without the traceback, whose frames hold the value.
            self._untold.put((scope, address.thread_id), refusal.again())

    def raise_untold(self, scope: Scope, address: Address) -> None:
        """Raise what was refused in the thread before, once at the outermost graph.

        Raises:
            ValueNotStorable: Something was.
            LimitExceeded: The same.
        """
        if not self._untold:
            return
        key = scope, address.thread_id
        refusal = self._untold.get(key)
        if refusal is None:
            return
        if not address.namespace:
            # What is raised inside of a subgraph may be swallowed as well.
            self._untold.drop(key)
        raise refusal.again()
