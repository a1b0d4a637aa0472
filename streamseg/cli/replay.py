"""`streamseg replay`: another configuration over the past, beside the current one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamseg.application.wiring import past, rehearse
from streamseg.cli.common import AsJson, ConfigFile, Kafka, Set, configuration, err, on_kafka, out, process_edge
from streamseg.config import Config, flat_keys
from streamseg.engine.backtest import Comparison, Rehearsal, compared
from streamseg.errors import ConfigError
from streamseg.formats.outputs import encode_json
from streamseg.observability.status import bar

# Rows of the table of who would be where.
_MOST_MOVES = 12


@process_edge
def replay(
    input_path: Annotated[
        str | None, typer.Option("--input", "-i", help="The events: a file, or on Kafka a topic; default: as configured.")
    ] = None,
    config: ConfigFile = None,
    kafka: Kafka = None,
    as_json: AsJson = False,
    sets: Set = None,
) -> None:
    """Run other settings over past events, beside the current ones, and print what would differ.

    All in memory: a running job, its state and its outputs are not touched.

    Examples:

        streamseg replay --input events.jsonl --set model.segments=5

        streamseg replay --kafka localhost:9092 --set model.half_life=2000 --json
    """
    given = sets or []
    if not given:
        raise typer.BadParameter("say what to try: --set key=value, such as --set model.half_life=2000")
    base = configuration(config, None, **_source(config, kafka, input_path)).config
    other = configuration(config, given, **_source(config, kafka, input_path)).config
    changed = [key for key, value in flat_keys(other).items() if value != flat_keys(base)[key]]
    if not changed:
        raise ConfigError("the settings to try are the current ones", where="--set", hint="change at least one")
    now, tried = run_both(base, other)
    rows, comparison = figures(now, tried), compared(now.job, tried.job)
    if as_json:
        print(encode_json(_json(rows, now, tried, comparison)).decode())
        return
    settings = {key: (flat_keys(base)[key], flat_keys(other)[key]) for key in changed}
    for table in (_table(settings, rows), *(_sizes(name, run) for name, run in (("now", now), ("tried", tried)))):
        out.print(table)
        out.print()
    for line in _moves(now, tried, comparison):
        out.print(line, soft_wrap=True)


def _source(config: Any, kafka: str | None, name: str | None) -> dict[str, str | None]:
    """--input names a topic where the events come from Kafka, else a file."""
    on_topic = kafka is not None or configuration(config, None).config.input.transport == "kafka"
    if on_topic:
        return {**on_kafka(kafka), "input__topic": name}
    return {**on_kafka(None, name), "input__path": name}


def run_both(base: Config, other: Config) -> tuple[Rehearsal, Rehearsal]:
    """Both over the same records, batch by batch. Raises StreamsegError."""
    events = past(base)
    now, tried = rehearse(base, events.starts), rehearse(other, events.starts)
    columns = (TextColumn("replaying"), TextColumn("{task.completed:,} records"), TimeElapsedColumn())
    with Progress(*columns, console=err, disable=not err.is_terminal, transient=True) as progress:
        task = progress.add_task("replay", total=None)
        for batch in events.batches:
            now.feed(batch)
            tried.feed(batch)
            progress.advance(task, sum(len(records.offsets) for records in batch.values()))
    now.feed({}, ended=True)
    tried.feed({}, ended=True)
    return now, tried


def figures(*runs: Rehearsal) -> dict[str, tuple[Any, ...]]:
    """Figures by name, one for each run."""
    return {name: tuple(figure(run) for run in runs) for name, figure in _FIGURES.items()}


def _mean(run: Rehearsal, what: str) -> float | None:
    quality = run.outcome.quality
    return round(float(getattr(quality, what)) / quality.rows, 4) if quality.rows else None


def _unexplained(run: Rehearsal) -> float | None:
    loss = _mean(run, "squared")
    inverse = run.job.state.metric.inverse(run.job.settings.model)
    varying = run.job.settings.model.feature_weight[inverse > 0.0].sum()
    return None if loss is None or not varying else round(loss / float(varying), 4)


_FIGURES: dict[str, Callable[[Rehearsal], Any]] = {
    "events": lambda run: sum(run.outcome.outcomes.values()),
    "dead letters": lambda run: run.outcome.outcomes["dead_letter"],
    "customers": lambda run: run.job.n_customers,
    "segments": lambda run: len(run.job.state.segments),
    "loss (mean squared distance of an event)": lambda run: _mean(run, "squared"),
    "loss, as a share of the variance": _unexplained,
    "silhouette": lambda run: _mean(run, "silhouette"),
    "outliers": lambda run: _mean(run, "outliers"),
    "moves by events": lambda run: run.outcome.moves["event"],
    "moves by the model": lambda run: run.outcome.moves["model_update"],
    "moves by time": lambda run: run.outcome.moves["time"],
    "promotions": lambda run: run.job.state.promotions,
}


def _table(settings: dict[str, tuple[Any, Any]], rows: dict[str, tuple[Any, ...]]) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name, justify in (("", "left"), ("now", "right"), ("tried", "right")):
        table.add_column(name, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for name, values in {**settings, **rows}.items():
        table.add_row(escape(name), *("-" if v is None else f"{v:,}" if isinstance(v, int) else str(v) for v in values))
    return table


def _sizes(name: str, run: Rehearsal) -> Table:
    table = Table(box=None, header_style="dim", pad_edge=False, title=name, title_justify="left", title_style="bold")
    for column, justify in (("id", "right"), ("segment", "left"), ("customers", "right"), ("share", "left")):
        table.add_column(column, justify=justify, no_wrap=True)  # type: ignore[arg-type]
    for one in run.job.segments():
        share = f"{bar(one.share)} {one.share:4.0%}"
        table.add_row(str(one.id), escape(one.name), f"{one.customers:,}", share)
    return table


def _moves(now: Rehearsal, tried: Rehearsal, comparison: Comparison) -> list[str]:
    before, after = ({s.id: s.name for s in run.job.state.segments} for run in (now, tried))
    lines = [f"agreement of both about customers: {comparison.agreement:.2f} (1: the same groups, 0: as by chance)"]
    for (one, other), n in comparison.moves.most_common(_MOST_MOVES):
        lines.append(f"[dim]{n:>9,}  {escape(before.get(one, '?'))} ({one}) → {escape(after.get(other, '?'))} ({other})")
    return lines


def _json(rows: dict[str, tuple[Any, ...]], now: Rehearsal, tried: Rehearsal, comparison: Comparison) -> dict[str, Any]:
    return {
        "figures": {name: dict(zip(("now", "tried"), values, strict=True)) for name, values in rows.items()},
        "segments": {"now": now.job.segments(), "tried": tried.job.segments()},
        "agreement": comparison.agreement,
        "moves": [{"now": one, "tried": other, "customers": n} for (one, other), n in sorted(comparison.moves.items())],
    }
