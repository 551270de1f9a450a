"""OpenTelemetry's SDK in memory: what it was told, to look at."""

import json
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from langmem_isolated import IsolatedMemory
from langmem_isolated.telemetry import instrument


class Telemetry:
    """Providers of its own, and all that reaches their exporters."""

    def __init__(self) -> None:
        self._exporter, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meter_provider = MeterProvider([self._reader])
        self.tracer = self.tracer_provider.get_tracer("application")

    def watch(self, memory: IsolatedMemory) -> None:
        """Instrument a memory with these providers."""
        instrument(memory, tracer_provider=self.tracer_provider, meter_provider=self.meter_provider)

    @property
    def spans(self) -> list[ReadableSpan]:
        """Ours, in the order in which they ended."""
        ended = self._exporter.get_finished_spans()
        return [span for span in ended if span.instrumentation_scope.name == "langmem_isolated"]

    def told(self) -> list[tuple[str, Any, Any]]:
        """Operation, kind and count of each span since it was asked last."""
        facts = [dict(span.attributes or {}) for span in self.spans]
        self._exporter.clear()
        return [
            (
                one["gen_ai.operation.name"],
                one["langmem_isolated.kind"],
                one.get("gen_ai.memory.record.count"),
            )
            for one in facts
        ]

    def metrics(self) -> dict[str, list[dict[str, Any]]]:
        """The points of each metric, as they leave the process."""
        data = self._reader.get_metrics_data()
        parsed = json.loads(data.to_json()) if data else {"resource_metrics": []}
        return {
            metric["name"]: metric["data"]["data_points"]
            for resource in parsed["resource_metrics"]
            for scope in resource["scope_metrics"]
            for metric in scope["metrics"]
        }

    def everything(self) -> str:
        """All that was told, as text."""
        spans = [span.to_json() for span in self._exporter.get_finished_spans()]
        return "\n".join([*spans, json.dumps(self.metrics())])

    def close(self) -> None:
        """Shut both providers down."""
        self.tracer_provider.shutdown()
        self.meter_provider.shutdown()
