"""What happens around training: saving, stopping, logging, showing. One callback a file."""

from segplan.training.callbacks.checkpoints import Checkpoints
from segplan.training.callbacks.early_stopping import EarlyStopping
from segplan.training.callbacks.epoch_end import EpochEnd
from segplan.training.callbacks.freezing import Freezing
from segplan.training.callbacks.history import History
from segplan.training.callbacks.metrics_csv import MetricsCSV
from segplan.training.callbacks.progress import ProgressBar
from segplan.training.callbacks.stopping import StopOnSignal, TrainingStoppedError
from segplan.training.callbacks.time_limit import TimeLimit, time_limit
from segplan.training.callbacks.whole_cases import WholeCases, choose_cases

__all__ = [
    "Checkpoints",
    "EarlyStopping",
    "EpochEnd",
    "Freezing",
    "History",
    "MetricsCSV",
    "ProgressBar",
    "StopOnSignal",
    "TimeLimit",
    "TrainingStoppedError",
    "WholeCases",
    "choose_cases",
    "time_limit",
]
