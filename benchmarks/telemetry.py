"""What it costs that operations can be observed, and what it costs when they are.

``python -m benchmarks.telemetry``: nanoseconds of what stands around an operation where nobody
observes it, and how many times as long an operation takes when it is told of.
"""

import tempfile
import timeit
from collections.abc import Callable, Sequence

from langchain_core.messages import AIMessage, HumanMessage
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from benchmarks.harness import in_turn, microseconds, ratio
from langmem_isolated import IsolatedMemory, LocalRootKey
from langmem_isolated._runtime.operations import Operations, observed
from langmem_isolated.telemetry import instrument

CALLS, ROUNDS, AT_ONCE = 200_000, 7, 50
TURN = [HumanMessage("What is 6 times 7?"), AIMessage("42")]


class Records:
    """As much of an owner's records as what is around an operation looks at."""

    def __init__(self) -> None:
        self.operations, self.owner = Operations(), None


class Body:
    """Nothing but a call, with and without."""

    def __init__(self) -> None:
        self._records = Records()

    def plain(self) -> None:
        """Nothing."""

    @observed("search_memory", "message")
    def observed(self) -> None:
        """Nothing."""


class Sent(SpanExporter):
    """Takes spans and keeps none: kept ones would be gone through by every garbage collection."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:  # noqa: ARG002
        """As if they were sent."""
        return SpanExportResult.SUCCESS


def nanoseconds(call: Callable[[], object]) -> float:
    """The best of some rounds: what else runs on the machine only adds."""
    return min(timeit.repeat(call, number=CALLS, repeat=ROUNDS)) / CALLS * 1e9


def plain(folder: str, name: str) -> IsolatedMemory:
    """A memory that nobody observes."""
    return IsolatedMemory(
        f"sqlite:///{folder}/{name}.db", root_key=LocalRootKey(bytes(32)), synchronous="NORMAL"
    )


def traced(folder: str) -> IsolatedMemory:
    """One that tells OpenTelemetry, as applications set it up: in batches, from another thread."""
    memory, tracers = plain(folder, "traced"), TracerProvider()
    tracers.add_span_processor(BatchSpanProcessor(Sent()))
    meters = MeterProvider([InMemoryMetricReader()])
    instrument(memory, tracer_provider=tracers, meter_provider=meters)
    return memory


def repeated(call: Callable[[], object]) -> Callable[[int], None]:
    """So many calls that the clock's grain does not count."""

    def step(_: int) -> None:
        for _ in range(AT_ONCE):
            call()

    return step


def main() -> None:
    """Print what is around an operation, then the ratios."""
    body = Body()
    around = nanoseconds(body.observed) - nanoseconds(body.plain)
    print(f"around an operation that nobody observes: {around:.0f} ns")
    with tempfile.TemporaryDirectory() as folder:
        memories = {"nobody": plain(folder, "nobody"), "OpenTelemetry": traced(folder)}
        histories = {
            name: memory.scope(user_id="alice", module_id="tutor").chat_history("monday")
            for name, memory in memories.items()
        }
        for what in ("append", "last"):
            actions = {
                name: [
                    repeated(
                        (lambda h=history: h.add_messages(TURN))
                        if what == "append"
                        else (lambda h=history: h.last(10))
                    )
                ]
                for name, history in histories.items()
            }
            seconds = in_turn(actions, 21)
            (nobody,), (told,) = seconds["nobody"], seconds["OpenTelemetry"]
            print(
                f"{what}: {microseconds(nobody) / AT_ONCE:.0f} µs unobserved, "
                f"{microseconds(told) / AT_ONCE:.0f} µs told of: {ratio(told, nobody):.2f} times"
            )
        for memory in memories.values():
            memory.close()


if __name__ == "__main__":
    main()
