"""Rows of a Parquet file as JSON, through its schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from streamseg.errors import ConfigError
from streamseg.transports.files import RowSource

_ROWS = 10_000


class ParquetSource(RowSource):
    """Any column of numbers, texts, times or booleans, and structs of them. Needs pyarrow (the extra `parquet`)."""

    def _values(self) -> Iterator[bytes | None]:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise ConfigError("reading Parquet needs pyarrow", hint="install streamseg with its extra `parquet`") from None
        try:
            for batch in pq.ParquetFile(self.path).iter_batches(batch_size=_ROWS):
                arrays = [_plain(pa, column) for column in batch.columns]
                for row in pa.RecordBatch.from_arrays(arrays, names=batch.schema.names).to_pylist():
                    yield msgspec.json.encode(row)
        except (OSError, ValueError, NotImplementedError) as error:
            raise ConfigError(f"cannot read Parquet: {error}", where=str(self.path)) from None
        while True:
            yield None


def _plain(pa: Any, column: Any) -> Any:
    """A column of types that become JSON without loss: texts for bytes, microseconds for times, numbers for decimals."""
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        return _plain(pa, column.dictionary_decode())
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return _text(pa, column)
    if types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    if types.is_decimal(kind) or types.is_float16(kind):
        return column.cast(pa.float64())
    if types.is_duration(kind) or types.is_time(kind):
        return column.cast(pa.int64()) if types.is_duration(kind) or kind.bit_width == 64 else column.cast(pa.int32())
    if types.is_struct(kind):
        fields = [_plain(pa, field) for field in column.flatten()]
        return pa.StructArray.from_arrays(fields, names=[field.name for field in kind], mask=column.is_null())
    return column


def _text(pa: Any, column: Any) -> Any:
    """Bytes as UTF-8; what is none is a text with escapes, so that it is no other customer's."""
    texts = [None if value is None else value.decode(errors="backslashreplace") for value in column.to_pylist()]
    return pa.array(texts, pa.string())
