"""A real worker process: `python -m tests.integration.kafka_worker CONFIG_JSON_FILE WORKER_ID`."""

from __future__ import annotations

import json
import sys
from typing import Any

from streamseg.cli.main import app


def toml(value: Any) -> str:
    """JSON, but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(name)} = {toml(inner)}" for name, inner in value.items()) + "}"
    return json.dumps(value)


def main() -> None:
    # The file is passed key by key, as a user would with --set.
    from pathlib import Path

    sets = []
    for section, keys in json.loads(Path(sys.argv[1]).read_text()).items():
        if isinstance(keys, dict):
            sets += [f"--set={section}.{key}={toml(value)}" for key, value in keys.items()]
        else:
            sets.append(f"--set={section}={toml(keys)}")
    app(["run", "--log", "json", f"--set=worker.id={json.dumps(sys.argv[2])}", *sets])


if __name__ == "__main__":
    main()
