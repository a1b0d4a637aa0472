"""What a format costs, as a ratio to JSON in the same run.

    python -m benchmarks.formats

The same 100,000 events, as JSON, Avro and Protobuf, go through a whole job in memory: read, decoded, folded, tagged,
learned, committed. Formats take turns, five times; medians of events a second of CPU, and of wall time, are set against
JSON's. Decoding alone stands beside it.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable
from io import BytesIO

import fastavro
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from benchmarks.speed import N_EVENTS, Quiet, workload
from streamseg.config import Config
from streamseg.engine.clock import SystemClock
from streamseg.formats.events import EventDecoder
from streamseg.formats.wire import KnownSchema, NoRegistry, SchemaBook
from streamseg.runtime.loop import Loop
from streamseg.transports.embedded import EmbeddedTransport
from streamseg.transports.registry import descriptors_of

REPEATS = 5
SETTINGS = Config.model_validate({"model": {"segments": 5, "warm_up": 1_000}}).job_settings()
AVRO = {
    "type": "record",
    "name": "Event",
    "fields": [
        {"name": "customer_id", "type": "string"},
        {"name": "event_time", "type": "long"},
        *({"name": name, "type": ["null", "double"]} for name in ("age", "income", "purchases")),
    ],
}
PROTO = """syntax = "proto3";
message Event {
  string customer_id = 1;
  int64 event_time = 2;
  optional double age = 3;
  optional double income = 4;
  optional double purchases = 5;
}
"""
SCHEMAS = [
    KnownSchema((1).to_bytes(4, "big"), "avro", json.dumps([AVRO]).encode()),
    KnownSchema((2).to_bytes(4, "big"), "protobuf", descriptors_of(PROTO, {})),
]


class Known(NoRegistry):
    """A registry that is at hand."""

    def fetch(self, ids: object) -> list[KnownSchema]:
        return SCHEMAS


def written() -> dict[str, list[bytes]]:
    """The same events in each format."""
    plain = workload().values
    events = [json.loads(value) for value in plain]
    schema = fastavro.parse_schema(AVRO)
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(SCHEMAS[1].body).file:
        pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("Event"))

    def avro(event: dict[str, object]) -> bytes:
        out = BytesIO()
        fastavro.schemaless_writer(out, schema, event)
        return b"\0\0\0\0\1" + out.getvalue()

    return {
        "JSON": plain,
        "Avro": [avro(event) for event in events],
        "Protobuf": [b"\0\0\0\0\2\0" + message(**event).SerializeToString() for event in events],
    }


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Seconds of CPU, and of wall time."""
    cpu, wall = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu, time.perf_counter() - wall


def whole_job(values: list[bytes]) -> tuple[float, float]:
    store = EmbeddedTransport(":memory:")
    store.produce(0, ((None, value, None) for value in values))
    loop = Loop(store, SETTINGS, SystemClock(), Quiet(), threading.Event(), batch_records=5_000, schemas=Known())
    return timed(loop.run)


def decoding(values: list[bytes]) -> tuple[float, float]:
    book = SchemaBook(SETTINGS.fields.outermost)
    book.learn(SCHEMAS)
    decoder, none = EventDecoder(SETTINGS.fields, book=book), [None] * 5_000
    now_us = SystemClock().now_us()

    def run() -> None:
        for first in range(0, len(values), 5_000):
            _, rejected = decoder.decode(none, values[first : first + 5_000], none, now_us)
            assert not rejected

    return timed(run)


def main() -> None:
    formats = written()
    for path, measure in (("whole job", whole_job), ("decoding", decoding)):
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in formats}
        for _ in range(REPEATS):
            for name, values in formats.items():
                taken[name].append(measure(values))
        medians = {name: [statistics.median(column) for column in zip(*times, strict=True)] for name, times in taken.items()}
        for name, (cpu, wall) in medians.items():
            json_cpu, json_wall = medians["JSON"]
            print(
                f"{path:10} {name:9} {N_EVENTS / cpu:10,.0f} events a second of CPU, {json_cpu / cpu:.2f} of JSON's"
                f" (wall {json_wall / wall:.2f})"
            )


if __name__ == "__main__":
    main()
