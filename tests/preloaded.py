"""What processes of tests begin with. Importing it starts no thread and opens nothing."""

from __future__ import annotations

import warnings

warnings.simplefilter("ignore")

import scipy.optimize as scipy_optimize  # noqa: E402
import sklearn.cluster as sklearn_cluster  # noqa: E402

import streamseg.cli.main as cli  # noqa: E402
import streamseg.transports.kafka.transport as kafka  # noqa: E402
from streamseg.core.model import loss_monitor  # noqa: E402
from streamseg.core.numeric import seeding  # noqa: E402

loss_monitor.load()
seeding.load()

__all__ = ["cli", "kafka", "scipy_optimize", "sklearn_cluster"]
