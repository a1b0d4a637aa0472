"""`streamseg demo`: the first five minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from streamseg.application.wiring import dead_letters_path, open_reader, restored
from streamseg.cli.common import err, out, process_edge
from streamseg.cli.run import run_app, stop_on_signals
from streamseg.config import Config, load
from streamseg.engine.catalog import segment_records
from streamseg.engine.clock import SystemClock
from streamseg.engine.job import Job
from streamseg.observability.status import number

_DIRECTORY = Path("streamseg-demo")


@process_edge
def demo(
    directory: Annotated[Path, typer.Argument(help="Where events, tags and state go.")] = _DIRECTORY,
    write: Annotated[Path | None, typer.Option("--write", help="Only write the demo's files there.")] = None,
) -> None:
    """Stream a year of real shopping baskets through the segmenter, and look at the customers.

    Needs the extra `demo`. Run again it goes on where it was stopped; remove the directory to start over.

    Examples:

        streamseg demo

        streamseg demo --write shop && cd shop && streamseg run
    """
    # Only here: pandas takes a second to import, which every command would wait for.
    from streamseg.application.demo_data import CONFIG_FILE, CUSTOMERS_FILE, EVENTS_FILE, write_demo

    if write is not None:
        n = write_demo(write)
        out.print(
            f"wrote {n:,} events to {write / EVENTS_FILE}, customers to {write / CUSTOMERS_FILE}, and {write / CONFIG_FILE}"
        )
        out.print(f"next: cd {write} && streamseg run")
        return
    if not (directory / CONFIG_FILE).exists():
        out.print("reading a year of baskets ...")
        n = write_demo(directory)
        out.print(f"{n:,} baskets of 2017, in the order in which they were bought")
    config = in_directory(load(directory / CONFIG_FILE, {}, {}).config, directory)
    stop = stop_on_signals()
    run_app(config, stop, status=True, table=err.is_terminal)
    if stop.is_set():
        out.print("stopped; run the same command again to go on")
        return
    reader = open_reader(config)
    try:
        tell(restored(config, reader), config, directory)
    finally:
        reader.close()


def in_directory(config: Config, directory: Path) -> Config:
    """Relative paths of a configuration, as seen from its directory."""
    return config.model_copy(
        update={
            "input": config.input.model_copy(update={"path": str(directory / str(config.input.path))}),
            "output": config.output.model_copy(update={"path": str(directory / str(config.output.path))}),
            "embedded": config.embedded.model_copy(update={"path": str(directory / config.embedded.path)}),
        }
    )


def tell(job: Job, config: Config, directory: Path) -> None:
    """The segments in words, where the output lies, what to try next."""
    records = sorted(
        segment_records(job.state, job.settings.model, SystemClock().now_us()), key=lambda segment: -segment.size
    )
    out.print()
    for record in records:
        words = ", ".join(f"{name} {number(value)}" for name, value in record.center.items() if value is not None)
        out.print(
            f"[bold]{escape(record.name)}[/]: {record.size:,} households ({record.share:.0%}), {words}", soft_wrap=True
        )
    tags = Path(str(config.output.path))
    customer = next(iter(next(iter(job.tasks.values())).table.index))
    letters = dead_letters_path(tags)
    out.print(f"\ntags: {tags}   dead letters: {letters}   state: {config.embedded.path}", soft_wrap=True)
    out.print("try next:")
    out.print(f"  cd {directory}")
    out.print(f"  streamseg explain {customer}      why is this household where it is?")
    out.print("  streamseg segments         what are the segments?")
    out.print("  streamseg verify           is every tag what its baskets give?")
    out.print("  tail -n 1 tags.jsonl       one tag")
