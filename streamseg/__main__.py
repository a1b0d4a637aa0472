"""`python -m streamseg`."""

from streamseg.cli.main import app

app(prog_name="streamseg")
