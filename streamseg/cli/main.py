"""`streamseg`: all commands."""

from __future__ import annotations

from typing import Annotated

import typer

from streamseg import __version__
from streamseg.cli.common import EXIT_CODES, out
from streamseg.cli.demo import demo
from streamseg.cli.fit import fit
from streamseg.cli.inspect import explain, segments_app, verify
from streamseg.cli.interop import export_model, import_model
from streamseg.cli.kafka import doctor, produce, redrive, repartition
from streamseg.cli.person import erase, export_customer
from streamseg.cli.replay import replay
from streamseg.cli.run import run
from streamseg.cli.setup import backup, config_app, init, schema
from streamseg.cli.spark import spark_app

app = typer.Typer(
    name="streamseg",
    help="Customer segments while the events flow. Begin with `streamseg demo`.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

for command in (demo, init, run, fit, explain, verify, schema, doctor, produce, repartition, redrive, replay, erase, backup):
    app.command()(command)
app.command("import")(import_model)
app.command("export")(export_model)
app.command("export-customer")(export_customer)
app.add_typer(segments_app, name="segments")
app.add_typer(config_app, name="config")
app.add_typer(spark_app, name="spark")


def _version(value: bool) -> None:
    if value:
        out.print(__version__)
        raise typer.Exit()


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """Customer segments while the events flow. Begin with `streamseg demo`."""


if __name__ == "__main__":
    app()
