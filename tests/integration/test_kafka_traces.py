"""A trace goes from an event to the tag that it leads to, on a real broker, seen by an outside reader."""

from __future__ import annotations

import json
import threading
from typing import Any

from confluent_kafka import Consumer, Producer

from streamseg.runtime.loop import Loop
from tests.harness import FixedClock, Recorder, settings_for, shoppers
from tests.stores import KafkaStore
from tests.waiting import until


def test_a_tag_carries_the_trace_of_its_event(kafka: str) -> None:
    store = KafkaStore.new(kafka, 1)
    events = shoppers(300)
    traces = [b"00-%032x-%016x-01" % (i + 1, i + 1) for i in range(len(events))]
    producer = Producer({"bootstrap.servers": kafka})
    for i, (key, value, _) in enumerate(events):
        # Every third event has none, and one has a header of another name.
        headers: Any = [("traceparent", traces[i])] if i % 3 else [("other", b"x")] if i == 30 else []
        producer.produce(store.names.input, value, key, partition=0, headers=headers)
    producer.flush(30)
    stop, settings = threading.Event(), settings_for(model={"segments": 3, "warm_up": 20})
    job = Loop(store, settings, FixedClock(), Recorder(), stop, batch_records=100)
    until(lambda: job.step() or sum(task.mark.next for task in job.job.tasks.values()) >= len(events), "all is tagged")
    store.close()

    settings_of_reader = {"group.id": "outside", "auto.offset.reset": "earliest", "isolation.level": "read_committed"}
    reader = Consumer({"bootstrap.servers": kafka, **settings_of_reader})
    reader.subscribe([store.names.assignments])
    seen: dict[int, list[Any]] = {}

    def read() -> bool:
        for message in reader.consume(500, 0.2):
            source = json.loads(message.value() or b"{}")["source"]
            if source is not None:
                seen[source["offset"]] = list(message.headers() or [])
        return len(seen) == len(events)

    until(read, "all tags are read")
    reader.close()
    for i, trace in enumerate(traces):
        found = [value for name, value in seen[i] if name == "traceparent"]
        assert found == ([trace] if i % 3 else [])
