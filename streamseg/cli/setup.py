"""`streamseg init`, `config show`, `schema`, `backup`: getting started, looking things up, keeping a copy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from streamseg.cli.common import AsJson, ConfigFile, Set, State, configuration, out, process_edge
from streamseg.config import flat_keys
from streamseg.config.template import SCHEMA_FILE, Template, render_schema, render_template
from streamseg.errors import ConfigError
from streamseg.formats.schemas import assignment_schema, dead_letter_schema, event_schema, segment_schema
from streamseg.transports.sqlite import back_up

config_app = typer.Typer(help="Look at the configuration.", no_args_is_help=True)


@process_edge
def init(
    directory: Annotated[Path, typer.Argument(help="Where to write.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    template: Annotated[
        Template, typer.Option(help="rfm: recency, frequency and monetary value of purchases as features.")
    ] = "default",
) -> None:
    """Write a commented `streamseg.toml`, and its JSON Schema for editors.

    Examples:

        streamseg init && streamseg config show --origin

        streamseg init --template rfm && streamseg run --input purchases.csv --output tags.jsonl
    """
    target = directory / "streamseg.toml"
    if target.exists() and not force:
        raise ConfigError(f"{target} exists already", hint="--force overwrites it")
    try:
        directory.mkdir(parents=True, exist_ok=True)
        target.write_text(render_template(template), encoding="utf-8")
        (directory / SCHEMA_FILE).write_text(render_schema(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write: {error}") from None
    events = "purchases.csv" if template == "rfm" else "events.jsonl"
    out.print(f"wrote {target} and {directory / SCHEMA_FILE}; next: streamseg run --input {events} --output tags.jsonl")


@config_app.command("show")
@process_edge
def config_show(
    config: ConfigFile = None,
    sets: Set = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value is from.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print every key with its value: flags win over the environment, that over the file, that over defaults.

    Examples:

        streamseg config show --origin

        STREAMSEG_MODEL__SEGMENTS=5 streamseg config show --origin --json
    """
    loaded = configuration(config, sets)
    flat = flat_keys(loaded.config)
    if as_json:
        values = {k: {"value": v, "origin": loaded.origins[k]} for k, v in flat.items()} if origin else flat
        print(json.dumps(values, indent=2))
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for key, value in flat.items():
        text = json.dumps(value)
        table.add_row(key, text, f"[dim]{loaded.origins[key]}" if origin else "")
    out.print(table, soft_wrap=True)


@process_edge
def backup(
    target: Annotated[Path, typer.Argument(help="The copy; it must not be there yet.")],
    state: State = None,
    config: ConfigFile = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="Of a state that lacks its -wal file, too.")] = False,
    sets: Set = None,
) -> None:
    """Copy a state file as of its last commit, also while a job writes to it.

    A plain copy of the file alone lacks what its -wal file holds. The outputs are files of their own: copy them after the
    state, so that they have at least what it has committed.

    Example:

        streamseg backup copy.db --state streamseg.db
    """
    path = configuration(config, sets, embedded__path=state).config.embedded.path
    if not Path(path).is_file():
        raise ConfigError(f"there is no state file {path!r}", hint="name it with --state FILE")
    if target.exists():
        raise ConfigError(f"{str(target)!r} is there already", hint="name another file for the copy")
    try:
        back_up(path, str(target), as_is=as_is)
    except OSError as error:
        raise ConfigError(f"cannot write the copy: {error}", hint="name another place for it") from None
    out.print(f"copied {path} to {target}", soft_wrap=True, markup=False)


@process_edge
def schema(
    what: Annotated[Literal["event", "assignment", "segment", "dead-letter"], typer.Argument(help="Which record.")],
    avro: Annotated[bool, typer.Option("--avro", help="Avro's, as output.format = avro registers it.")] = False,
    config: ConfigFile = None,
    sets: Set = None,
) -> None:
    """Print the JSON Schema of a record; that of the event is made from the configured features.

    Example:

        streamseg schema event > event.schema.json
    """
    if avro:
        print(json.dumps(_in_avro(what), indent=2))
        return
    loaded = configuration(config, sets).config
    schemas = {
        "event": lambda: event_schema(loaded.job_settings().fields),
        "assignment": assignment_schema,
        "segment": segment_schema,
        "dead-letter": dead_letter_schema,
    }
    print(json.dumps(schemas[what](), indent=2))


def _in_avro(what: str) -> dict[str, Any]:
    """Raises ConfigError."""
    if what != "assignment":
        raise ConfigError(
            f"there is no Avro schema of a {what}", hint="only tags are written in Avro: `schema assignment --avro`"
        )
    try:
        from streamseg.formats.avro_tags import tag_schema
    except ImportError:
        raise ConfigError("Avro takes more packages", hint='pip install "streamseg[registry]"') from None
    return tag_schema()
