"""The client of a schema registry."""

from __future__ import annotations

import base64

import pytest

from streamseg.errors import ConfigError, RetriableError
from streamseg.transports.registry import Registry, RegistryAccess
from tests.registry import SmallRegistry
from tests.registry import registry as registry

SCHEMA = '{"type": "record", "name": "E", "fields": [{"name": "customer_id", "type": "string"}]}'


def test_a_registry_that_is_away_or_refuses_or_is_none(registry: SmallRegistry) -> None:
    asked = [(1).to_bytes(4, "big")]
    registry.register("s", SCHEMA)
    registry.away = True
    with pytest.raises(RetriableError, match="answers 503"):
        Registry(RegistryAccess(registry.url)).fetch(asked)
    registry.away, registry.needs = False, "Basic " + base64.b64encode(b"me:secret").decode()
    with pytest.raises(ConfigError, match="refuses us") as refused:
        Registry(RegistryAccess(registry.url, "me", "wrong")).fetch(asked)
    assert "wrong" not in str(refused.value)
    assert Registry(RegistryAccess(registry.url, "me", "secret")).fetch(asked)[0].kind == "avro"
    registry.needs = "Bearer t0ken"
    assert Registry(RegistryAccess(registry.url, token="t0ken")).fetch(asked)[0].kind == "avro"
    with pytest.raises(RetriableError, match="cannot be reached"):
        Registry(RegistryAccess("http://127.0.0.1:1")).fetch(asked)
    with pytest.raises(ConfigError, match="there is no file"):
        Registry(RegistryAccess(registry.url, ca_file="nowhere.pem"))


@pytest.mark.parametrize("text", ["no proto at all", 'syntax = "proto3"; import "no.proto"; message E {}', "../../../x"])
def test_a_schema_that_cannot_be_compiled_is_missing_with_the_reason(registry: SmallRegistry, text: str) -> None:
    number = registry.register("s", text, "PROTOBUF")
    (found,) = Registry(RegistryAccess(registry.url)).fetch([number.to_bytes(4, "big")])
    assert found.kind == "missing"
    assert b"cannot be read" in found.body


def test_a_server_that_is_no_registry_is_said(registry: SmallRegistry) -> None:
    registry.schemas.append({"hello": 1})
    with pytest.raises(ConfigError, match="no schema registry"):
        Registry(RegistryAccess(registry.url)).fetch([(1).to_bytes(4, "big")])


def test_a_password_in_the_url_logs_in_and_stands_in_no_error(registry: SmallRegistry) -> None:
    registry.register("s", SCHEMA)
    registry.needs = "Basic " + base64.b64encode(b"me:se/cret").decode()
    url = registry.url.replace("http://", "http://me:se%2Fcret@")
    asked = [(1).to_bytes(4, "big"), (9).to_bytes(4, "big")]
    known, missing = Registry(RegistryAccess(url)).fetch(asked)
    assert known.kind == "avro"
    assert (missing.kind, b"cret" in missing.body) == ("missing", False)
    registry.away = True
    with pytest.raises(RetriableError, match="answers 503") as away:
        Registry(RegistryAccess(url)).fetch(asked)
    assert "cret" not in str(away.value)


def test_what_is_no_url_is_said_without_it() -> None:
    with pytest.raises(ConfigError, match="no URL") as caught:
        Registry(RegistryAccess("http://me:secret@[::1"))
    assert "secret" not in str(caught.value)


BODY = b'["string"]'


def test_a_schema_that_somebody_registered_needs_no_right_to_write(registry: SmallRegistry) -> None:
    ours = Registry(RegistryAccess(registry.url))
    assert ours.registered("tags-key", BODY) is None
    number = registry.register("tags-key", '"string"')
    registry.closed["tags-key"] = 403
    assert ours.register("tags-key", BODY) == ours.registered("tags-key", BODY)
    assert ours.register("tags-key", BODY).id == number.to_bytes(4, "big")


@pytest.mark.parametrize(("status", "said"), [(403, "refuses us"), (409, "not this one"), (422, "not this one")])
def test_a_registry_that_does_not_take_our_schema_is_said(registry: SmallRegistry, status: int, said: str) -> None:
    registry.closed["tags-key"] = status
    with pytest.raises(ConfigError, match=said) as refused:
        Registry(RegistryAccess(registry.url)).register("tags-key", BODY)
    assert refused.value.hint
