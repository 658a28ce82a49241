"""What happens around training: saving, stopping, logging, showing. One callback a file."""

from segplan.training.callbacks.checkpoints import Checkpoints
from segplan.training.callbacks.freezing import Freezing
from segplan.training.callbacks.metrics_csv import MetricsCSV
from segplan.training.callbacks.progress import ProgressBar
from segplan.training.callbacks.stopping import StopOnSignal, TrainingStoppedError

__all__ = ["Checkpoints", "Freezing", "MetricsCSV", "ProgressBar", "StopOnSignal", "TrainingStoppedError"]
