from __future__ import annotations

import json
from io import BytesIO

import fastavro
import pytest

from streamseg.errors import DeadLetterCode, RecordError
from streamseg.formats.avro import reader_of

SCHEMA = {
    "type": "record",
    "name": "E",
    "fields": [{"name": "customer_id", "type": "string"}, {"name": "age", "type": ["null", "double"]}],
}


def written(**event: object) -> bytes:
    out = BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(SCHEMA), event)
    return out.getvalue()


def test_bytes_that_are_left_over_are_no_event() -> None:
    read = reader_of(json.dumps([SCHEMA]).encode(), "schema 1", frozenset({"customer_id", "age"}))
    payload = written(customer_id="a", age=3.5)
    assert read(payload) == {"customer_id": "a", "age": 3.5}
    with pytest.raises(RecordError, match="2 bytes are left over") as caught:
        read(payload + b"\x02a")
    assert caught.value.code is DeadLetterCode.NOT_OF_SCHEMA
    with pytest.raises(RecordError, match="no Avro of schema 1"):
        read(payload[:-1])
