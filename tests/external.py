"""Models that are not ours."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec

from streamseg.engine.settings import JobSettings
from tests.harness import settings_for


class Bands:
    """Tells ages below the mean (1), above it (2) and far above (9); a question changes it, and one age it cannot learn."""

    def __init__(self) -> None:
        self.n, self.total, self.questions = 0, 0.0, 0

    def learn_one(self, x: dict[str, float]) -> None:
        if x.get("age") == 66.0:
            raise ValueError("not this age")
        self.n += 1
        self.total += x.get("age", 0.0)

    def predict_one(self, x: dict[str, float]) -> int:
        self.questions += 1
        beyond = x.get("age", 0.0) / (self.total / self.n)
        return 9 if beyond > 3.0 else 2 if beyond > 1.0 else 1


def external_settings(make: Any, snapshot_bytes: int = 16_000_000) -> JobSettings:
    settings = settings_for(snapshot_bytes, model={"segments": "auto", "warm_up": 20, "refits": False})
    spec = msgspec.structs.replace(settings.model, make=make, stickiness=0.0)
    return dataclasses.replace(settings, model=spec)
