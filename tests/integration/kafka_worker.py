"""A real worker process: `python -m tests.integration.kafka_worker CONFIG_JSON_FILE WORKER_ID`."""

from __future__ import annotations

import sys

from streamseg.cli.main import app


def main() -> None:
    # JSON is TOML's sibling: the file is passed key by key, as a user would with --set.
    import json
    from pathlib import Path

    sets = []
    for section, keys in json.loads(Path(sys.argv[1]).read_text()).items():
        if isinstance(keys, dict):
            sets += [f"--set={section}.{key}={json.dumps(value)}" for key, value in keys.items()]
        else:
            sets.append(f"--set={section}={json.dumps(keys)}")
    app(["run", "--log", "json", f"--set=worker.id={json.dumps(sys.argv[2])}", *sets])


if __name__ == "__main__":
    main()
