"""Files that a job begins from: a model that was fitted, and the customers of a reference."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from streamseg.config import Config
from streamseg.core.model.initialization import start_from_fitted
from streamseg.core.model.model_file import FittedModel, load_fitted
from streamseg.core.model.records import Start
from streamseg.core.model.reference import Reference
from streamseg.errors import ConfigError


def warm_start_of(config: Config) -> Start | None:
    """First centers of `model.start`; None where there is none. Raises ConfigError."""
    fitted = _read_fitted(config)
    if fitted is None:
        return None
    try:
        return start_from_fitted(config.job_settings().model, fitted)
    except (ValueError, KeyError) as error:
        raise ConfigError(
            f"the model file does not fit: {error}",
            where=str(config.model.start),
            hint="fit one with the features and the number of segments that are set here (`streamseg fit`), or set its own",
        ) from None


def _read_fitted(config: Config) -> FittedModel | None:
    """The warm start's model file. Raises ConfigError."""
    if config.model.start is None:
        return None
    path = Path(config.model.start)
    try:
        return load_fitted(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"cannot read the model file: {error}", where="model.start", hint="`streamseg fit` writes one"
        ) from None
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"{str(path)!r} is no model file: {error}", where="model.start", hint="`streamseg fit` writes one"
        ) from None


def reference_of(config: Config) -> Reference | None:
    """The customers of `metrics.reference`; None where there is none. Raises ConfigError."""
    path = config.metrics.reference
    if path is None:
        return None
    # Only here: pandas takes a second to import.
    from streamseg.config.tables import read_table, transformed

    try:
        frame, _ = read_table(Path(path), config)
    except ConfigError as error:
        raise ConfigError(error.message, where="metrics.reference", hint=error.hint) from None
    weighted = transformed(frame, config).T
    names = config.model_spec().names
    x = np.full((len(names), weighted.shape[1]), np.nan)
    x[[names.index(name) for name in frame.columns]] = weighted
    return Reference(list(range(weighted.shape[1])), x)
