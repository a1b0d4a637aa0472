"""`streamseg fit`: the batch script of today in one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from streamseg.cli.common import ConfigFile, Set, configuration, out, process_edge
from streamseg.core.model.model_file import FittedModel, save_fitted
from streamseg.errors import ConfigError
from streamseg.observability.status import number


@process_edge
def fit(
    file: Annotated[Path, typer.Argument(help="Customers, one a row: .csv, .parquet or .jsonl.")],
    segments: Annotated[int, typer.Option("--segments", "-k", min=1, max=64, help="Number of segments.")] = 5,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Model file to write.")] = None,
    config: ConfigFile = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of k-means.")] = 0,
    sets: Set = None,
) -> None:
    """Scale and cluster a table of customers with scikit-learn, print the profiles, save a model that `run` starts from.

    The columns are the configured features (default: age, income, purchases).

    Examples:

        streamseg fit customer_data.csv --segments 5 -o model.json

        streamseg run --input events.jsonl --output tags.jsonl --start model.json
    """
    # Only here: pandas and scikit-learn take seconds to import, which every command would wait for.
    from streamseg.application.fit import fit_table
    from streamseg.config.tables import read_table

    loaded = configuration(config, sets).config
    frame, left_out = read_table(file, loaded)
    model = fit_table(frame, loaded, segments, seed)
    out.print(profiles(model))
    missing = f", {left_out} left out, of whom a feature is missing or no measurement" if left_out else ""
    logged = ", ".join(feature.name for feature in model.features if feature.transform == "log1p")
    if logged:
        out.print(f"{logged}: arithmetic means; the model file has centers (means of the logarithm)")
    out.print(f"{len(frame)} customers{missing}, inertia {model.inertia:.6f}")
    if output is not None:
        try:
            output.write_bytes(save_fitted(model))
        except OSError as error:
            raise ConfigError(f"cannot write the model file: {error}") from None
        out.print(f"wrote {output}; next: streamseg run --input events.jsonl --output tags.jsonl --start {output}")


def profiles(model: FittedModel) -> Table:
    names = [feature.name for feature in model.features]
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ["id", "segment", "customers", *names]:
        table.add_column(name, justify="left" if name == "segment" else "right")
    for segment in model.segments:
        means = segment.mean or segment.center
        table.add_row(str(segment.id), segment.name, f"{segment.size:,.0f}", *[number(means[name]) for name in names])
    return table
