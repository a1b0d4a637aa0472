"""What deploy/ holds."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

DEPLOY = Path(__file__).parents[1] / "deploy"


RULES = DEPLOY / "prometheus" / "alerts.yml"


DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "dashboards" / "streamseg.json").read_text(encoding="utf-8"))


def metrics_in(expression: str) -> set[str]:
    """Names of metrics, without what histograms and counters add."""
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"\bstreamseg_\w+", expression)}


def queries() -> list[tuple[str, str]]:
    """Title of the panel, and query."""
    return [(panel["title"], target["expr"]) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
