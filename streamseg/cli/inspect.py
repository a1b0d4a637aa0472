"""`streamseg segments`, `explain`, `verify`: reading a state, also while a job writes it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from streamseg.application.wiring import open_state, rename_segment, restored
from streamseg.cli.common import (
    AsJson,
    Checkpoint,
    ConfigFile,
    Kafka,
    Set,
    State,
    configuration,
    err,
    fix_hashes,
    on_kafka,
    out,
    process_edge,
)
from streamseg.config import Config, Loaded, as_written
from streamseg.core.customers.aggregates import NO_TIME
from streamseg.core.model.state import ModelState
from streamseg.engine.catalog import segment_records
from streamseg.engine.clock import SystemClock
from streamseg.engine.explain import Explanation, FeatureValue
from streamseg.engine.explain import explain as explain_customer
from streamseg.engine.job import Job
from streamseg.engine.verify import verified
from streamseg.engine.verify_partition import Report
from streamseg.errors import ConfigError, DifferenceError, SettingsError
from streamseg.formats.outputs import SegmentRecord, encode_json
from streamseg.observability.status import bar, number, sigmas

T = TypeVar("T")

_NAME_LENGTH = 100
_REASONS = {"event": "because of an event", "model_update": "because the model changed", "time": "because time passed"}


def of_state(loaded: Loaded, look: Callable[[Config], T]) -> T:
    """Look at a state: with its own settings, where no others are given."""
    try:
        return look(loaded.config)
    except SettingsError as error:
        config = as_written(loaded, error.written)
        if config == loaded.config:
            raise
        fix_hashes(config)
        return look(config)


def read_job(config: Config, checkpoint: str | None) -> Job:
    """The job as of its last commit. Raises StreamsegError."""
    with closing(open_state(config, checkpoint)) as reader:
        return restored(config, reader)


segments_app = typer.Typer(invoke_without_command=True)


@segments_app.callback()
@process_edge
def segments(
    context: typer.Context,
    state: State = None,
    config: ConfigFile = None,
    kafka: Kafka = None,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
    sets: Set = None,
) -> None:
    """Print the segments: names, sizes, centers in your units, a rule for each; or rename one.

    Examples:

        streamseg segments --state streamseg.db

        streamseg segments --json | jq '.[].name'

        streamseg segments rename 3 "Weekend families" --state streamseg.db
    """
    if context.invoked_subcommand is not None:
        return
    loaded = configuration(config, sets, embedded__path=state, **on_kafka(kafka, state))
    job = of_state(loaded, lambda config: read_job(config, checkpoint))
    clock_us = SystemClock().now_us()
    found = segment_records(job.state, job.settings.model, clock_us) if job.state.ready else []
    found = sorted(found, key=lambda segment: -segment.size)
    if as_json:
        print(encode_json(found).decode())
        return
    if not found:
        warm_up = job.state.warm_up
        out.print(f"no segments yet: warming up, {len(warm_up.rows):,} customers of {job.settings.model.warm_up:,} seen")
        return
    out.print(segment_table(found), soft_wrap=True)
    for segment in found:
        if segment.suggested_name is not None:
            out.print(f"[dim]{segment.segment_id}: its customers are rather [/]{escape(segment.suggested_name)}[dim] now; "
                      f"`streamseg segments rename {segment.segment_id} NAME` gives it another name")  # fmt: skip
    for line in model_in_words(job):
        out.print(line, soft_wrap=True)


@segments_app.command("rename")
@process_edge
def rename(
    segment: Annotated[int, typer.Argument(min=0, help="The segment's id.")],
    name: Annotated[str, typer.Argument(help="Its name from now on.")],
    state: State = None,
    config: ConfigFile = None,
    kafka: Kafka = None,
    sets: Set = None,
) -> None:
    """Give a segment a name of your own: it wins over ours, and stays with the segment through refits.

    On files stop the job first: one process writes to a state. On Kafka workers take it from the log as they run.

    Example:

        streamseg segments rename 3 "Weekend families"
    """
    told = name.strip()
    if not 0 < len(told) <= _NAME_LENGTH or not told.isprintable():
        raise ConfigError(f"a name has 1 to {_NAME_LENGTH} printable characters", where="NAME", hint="give it such a one")
    loaded = configuration(config, sets, embedded__path=state, **on_kafka(kafka, state))
    before = of_state(loaded, lambda config: rename_segment(config, segment, told))
    out.print(f"segment {segment} was {escape(before)}, and is {escape(told)} now", soft_wrap=True)


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def model_in_words(job: Job) -> list[str]:
    """How many segments, why so many, which customers count, what became of others."""
    state, spec = job.state, job.settings.model
    number = _counted(len(state.segments), "segment")
    if state.external is not None:
        number += ", as the model of model.factory says"
        if state.external.refused:
            number += f"; [yellow]{state.external.refused:,} events were left out, as its learn_one failed[/]"
    elif state.natural is None:
        number += _of_a_start(state) if spec.n_segments is None else _as_set(state, spec.n_segments)
    elif state.natural:
        number += ": there are natural gaps between them"
    else:
        number += ": no natural gaps, so the number that is most stable between halves of the customers"
    lines = [f"[dim]{number}"]
    logged = [spec.names[j] for j in spec.logged.tolist()]
    if logged:
        lines.append(f"[dim]{escape(', '.join(logged))}: arithmetic means; --json has centers (geometric means) and ranges")
    lines += [
        f"[dim]{_counting(job)}; {_counted(state.promotions, 'refit')}; model version {state.version}, metric epoch "
        f"{state.metric.epoch}",
    ]
    lines += drift_in_words(job)
    for segment in state.segments:
        rule = state.rules.get(segment.id)
        if rule is not None:
            quality = f"precision {rule.precision:.0%}, coverage {rule.coverage:.0%}"
            lines.append(f"[dim]{segment.id}: {escape(rule.text)} ({quality})")
    lines += [
        f"[dim]{one.id} {escape(one.name)}: retired ({one.why}); customers moved to "
        f"{', '.join(map(str, one.successors)) or 'no other segment'}"
        for one in state.retired[-10:]
    ]
    return lines


def _as_set(state: ModelState, n_segments: int) -> str:
    return ", as set" + (f" to {n_segments}, and some retired since" if n_segments != len(state.segments) else "")


def _of_a_start(state: ModelState) -> str:
    """A model that came in from a file finds more segments where there are gaps for them."""
    first = min(one.born_version for one in (*state.segments, *state.retired))
    found = sum(one.born_version > first for one in state.segments)
    return f", {len(state.segments) - found} of the start and {found} found since" if found else ", as the start had"


def _counting(job: Job) -> str:
    """Which customers the centers are means of, and as of when."""
    state = job.state
    assert state.population is not None
    sums, as_of = state.population.sums, min((task.mark.sweep.as_of for task in job.tasks.values()), default=NO_TIME)
    when = "are now"
    if job.settings.layout.fades and as_of != NO_TIME:
        when = f"were at {_minute(as_of)}, or at a later event"
        for feature in job.settings.layout.features:
            if feature.aggregate == "recency" and feature.period_us:
                end = (as_of // feature.period_us + 1) * feature.period_us
                when += f"; {escape(feature.name)}: days before {_minute(end)}"
    counted = f"centers are the means of {int(sums.counts.sum()):,} of {state.customers:,} customers as they {when}"
    return f"{counted}; {sums.outliers:,} far beyond all others are not counted" if sums.outliers else counted


def _minute(time_us: int) -> str:
    return f"{datetime.fromtimestamp(time_us / 1e6, UTC):%Y-%m-%d %H:%M} UTC"


def drift_in_words(job: Job) -> list[str]:
    """Whether recent customers are others than those that the model began with."""
    watch, drift = job.replica.watch, job.drift()
    lines = []
    if watch.detections:
        lines.append(f"[dim]the loss rose {watch.detections} times, last at model version {watch.last_version}")
    if drift is None:
        return lines
    reported = [drift.features[name].in_words(name) for name in drift.drifted]
    if drift.shares_drifted:
        off = drift.share_off
        reported.append(f"sizes of segments (up to {f'{off:.0%} off' if off < 1 else f'{1 + off:,.0f} times as large'})")
    if not reported:
        return [*lines, f"[dim]no drift among the last {drift.n:,} customers"]
    levels = drift.shares_drifted or any(drift.features[name].horizon_s is None for name in drift.drifted)
    against = f" against the {drift.m:,} customers of the reference" if levels else ""
    return [*lines, f"[yellow]drift[/]{against}: {escape('; '.join(reported))}"]


def segment_table(found: list[SegmentRecord]) -> Table:
    features = list(found[0].center)
    table = Table(box=None, header_style="dim", pad_edge=False)
    for name in ["id", "segment", "customers", "share", *features, "radius"]:
        table.add_column(name, justify="left" if name in ("segment", "share") else "right", no_wrap=True)
    for segment in found:
        centers = [_cell(segment.mean.get(name, segment.center[name]), segment.z.get(name)) for name in features]
        radius = "" if segment.radius_p50 is None else f"{segment.radius_p50:.2f}"
        share = f"{bar(segment.share)} {segment.share:4.0%}"
        table.add_row(str(segment.segment_id), escape(segment.name), f"{segment.size:,}", share, *centers, radius)
    return table


def _cell(value: float | None, z: float | None) -> str:
    if value is None:
        return "[dim]unknown"
    return number(value) if z is None else f"{number(value)} [dim]{sigmas(z)}[/]"


@process_edge
def explain(
    customer: Annotated[str, typer.Argument(help="The customer's id.")],
    state: State = None,
    config: ConfigFile = None,
    kafka: Kafka = None,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
    sets: Set = None,
) -> None:
    """Say why a customer is where it is, since when, and how sure.

    Examples:

        streamseg explain 718 --state streamseg.db

        streamseg explain 718 --json
    """
    loaded = configuration(config, sets, embedded__path=state, **on_kafka(kafka, state))
    found = explain_customer(of_state(loaded, lambda config: read_job(config, checkpoint)), customer)
    if found is None:
        raise ConfigError(
            f"the state knows no customer {customer!r}",
            hint="ids are as in the events; erased ones are gone, and a job that is behind has not seen the newest yet",
        )
    if as_json:
        print(encode_json(found).decode())
        return
    for line in in_words(found):
        out.print(line, soft_wrap=True)


def in_words(found: Explanation) -> list[str]:
    if found.status == "waiting":
        return [f"Customer {escape(found.customer_id)} waits: {', '.join(found.missing)} not known yet.", *_values(found)]
    if found.segment_name is None:
        return [f"Customer {escape(found.customer_id)} has no segment yet: the model warms up.", *_values(found)]
    lines = [f"[bold]{escape(found.segment_name)}[/] (segment {found.segment_id})"]
    if found.margin is not None:
        lines.append(f"margin {found.margin:.2f}; runner-up {escape(found.runner_up_segment_name or '')} "
                     f"({found.runner_up_segment_id})")  # fmt: skip
    if found.drivers:
        lines.append("; ".join(f"{d.feature} {sigmas(d.z)} ({round(d.share, 2) + 0.0:.0%} of why)" for d in found.drivers))
    if found.entered_at is not None and found.reason is not None:
        moved = "entered" if found.previous_segment_name is None else "moved"
        origin = f" from {escape(found.previous_segment_name)}" if found.previous_segment_name else ""
        lines.append(f"{moved}{origin} on {_day(found.entered_at)} {_REASONS[found.reason]}")
    if found.outlier:
        lines.append("[yellow]an outlier: far from the center for its segment[/]")
    if found.now_nearest is not None:
        lines.append(
            f"[yellow]the model has moved on since: by its last event it would be in segment {found.now_nearest} now[/]"
        )
    return [*lines, *_values(found)]


def _values(found: Explanation) -> list[str]:
    def text(feature: FeatureValue) -> str:
        if feature.value is None:
            return f"{feature.name} unknown"
        return f"{feature.name} {number(feature.value)}" + ("" if feature.z is None else f" ({sigmas(feature.z)})")

    values = ", ".join(text(feature) for feature in found.features)
    return [f"[dim]{escape(values)}; last event {_day(found.last_event)}; model version {found.model_version}"]


def _day(iso: str) -> str:
    return f"{datetime.fromisoformat(iso):%-d %B %Y}"


@process_edge
def verify(
    state: State = None,
    config: ConfigFile = None,
    kafka: Kafka = None,
    checkpoint: Checkpoint = None,
    as_json: AsJson = False,
    sets: Set = None,
) -> None:
    """Prove from the logs that every tag follows from the input, or name the first difference (exit code 3).

    Examples:

        streamseg verify --state streamseg.db

        streamseg verify --json && echo every tag re-derived

        streamseg verify --config streamseg.toml --checkpoint s3://shop/segments
    """
    loaded = configuration(config, sets, embedded__path=state, **on_kafka(kafka, state))
    report = of_state(loaded, lambda config: _verified(config, checkpoint, quiet=as_json))
    if as_json:
        print(encode_json(report).decode())
    else:
        for line in report_lines(report):
            out.print(line, soft_wrap=True)
    if report.lost:
        raise DifferenceError(
            "not everything that should be there could be compared",
            where="; ".join(report.unread),
            hint="put back what is gone",
        )


def _verified(config: Config, checkpoint: str | None, *, quiet: bool) -> Report:
    columns = (TextColumn("verifying"), BarColumn(), TextColumn("{task.completed:,} records"), TimeElapsedColumn())
    shown = Progress(*columns, console=err, disable=quiet or not err.is_terminal, transient=True)
    with closing(open_state(config, checkpoint)) as reader, shown as progress:
        bar_id = progress.add_task("verify", total=None)

        def tell(done: int, total: int) -> None:
            progress.update(bar_id, completed=done, total=total)

        return verified(reader, config.job_settings(), SystemClock(), tell)


def report_lines(report: Report) -> list[str]:
    horizon = ", ".join(f"partition {p} from offset {offset:,}" for p, offset in report.horizon.items())
    lines = [
        f"[green]verified[/] {report.batches:,} batches: {report.records:,} records derived again, {report.tags:,} tags and "
        f"{report.dead_letters:,} dead letters the same, byte for byte"
        if report.batches
        else "[yellow]nothing to verify[/]: no batch lies between the oldest state that is kept and the end",
        f"horizon: {horizon} (model version {report.model_version})"
        + ("; what is older was truncated behind snapshots" if report.model_version else ", the beginning"),
    ]
    return lines + [f"[yellow]not compared:[/] {escape(text)}" for text in report.unread]
