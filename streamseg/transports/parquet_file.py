"""Rows of a Parquet file as JSON, through its schema."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec

from streamseg.errors import ConfigError
from streamseg.transports.csv_format import Columns
from streamseg.transports.files import RowSource

_ROWS = 10_000
_UUID_BYTES = 16


class ParquetSource(RowSource):
    """The columns that the job reads: numbers, texts, times, booleans, and structs of them. Needs pyarrow."""

    def __init__(self, path: Path, columns: Columns) -> None:
        super().__init__(path)
        self._wanted = {*columns.all, "erase", "event_id"}
        self._wanted |= {name.split(".")[0] for name in self._wanted}

    def _values(self) -> Iterator[bytes | None]:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ImportError:
            raise ConfigError("reading Parquet needs pyarrow", hint="install streamseg with its extra `parquet`") from None
        try:
            file = pq.ParquetFile(self.path)
            names = [name for name in file.schema_arrow.names if name in self._wanted]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ConfigError(
                    f"the file has the column {twice!r} twice", where=str(self.path), hint="rename or remove the other one"
                )
            for batch in file.iter_batches(batch_size=_ROWS, columns=names):
                arrays = [_plain(pa, column) for column in batch.columns]
                for row in pa.RecordBatch.from_arrays(arrays, names=batch.schema.names).to_pylist():
                    yield msgspec.json.encode(row)
        except (OSError, ValueError, OverflowError, TypeError, NotImplementedError) as error:
            raise ConfigError(f"cannot read Parquet: {error}", where=str(self.path)) from None
        while True:
            yield None


def _plain(pa: Any, column: Any) -> Any:
    """A column of types that become JSON without loss: texts for bytes, microseconds for times, numbers for decimals."""
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        return _plain(pa, column.dictionary_decode())
    if types.is_fixed_size_binary(kind) and kind.byte_width == _UUID_BYTES:
        return pa.array([None if one is None else str(UUID(bytes=one)) for one in column.to_pylist()], pa.string())
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return _text(pa, column)
    if types.is_timestamp(kind):
        return column.cast(pa.timestamp("us", kind.tz), safe=False)
    if types.is_decimal(kind) and kind.scale == 0:
        # An integer may have more digits than a float.
        return column.cast(pa.string())
    if types.is_decimal(kind) or types.is_floating(kind):
        return _finite(pa, column.cast(pa.float64()))
    if types.is_duration(kind) or types.is_time(kind):
        return column.cast(pa.int64()) if types.is_duration(kind) or kind.bit_width == 64 else column.cast(pa.int32())
    if types.is_struct(kind):
        fields = [_plain(pa, field) for field in column.flatten()]
        return pa.StructArray.from_arrays(fields, names=[field.name for field in kind], mask=column.is_null())
    return column


def _finite(pa: Any, column: Any) -> Any:
    """Numbers; infinite ones as texts, as JSON has none of them. NaN is null, as pandas writes it."""
    import pyarrow.compute as pc

    if not pc.any(pc.is_inf(column)).as_py():
        return column
    return pa.array([None if one is None or one != one else repr(one) for one in column.to_pylist()], pa.string())


def _text(pa: Any, column: Any) -> Any:
    """Bytes as UTF-8; what is none is a text with escapes, so that it is no other customer's."""
    texts = [None if value is None else value.decode(errors="backslashreplace") for value in column.to_pylist()]
    return pa.array(texts, pa.string())
