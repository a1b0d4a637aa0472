"""Spans of a batch's stages through OpenTelemetry (the extra `otel`): poll, process, commit, catch_up.

A span of `process` or `commit` is linked to the events that led to it, by their `traceparent`. Where spans go is said by
OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_ENDPOINT` and the like).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from streamseg import __version__
from streamseg.errors import ConfigError

_TRACEPARENT = re.compile(rb"^[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$")


class OtelTracer:
    """Makes spans of a provider. Raises ConfigError where the extra is not installed."""

    def __init__(self, application: str, worker: str = "", provider: Any = None) -> None:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
        except ImportError:
            raise ConfigError(
                "OpenTelemetry is not installed", where="tracing.enabled", hint="pip install 'streamseg[otel]'"
            ) from None
        if provider is None:
            resource = Resource.create({"service.name": application, "service.instance.id": worker})
            provider = TracerProvider(resource=resource)
            provider.add_span_processor(_exporting())
        self._provider = provider
        self._tracer = provider.get_tracer("streamseg", __version__)

    def span(self, name: str, links: Sequence[bytes] = ()) -> AbstractContextManager[object]:
        found = [link for link in map(link_to, links) if link is not None]
        span: AbstractContextManager[object] = self._tracer.start_as_current_span(f"streamseg.{name}", links=found)
        return span

    def close(self) -> None:
        """Send what is still to be sent."""
        self._provider.shutdown()


def _exporting() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return BatchSpanProcessor(OTLPSpanExporter())


def link_to(traceparent: bytes) -> Any:
    """A link to the span that a `traceparent` names (W3C Trace Context); None where it names none."""
    from opentelemetry.trace import Link, SpanContext, TraceFlags

    parts = _TRACEPARENT.match(traceparent)
    if parts is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in parts.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return Link(context) if context.is_valid else None
