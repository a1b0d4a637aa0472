"""Segments of the notebook (rows) and of the stream (columns), in customers. Reads labels.csv and tags.jsonl."""

import json
from pathlib import Path

import pandas as pd

notebook = pd.read_csv("labels.csv", dtype={"customer_id": str}).set_index("customer_id")["segment"]
# The last tag of a customer counts.
tags = map(json.loads, Path("tags.jsonl").read_text(encoding="utf-8").splitlines())
stream = pd.Series({tag["customer_id"]: tag["segment_id"] for tag in tags if "segment_id" in tag}, name="stream")
both = pd.concat([notebook, stream], axis=1, join="inner")
print(pd.crosstab(both["segment"], both["stream"]))
known = both[both["stream"].isin(notebook)]
if len(known) < len(both):
    print(f"{len(both) - len(known):,} customers are in segments that the stream found since")
print(f"{(known['segment'] == known['stream']).mean():.1%} of {len(known):,} customers have the same segment")
