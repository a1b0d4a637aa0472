"""Structs with arrays to bytes (MessagePack) and to JSON-safe values, and back, exactly.

An array is (dtype, shape, little-endian bytes) in MessagePack, and {dtype, shape, data} in JSON, where NaN is null and
every float is written so that it reads back as the same float.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from typing import Any, Self, TypeVar

import msgspec
import numpy as np

T = TypeVar("T")


class Opaque(ABC):
    """A value that knows its bytes. They may differ where values do not, so it also has a name, for digests."""

    @abstractmethod
    def to_bytes(self) -> bytes: ...

    @classmethod
    @abstractmethod
    def from_bytes(cls, data: bytes) -> Self: ...

    @abstractmethod
    def name(self) -> bytes: ...


def _to_bytes(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, list(value.shape), np.ascontiguousarray(value).tobytes()]
    if isinstance(value, Opaque):
        return value.to_bytes()
    raise TypeError(f"cannot encode {type(value).__name__}")


def _to_name(value: Any) -> Any:
    return value.name() if isinstance(value, Opaque) else _to_bytes(value)


def _from_bytes(kind: type, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Opaque):
        return kind.from_bytes(value)
    dtype, shape, data = value
    return np.frombuffer(data, dtype=dtype).reshape(shape).copy()


def _array_to_json(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"dtype": value.dtype.str, "shape": list(value.shape), "data": value.ravel().tolist()}
    raise TypeError(f"cannot encode {type(value).__name__}")


def _json_to_array(_: type, value: Any) -> Any:
    return np.array(value["data"], dtype=value["dtype"]).reshape(value["shape"])


_ENCODER = msgspec.msgpack.Encoder(enc_hook=_to_bytes)
_NAMES = msgspec.msgpack.Encoder(enc_hook=_to_name)


def pack(value: Any) -> bytes:
    return _ENCODER.encode(value)


def unpack(data: bytes | memoryview, kind: type[T]) -> T:
    """Raises msgspec.DecodeError or ValidationError where the bytes are not a `kind`."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_from_bytes)


def to_json(value: Any) -> Any:
    """JSON-safe values: dicts, lists, strings, numbers, None."""
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=_array_to_json))


def from_json(value: Any, kind: type[T]) -> T:
    return msgspec.json.decode(msgspec.json.encode(value), type=kind, dec_hook=_json_to_array)


def digest(value: Any) -> bytes:
    """16 bytes that name a value: the same on every machine."""
    return hashlib.blake2b(_NAMES.encode(value), digest_size=16).digest()
