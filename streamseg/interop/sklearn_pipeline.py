"""scikit-learn: a fitted Pipeline of StandardScaler and KMeans, in and out, through skops, which runs no code."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from streamseg.core.model.model_file import FittedModel
from streamseg.errors import ConfigError
from streamseg.interop.arrays import Arrays, arrays_of, model_of

# In the pipeline, for others to run: our own tags use the kernel's.
_LOG = np.log1p  # noqa: TID251
_SKOPS = "install streamseg with its extra `interop`"


def from_sklearn(pipeline: Any, columns: list[str] | None = None, where: str = "") -> FittedModel:
    """A model file's content from a fitted `Pipeline`, or from `KMeans` alone (fitted on columns that were not scaled).

    Parameters
    ----------
    pipeline
        `Pipeline(StandardScaler, KMeans)`, or `MiniBatchKMeans`; `KMeans` without a scaler is a model of unit scale.
    columns
        Names of the features, where the pipeline was fitted on an array and knows none.

    Raises
    ------
    ConfigError
        Where it is another estimator, is not fitted, or has no names.

    Examples
    --------
    >>> import pandas as pd
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from streamseg.interop import from_sklearn
    >>> frame = pd.DataFrame({"age": [20, 21, 60, 61], "income": [1.0, 2.0, 9.0, 8.0]})
    >>> model = from_sklearn(make_pipeline(StandardScaler(), KMeans(2, random_state=0)).fit(frame))
    >>> [feature.name for feature in model.features]
    ['age', 'income']
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.preprocessing import StandardScaler

    steps = [step for _, step in pipeline.steps] if hasattr(pipeline, "steps") else [pipeline]
    if not isinstance(steps[-1], KMeans | MiniBatchKMeans) or not all(isinstance(one, StandardScaler) for one in steps[:-1]):
        kinds = ", ".join(type(one).__name__ for one in steps)
        raise ConfigError(
            f"a pipeline of StandardScaler and KMeans is wanted, this is {kinds}",
            where=where,
            hint="fit make_pipeline(StandardScaler(), KMeans(...)) on the raw columns",
        )
    if len(steps) > 2 or not hasattr(steps[-1], "cluster_centers_"):
        raise ConfigError("the pipeline is not fitted, or scales twice", where=where, hint="fit it, with one StandardScaler")
    z = np.asarray(steps[-1].cluster_centers_, dtype=np.float64)
    n = z.shape[1]
    scaler = steps[0] if len(steps) == 2 else None
    mean, scale, count = np.zeros(n), np.ones(n), 1.0
    if scaler is not None:
        mean = np.zeros(n) if scaler.mean_ is None else np.asarray(scaler.mean_)
        # Not `var_`: what does not vary is divided by 1.
        scale = np.ones(n) if scaler.scale_ is None else np.asarray(scaler.scale_)
        count = float(np.max(scaler.n_samples_seen_))
    names = columns or list(getattr(steps[0], "feature_names_in_", []))
    if not names:
        raise ConfigError(
            "the pipeline was fitted on an array and knows no names",
            where=where,
            hint="name the columns with --columns a,b,c",
        )
    labels = getattr(steps[-1], "labels_", None)
    sizes = None if labels is None else np.bincount(labels, minlength=len(z)).astype(np.float64)
    ids = list(range(len(z)))
    return model_of(names, mean, scale, z, ids=ids, sizes=sizes, count=count, scaled=scaler is not None, where=where)


