"""Spans of a batch, and the traces of events that they are linked to."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from streamseg.engine.ports import Ownership, Polled, Records
from streamseg.observability.tracing import OtelTracer, link_to
from streamseg.runtime.batch_report import traces_of
from streamseg.runtime.loop import Loop
from streamseg.transports.embedded import EmbeddedTransport
from tests.harness import FixedClock, Recorder, produce, settings_for, shoppers

TRACE = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_each_batch_has_a_span_for_each_stage() -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    store, settings = EmbeddedTransport(":memory:"), settings_for(model={"segments": 3, "warm_up": 20})
    produce(store, shoppers(500))
    recorder = Recorder()
    Loop(
        store,
        settings,
        FixedClock(),
        recorder,
        threading.Event(),
        batch_records=100,
        tracer=OtelTracer("shop", "w0", provider),
    ).run()
    names = [span.name for span in exporter.get_finished_spans()]
    assert names.count("streamseg.process") == 5
    assert names.count("streamseg.commit") >= names.count("streamseg.process")
    assert {"streamseg.poll", "streamseg.catch_up"} < set(names)


def test_a_span_is_linked_to_the_events_that_led_to_it() -> None:
    link = link_to(TRACE)
    assert f"{link.context.trace_id:032x}-{link.context.span_id:016x}".encode() == TRACE[3:-3]
    assert link.context.is_remote


@pytest.mark.parametrize(
    "bad", [b"", b"nonsense", TRACE + b"x", TRACE.upper(), b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01"]
)
def test_what_is_no_traceparent_is_passed_over(bad: bytes) -> None:
    assert link_to(bad) is None


def test_of_very_many_traces_the_first_hundred_are_linked() -> None:
    traces = [b"%d" % (i // 2) for i in range(1_000)]
    polled = Polled({0: Records(range(1_000), [], [], [], 1_000, traces)}, Ownership(1, (0,)))
    assert traces_of(polled) == [b"%d" % i for i in range(100)]
