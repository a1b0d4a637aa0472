"""`streamseg export-customer` and `streamseg erase`: what is kept about one person."""

from __future__ import annotations

from typing import Annotated

import typer

from streamseg.application.personal_data import erase_customer, personal_data
from streamseg.cli.common import ConfigFile, Kafka, Set, State, configuration, on_kafka, out, process_edge
from streamseg.cli.inspect import of_state
from streamseg.errors import ConfigError
from streamseg.formats.outputs import encode_json

_Customer = Annotated[str, typer.Argument(help="The customer's id.")]


@process_edge
def export_customer(
    customer: _Customer, state: State = None, config: ConfigFile = None, kafka: Kafka = None, sets: Set = None
) -> None:
    """Print all that is kept about a customer, as JSON: features, segment, tags and dead letters.

    Example:

        streamseg export-customer 718 --state streamseg.db > 718.json
    """
    loaded = configuration(config, sets, embedded__path=state, **on_kafka(kafka, state))
    found = of_state(loaded, lambda one: personal_data(one, customer))
    if found.state is None and not found.tags and not found.dead_letters:
        raise ConfigError(f"nothing is kept about a customer {customer!r}", hint="ids are as in the events")
    print(encode_json({"customer_id": customer, **found._asdict()}).decode())


@process_edge
def erase(
    customer: _Customer,
    state: State = None,
    config: ConfigFile = None,
    kafka: Kafka = None,
    sets: Set = None,
) -> None:
    """Erase a customer: from the state, its logs, the model, tags and dead letters that are kept.

    On files stop the job first: one process writes to a state. On Kafka workers process it as they run.

    Example:

        streamseg erase 718 --state streamseg.db
    """
    loaded = configuration(config, sets, embedded__path=state, **on_kafka(kafka, state))
    for line in of_state(loaded, lambda one: erase_customer(one, customer)):
        out.print(line, soft_wrap=True, markup=False)
