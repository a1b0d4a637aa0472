"""Tags in Avro, as others read them."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from streamseg.config import Config
from streamseg.engine.ports import Topic
from streamseg.formats.avro_tags import keys_in_avro, tag_as_json, tags_in_avro, written_under
from streamseg.transports.registry import Registry, RegistryAccess
from tests.harness import published, run_memory, settings_for, shoppers
from tests.registry import SmallRegistry
from tests.registry import registry as registry

TIMES = ("entered_at", "event_time", "assigned_at")


def tags() -> list[bytes]:
    events = shoppers(1_200)
    store, _ = run_memory(events, settings_for(model={"segments": 3, "warm_up": 20}), batch_records=50)
    return [value for value in published(store, Topic.ASSIGNMENTS) if value is not None]


def test_others_read_what_the_job_made_and_we_read_it_back(registry: SmallRegistry) -> None:
    source = Registry(RegistryAccess(registry.url))
    key, value = (source.register(subject, body) for subject, body in written_under("tags").items())
    assert registry.subjects.keys() == {"tags-key", "tags-value"}
    made = tags()
    written = tags_in_avro([*made, None], value.id)
    assert written[-1] is None
    read: Any = AvroDeserializer(SchemaRegistryClient({"url": registry.url}))
    for ours, theirs in zip(made, written[:-1], strict=True):
        assert theirs is not None
        assert tag_as_json(theirs) == ours
        expected = json.loads(ours)
        for name in TIMES:
            expected[name] = None if expected[name] is None else datetime.fromisoformat(expected[name])
        assert read(theirs, SerializationContext("tags", MessageField.VALUE)) == expected
    ids = ["c1", "", "é" * 300]
    keys = keys_in_avro(ids, key.id)
    assert [read(one, SerializationContext("tags", MessageField.KEY)) for one in keys] == ids


@pytest.mark.parametrize("value", [b"\0", b"\0\0\0\0\1", b"\0\0\0\0\1\xff\xff", b"\0" * 40])
def test_bytes_that_are_no_tag_stay_as_they_are(value: bytes) -> None:
    assert tag_as_json(value) == value


def test_a_job_that_writes_avro_needs_a_topic_and_a_registry() -> None:
    avro = {"format": "avro"}
    with pytest.raises(ValueError, match="is for topics"):
        Config.model_validate({"output": avro, "input": {"registry": "http://there"}})
    with pytest.raises(ValueError, match="needs a schema registry"):
        Config.model_validate({"output": avro, "input": {"transport": "kafka"}})
