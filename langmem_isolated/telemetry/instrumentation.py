"""Instrumentation: who observes a memory for OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

try:
    from opentelemetry.metrics import get_meter
    from opentelemetry.trace import SpanKind, Status, StatusCode, get_tracer
except ImportError:
    raise ImportError(
        "Telemetry needs the API of OpenTelemetry. Install it: pip install 'langmem-isolated[otel]'"
    ) from None

from langmem_isolated._runtime.arguments import kind_of
from langmem_isolated._runtime.operations import Observer, Operation, error_name
from langmem_isolated.memory import IsolatedMemory

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

    from langmem_isolated._adapters.context import MemoryContext

# Spelt here: the package that has them is only released as a preview.
OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
STORE = "gen_ai.memory.store.id"
RECORDS = "gen_ai.memory.record.count"
ERROR = "error.type"
SCOPE = "langmem_isolated.scope"
KIND = "langmem_isolated.kind"

DURATION = "gen_ai.client.operation.duration"
"""As the conventions call it: seconds. Its count is that of operations."""
RECORDS_MOVED = "langmem_isolated.records"

US = "langmem_isolated"
# The conventions begin at 10 ms, as models do. Most of what a memory does is over by then: five
# bounds below theirs tell 0.2 ms from 8.
BOUNDS = [
    *(0.00025, 0.0005, 0.001, 0.0025, 0.005),
    *(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
]


class Instrumentation:
    """Tells OpenTelemetry of the operations of one memory: a span each, and two metrics.

    Args:
        context: The memory's.
        tracer_provider: Makes the spans; ``None`` for the one of the process.
        meter_provider: Makes the metrics; likewise.
    """

    def __init__(
        self,
        context: MemoryContext,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        self._keyring = context.keyring
        self._tracer = get_tracer(US, tracer_provider=tracer_provider)
        meter = get_meter(US, meter_provider=meter_provider)
        self._duration = meter.create_histogram(
            DURATION,
            unit="s",
            description="How long an operation took.",
            explicit_bucket_boundaries_advisory=BOUNDS,
        )
        self._records = meter.create_counter(
            RECORDS_MOVED, unit="{record}", description="How many records they gave or found."
        )

    @contextmanager
    def observe(self, operation: Operation) -> Iterator[None]:
        """A span around one operation, a child of the caller's, and the metrics of its end.

        Of an error only the type is told: a message may quote, and a stack has variables.
        """
        told = {OPERATION: operation.name, PROVIDER: US, KIND: operation.kind}
        begun = time.perf_counter()
        with self._tracer.start_as_current_span(
            operation.name,
            kind=SpanKind.INTERNAL,
            attributes=told,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                told[ERROR] = error_name(error)
                span.set_attribute(ERROR, told[ERROR])
                span.set_status(Status(StatusCode.ERROR))
                raise
            finally:
                span.set_attributes(self._facts_of(operation))
                self._duration.record(time.perf_counter() - begun, told)
                if operation.count:
                    self._records.add(operation.count, told)

    def _facts_of(self, operation: Operation) -> dict[str, str | int]:
        """What is known at its end alone: at first use the key for digests is fetched within."""
        facts: dict[str, str | int] = {}
        if operation.count is not None:
            facts[RECORDS] = operation.count
        directory = self._keyring.directory_at_hand
        if operation.owner is not None and directory is not None:
            facts[SCOPE] = directory.scope_id_of(operation.owner).hex()
            facts[STORE] = f"{facts[SCOPE]}/{operation.kind}"
        return facts


def instrument(
    memory: IsolatedMemory,
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> None:
    """Have OpenTelemetry told of every operation of a memory from now on.

    Told are operation, kind, how many records, how long it took, and the type of an error; on
    spans also whose memory it was, as the keyed digest by which tables and logs know a scope.
    Content, queries, ids and names are not, and no setting adds them. Instrumented again, it tells
    the providers that are given then, in place of those before.

    Args:
        memory: Which.
        tracer_provider: Makes the spans; by default the one of the process.
        meter_provider: Makes the metrics; by default the one of the process.

    Raises:
        TypeError: ``memory`` is no `IsolatedMemory`, or a provider is none.
        ImportError: OpenTelemetry's API is not installed (extra ``otel``).
    """
    context = _context_of(memory, "instrument")
    _check_provider("tracer_provider", tracer_provider, "get_tracer")
    _check_provider("meter_provider", meter_provider, "get_meter")
    observers = _others(context)
    context.database.operations.observers = (
        *observers,
        Instrumentation(context, tracer_provider, meter_provider),
    )


def uninstrument(memory: IsolatedMemory) -> None:
    """Have OpenTelemetry told nothing of a memory any more; no error if it was not.

    Raises:
        TypeError: ``memory`` is no `IsolatedMemory`.
    """
    context = _context_of(memory, "uninstrument")
    context.database.operations.observers = _others(context)


def _others(context: MemoryContext) -> tuple[Observer, ...]:
    observers = context.database.operations.observers
    return tuple(one for one in observers if not isinstance(one, Instrumentation))


def _context_of(memory: object, call: str) -> MemoryContext:
    if not isinstance(memory, IsolatedMemory):
        raise TypeError(
            f"{call}() takes an IsolatedMemory, got {kind_of(memory)}. Give the memory, not what "
            "was made from it. Nothing was changed."
        )
    return memory._context  # noqa: SLF001 - what all its scopes share


def _check_provider(name: str, provider: object, method: str) -> None:
    if provider is not None and not callable(getattr(provider, method, None)):
        raise TypeError(
            f"{name} must be a provider of OpenTelemetry, which has {method}(), got "
            f"{kind_of(provider)}. Leave it out for the one of the process. Nothing was changed."
        )
