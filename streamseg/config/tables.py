"""A table of customers in a file, as `fit` and `metrics.reference` read it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from streamseg.config import Config
from streamseg.core.numeric.portable_math import signed_log1p
from streamseg.core.numeric.types import MAX_MAGNITUDE
from streamseg.errors import ConfigError


def read_table(file: Path, config: Config) -> tuple[pd.DataFrame, int]:
    """Columns of the weighted features, complete rows only, and how many rows were left out. Raises ConfigError."""
    if not file.is_file():
        raise ConfigError(f"there is no file {str(file)!r}", hint="name a table of customers, one a row")
    read = _READERS.get(file.suffix.lower())
    if read is None:
        raise ConfigError(
            f"cannot tell what {str(file)!r} holds by {file.suffix!r}", hint="end it in .jsonl, .csv or .parquet"
        )
    try:
        frame = read(file)
    except (ValueError, OSError, ImportError, pd.errors.ParserError) as error:
        raise ConfigError(f"cannot read {str(file)!r}: {error}", hint="its ending says what it is; text is UTF-8") from None
    features = [feature for feature in config.features if feature.weight > 0]
    for feature in features:
        if feature.one_hot is not None:
            raise ConfigError(f"fit takes numbers only, feature {feature.name!r} is a text field")
        if feature.name not in frame.columns:
            columns = ", ".join(map(str, frame.columns))
            raise ConfigError(
                f"{str(file)!r} has no column {feature.name!r}, it has: {columns}",
                hint="name the features in streamseg.toml ([[features]])",
            )
    try:
        numbers = frame[[feature.name for feature in features]].astype(np.float64)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{str(file)!r} has a value that is no number: {error}") from None
    # As of events: what is larger overflows when it is squared, and is a mistake.
    complete = (np.abs(numbers.to_numpy()) <= MAX_MAGNITUDE).all(axis=1)
    return numbers[complete], int((~complete).sum())


def _read_json_lines(file: Path) -> pd.DataFrame:
    return pd.read_json(file, lines=True)


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".parquet": pd.read_parquet,
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), _read_json_lines),
}


def transformed(frame: pd.DataFrame, config: Config) -> NDArray[np.float64]:
    """Rows (n, n_features) as the model sees them. IN frame."""
    transforms = {feature.name: feature.transform for feature in config.features}
    x = frame.to_numpy(dtype=np.float64).copy()
    for j, name in enumerate(frame.columns):
        if transforms[name] == "log1p":
            x[:, j] = signed_log1p(x[:, j])
    return x
