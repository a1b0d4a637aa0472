"""Opens files as sources, by their endings."""

from __future__ import annotations

from pathlib import Path

from streamseg.errors import ConfigError
from streamseg.transports.csv_file import CsvSource
from streamseg.transports.csv_format import FIND_ALL, Columns, CsvWanted
from streamseg.transports.files import JsonLinesSource, Source
from streamseg.transports.parquet_file import ParquetSource


def open_source(path: Path, columns: Columns, wanted: CsvWanted = FIND_ALL, *, follow: bool = False) -> Source:
    """`columns`, `wanted`, `follow`: for tables. Raises ConfigError."""
    if path.is_dir():
        raise ConfigError(f"the input {str(path)!r} is a directory", hint="give a file with --input FILE, or - for stdin")
    if not path.exists():
        raise ConfigError(f"there is no input file {str(path)!r}", hint="give the events with --input FILE, or - for stdin")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"cannot read the input file: {error}") from None
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return CsvSource(path, columns, wanted, follow=follow)
        case ".parquet":
            return ParquetSource(path, columns)
        case ".jsonl" | ".ndjson" | ".json":
            return JsonLinesSource(path)
        case ending:
            raise ConfigError(
                f"cannot tell what {str(path)!r} holds by {ending!r}", hint="end it in .jsonl, .csv or .parquet"
            )
