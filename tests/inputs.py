"""From the bytes of a file to the columns of events, as a job reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from streamseg.application.wiring import source_of
from streamseg.config import Config
from streamseg.formats.events import Decoded, EventDecoder, Rejected

NOW_US = 1_800_000_000_000_000


JAN_1_10H = "2024-01-01T10:00:00"


def config(features: list[dict[str, Any]] | None = None, **of_input: Any) -> Config:
    given = features if features is not None else [{"name": "age"}, {"name": "spend"}]
    return Config.model_validate({"input": of_input, "features": given})


def events(path: Path, given: Config) -> tuple[Decoded, list[Rejected]]:
    source = source_of(given, path)
    values = source.read(0, 10_000).values
    decoder = EventDecoder(given.job_settings().fields)
    none = [None] * len(values)
    return decoder.decode(none, values, none, NOW_US)


def table(tmp_path: Path, content: bytes | str, given: Config, name: str = "e.csv") -> tuple[Decoded, list[Rejected]]:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return events(path, given)


def times(decoded: Decoded) -> list[str]:
    return [pd.Timestamp(int(t), unit="us").isoformat() for t in decoded.times]


def config_for(directory: Path, events: str = "events.jsonl", tags: str = "tags.jsonl") -> Config:
    return Config.model_validate(
        {
            "input": {"path": str(directory / events), "batch_records": 100},
            "output": {"path": str(directory / tags)},
            "embedded": {"path": str(directory / "state.db")},
            "model": {"segments": 3, "warm_up": 30},
        }
    )
