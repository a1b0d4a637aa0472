"""`streamseg import` and `streamseg export`: models of scikit-learn, R and Spark MLlib in and out, ONNX out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from streamseg.cli.common import Checkpoint, ConfigFile, Kafka, Set, State, configuration, on_kafka, out, process_edge
from streamseg.cli.inspect import of_state, read_job
from streamseg.core.model.export import fitted_of
from streamseg.core.model.model_file import FittedModel, load_fitted, save_fitted
from streamseg.errors import ConfigError

_Columns = Annotated[str | None, typer.Option(help="Names of the features, where the model knows none: a,b,c.")]


@process_edge
def import_model(
    kind: Annotated[Literal["sklearn", "r", "mllib"], typer.Argument(help="What wrote it.")],
    path: Annotated[Path, typer.Argument(help="The model: a file of skops, a .csv or .rds of R, a folder of Spark.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Model file to write.")] = Path("model.json"),
    columns: _Columns = None,
    scaled: Annotated[Path | None, typer.Option(help="R: the scaled matrix, saved as .rds, too.")] = None,
    trust_pickle: Annotated[bool, typer.Option("--trust-pickle", help="Load a pickle, which may run any code.")] = False,
) -> None:
    """Make a model file, which `run --start` begins with, of a model that was fitted elsewhere.

    Examples:

        streamseg import sklearn pipeline.skops -o model.json

        streamseg import r model.csv -o model.json

        streamseg import mllib spark-model -o model.json
    """
    # Only here: scikit-learn and pyarrow take seconds to import.
    from streamseg import interop

    names = None if columns is None else [name.strip() for name in columns.split(",")]
    if not path.exists():
        raise ConfigError(f"there is no model {str(path)!r}", hint="name the file, or the folder, that was saved")
    if kind == "sklearn":
        model = interop.read_sklearn(path, trust_pickle=trust_pickle, columns=names)
    elif kind == "r":
        model = interop.read_r(path, scaled)
    else:
        model = interop.read_mllib(path)
    try:
        output.write_bytes(save_fitted(model))
    except OSError as error:
        raise ConfigError(f"cannot write the model file: {error}") from None
    features = ", ".join(feature.name for feature in model.features)
    out.print(f"{len(model.segments)} segments of {features}: wrote {output}", soft_wrap=True, markup=False)
    more = " --set model.scaling=none" if model.scaling == "none" else ""
    command = f"streamseg run --input events.jsonl --output tags.jsonl --start {output}{more}"
    out.print(f"next: {command}, with [[features]] of these names", soft_wrap=True, markup=False)


@process_edge
def export_model(
    to: Annotated[Literal["sklearn", "r", "mllib", "onnx", "json"], typer.Option(help="What is to read it.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File, or folder of Spark, to write.")],
    model: Annotated[Path | None, typer.Option(help="A model file, instead of a job's state.")] = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Take logarithms yourself: log1p features stay as they are.")
    ] = False,
    precision: Annotated[Literal["float64", "float32"], typer.Option(help="ONNX: of its numbers.")] = "float64",
    state: State = None,
    config: ConfigFile = None,
    kafka: Kafka = None,
    checkpoint: Checkpoint = None,
    sets: Set = None,
) -> None:
    """Write the model of a state, at its last version, for scikit-learn, R, Spark MLlib or ONNX.

    It says in which segment a table of customers is by their features: stickiness, re-tagging and names stay here.

    Examples:

        streamseg export --to sklearn --state streamseg.db -o segments.skops

        streamseg export --to mllib --kafka localhost:9092 -o segments-model

        streamseg export --to r -o segments.csv
    """
    from streamseg import interop

    if model is None:
        loaded = configuration(config, sets, embedded__path=state, **on_kafka(kafka, state))
        job = of_state(loaded, lambda config: read_job(config, checkpoint))
        try:
            fitted = fitted_of(job.state, job.settings.model)
        except ValueError as error:
            raise ConfigError(str(error), hint="run the job until it has a model, then export it") from None
    else:
        fitted = _model_file(model)
    try:
        if to == "json":
            output.write_bytes(save_fitted(fitted))
            said: list[str] = []
        elif to == "sklearn":
            said = interop.write_sklearn(fitted, output)
        elif to == "r":
            said = interop.write_r(fitted, output, as_is=as_is)
        elif to == "mllib":
            said = interop.write_mllib(fitted, output, as_is=as_is)
        else:
            said = interop.write_onnx(fitted, output, precision=precision, as_is=as_is)
    except OSError as error:
        raise ConfigError(f"cannot write the model: {error}", hint="name another place with --output") from None
    out.print(f"wrote {len(fitted.segments)} segments to {output}", soft_wrap=True, markup=False)
    for line in said:
        out.print(line, soft_wrap=True, markup=False)


def _model_file(path: Path) -> FittedModel:
    import msgspec

    try:
        return load_fitted(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"cannot read the model file: {error}", hint="`streamseg fit` writes one") from None
    except msgspec.MsgspecError as error:
        raise ConfigError(f"{str(path)!r} is no model file: {error}", hint="`streamseg fit` writes one") from None
