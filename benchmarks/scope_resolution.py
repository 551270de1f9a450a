"""What it costs to find whose memory a call means, in microseconds a call.

``python -m benchmarks.scope_resolution``
"""

import tempfile
import timeit
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from langchain_core.runnables import RunnableLambda

from langmem_isolated import IsolatedMemory, LocalRootKey, Scope

CALLS, ROUNDS = 20_000, 7
THREAD = {"configurable": {"thread_id": "t"}}
NAMED = {"configurable": {"thread_id": "t", "user_id": "alice", "module_id": "m"}}


def microseconds(call: Callable[[], Any]) -> float:
    """The best of some rounds: what else runs on the machine only adds."""
    return min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e6


def main() -> None:
    """Print a line for each way to name a scope."""
    scope = Scope("alice", "m")
    with (
        tempfile.TemporaryDirectory() as folder,
        IsolatedMemory(f"sqlite:///{folder}/m.db", root_key=LocalRootKey(bytes(32))) as memory,
    ):
        bound, unbound = memory.scope(scope).checkpointer(), memory.checkpointer()
        resolved = memory.checkpointer(scope_resolver=lambda _: scope)
        of_run = {"configurable": {**THREAD["configurable"], "__pregel_runtime": object()}}
        with memory.using(scope):
            unbound._resolve(of_run)
        store = memory.store()
        outside: dict[str, tuple[Callable[[], Any], AbstractContextManager[Any]]] = {
            "bound, config without keys": (lambda: bound._resolve(THREAD), nullcontext()),
            "bound, config with keys": (lambda: bound._resolve(NAMED), nullcontext()),
            "unbound, keys": (lambda: unbound._resolve(NAMED), nullcontext()),
            "unbound, using": (lambda: unbound._resolve(THREAD), memory.using(scope)),
            "unbound, keys and using": (lambda: unbound._resolve(NAMED), memory.using(scope)),
            "unbound, resolver": (lambda: resolved._resolve(THREAD), nullcontext()),
            "unbound, run found before": (lambda: unbound._resolve(of_run), nullcontext()),
        }
        for name, (call, around) in outside.items():
            with around:
                print(f"{name:30}{microseconds(call):6.2f} µs")
        inside = {
            "store, run's keys": store._resolve,
            "checkpointer, run's keys": lambda: unbound._resolve(THREAD),
        }
        for name, call in inside.items():
            timed = RunnableLambda(lambda _, call=call: microseconds(call))
            print(f"{name:30}{timed.invoke(None, NAMED):6.2f} µs")


if __name__ == "__main__":
    main()
