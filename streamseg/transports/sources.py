"""Opens files as sources, by their endings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from streamseg.errors import ConfigError
from streamseg.transports.csv_file import CsvSource
from streamseg.transports.csv_format import FIND_ALL, Columns, CsvWanted
from streamseg.transports.files import JsonLinesSource, Source
from streamseg.transports.parquet_file import ParquetSource
from streamseg.transports.rotation import RotatedFile


def open_source(
    path: Path,
    columns: Columns,
    wanted: CsvWanted = FIND_ALL,
    *,
    follow: bool = False,
    lost: Literal["stop", "skip"] = "stop",
    at: Path | None = None,
) -> Source:
    """`columns`, `wanted`: for tables. `follow`, `lost`: of a file that grows and is rotated. Raises ConfigError.

    `at`: where the file is now, if it was rotated since.
    """
    _check(at or path)
    match path.suffix.lower():
        case ".csv" | ".tsv":
            return RotatedFile(
                path,
                lambda here, growth: CsvSource(here, columns, wanted, follow=growth == "grows"),
                at=at,
                follow=follow,
                lost=lost,
            )
        case ".jsonl" | ".ndjson" | ".json":
            return RotatedFile(
                path, lambda here, growth: JsonLinesSource(here, ended=growth == "ended"), at=at, follow=follow, lost=lost
            )
        case ".parquet":
            return ParquetSource(path, columns)
        case ending:
            raise ConfigError(
                f"cannot tell what {str(path)!r} holds by {ending!r}", hint="end it in .jsonl, .csv or .parquet"
            )


def _check(path: Path) -> None:
    """Raises ConfigError."""
    if path.is_dir():
        raise ConfigError(f"the input {str(path)!r} is a directory", hint="give a file with --input FILE, or - for stdin")
    if not path.exists():
        raise ConfigError(f"there is no input file {str(path)!r}", hint="give the events with --input FILE, or - for stdin")
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigError(f"cannot read the input file: {error}") from None
