"""river's face of the very model that the job runs."""

from streamseg.estimators.clusterers import KMeans, Segmenter
from streamseg.estimators.scaler import StandardScaler

__all__ = ["KMeans", "Segmenter", "StandardScaler"]