def to_sklearn(model: FittedModel) -> Any:
    """A fitted Pipeline whose `predict` gives places in `segment_ids_` of its last step. Logarithms are a step of its own.

    Raises
    ------
    ConfigError
        Where scikit-learn cannot hold the model.
    """
    from sklearn.cluster import KMeans
    from sklearn.compose import ColumnTransformer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    there = arrays_of(model)
    scaler = StandardScaler()
    scaler.mean_, scaler.scale_, scaler.var_ = there.mean, there.scale, there.scale**2
    scaler.n_samples_seen_, scaler.n_features_in_ = np.int64(_count(model)), len(there.names)
    kmeans = _kmeans(KMeans, there)
    logged = [f.name for f in model.features if f.transform == "log1p" and f.weight > 0.0]
    if not logged:
        scaler.feature_names_in_ = np.array(there.names, dtype=object)
        return make_pipeline(scaler, kmeans)
    # One column at a time, so that their order stays.
    each = [
        (name, FunctionTransformer(_LOG if name in logged else None, feature_names_out="one-to-one"), [name])
        for name in there.names
    ]
    import pandas as pd

    columns = ColumnTransformer(each, verbose_feature_names_out=False)
    columns.fit(pd.DataFrame(np.ones((2, len(there.names))), columns=there.names))
    return make_pipeline(columns, scaler, kmeans)


def _kmeans(make: Any, there: Arrays) -> Any:
    kmeans = make(len(there.ids), n_init=1, init=np.ascontiguousarray(there.z), max_iter=1)
    # k rows, k centers: all private fields of this version of scikit-learn are set.
    kmeans.fit(there.z)
    kmeans.cluster_centers_ = np.ascontiguousarray(there.z)
    kmeans.labels_ = np.arange(len(there.z), dtype=np.int32)
    kmeans.segment_ids_ = np.array(there.ids, dtype=np.int64)
    return kmeans


def _count(model: FittedModel) -> int:
    return max(1, round(max(feature.count for feature in model.features)))


def read_sklearn(path: Path, *, trust_pickle: bool = False, columns: list[str] | None = None) -> FittedModel:
    """From a file of skops; `trust_pickle`: or of pickle or joblib, which may run any code. Raises ConfigError."""
    try:
        from skops.io import get_untrusted_types, load
    except ImportError:
        raise ConfigError("models of scikit-learn are read through skops", hint=_SKOPS) from None
    try:
        unknown = get_untrusted_types(file=path)
        if unknown:
            raise ConfigError(
                f"the file has types that are not trusted: {', '.join(unknown)}",
                where=str(path),
                hint="a pipeline of StandardScaler and KMeans has none: save just that",
            )
        pipeline = load(path, trusted=[])
    except OSError as error:
        raise ConfigError(
            f"cannot read the model: {error}", where=str(path), hint="name the file that skops wrote"
        ) from None
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever skops raises, the file is not one of its own
        pipeline = _unpickled(path, error, trust_pickle=trust_pickle)
    return from_sklearn(pipeline, columns, str(path))


def _unpickled(path: Path, error: Exception, *, trust_pickle: bool) -> Any:
    """Raises ConfigError."""
    if not trust_pickle:
        raise ConfigError(
            f"the file is none of skops ({type(error).__name__})",
            where=str(path),
            hint="save it with skops.io.dump(pipeline, PATH); a pickle may run any code when it is loaded: --trust-pickle "
            "loads one that you made yourself",
        )
    try:
        import joblib

        return joblib.load(path)
    except (pickle.UnpicklingError, EOFError, AttributeError, ImportError, ValueError, KeyError, IndexError) as broken:
        raise ConfigError(
            f"the file is no pickle either: {broken}", where=str(path), hint="save the pipeline again"
        ) from None


def write_sklearn(model: FittedModel, path: Path) -> list[str]:
    """Raises ConfigError, OSError. Returns what the reader should know."""
    try:
        from skops.io import dump
    except ImportError:
        raise ConfigError("models of scikit-learn are written through skops", hint=_SKOPS) from None
    dump(to_sklearn(model), path)
    ids = [segment.id for segment in model.segments]
    said = (
        [f"predict gives places in segment ids {ids} (`segment_ids_` of the last step)"]
        if ids != list(range(len(ids)))
        else []
    )
    if any(feature.transform == "log1p" for feature in model.features):
        said.append("logarithms are log1p: for values below 0 the job takes -log1p(-x)")
    return said
