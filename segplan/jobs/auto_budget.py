"""`budget=` of `segplan auto`: epochs, epochs and batches, or hours for all trainings together."""

import re
from dataclasses import dataclass

from segplan.errors import ConfigError

MOST_EPOCHS = 1000
LEAST_EPOCHS = 10
"""Fewer are no training: a budget of hours that does not reach for them is refused."""
_SECONDS = {"min": 60.0, "h": 3600.0, "d": 86400.0}
_TIME = re.compile(r"(\d+(?:\.\d+)?)(min|h|d)")
_EPOCHS = re.compile(r"(\d+)(?:x(\d+))?")


@dataclass(frozen=True)
class Budget:
    """How much training there is to be; what is None is left to the plan.

    Args:
        epochs: of every fold.
        batches: an epoch has.
        seconds: of all trainings together, instead of epochs.
    """

    epochs: int | None = None
    batches: int | None = None
    seconds: float | None = None

    def overrides(self) -> list[str]:
        """The words of a training with this budget, as far as they do not depend on how fast it is."""
        words = [] if self.epochs is None else [f"trainer.max_epochs={self.epochs}"]
        return words + ([] if self.batches is None else [f"trainer.limit_train_batches={self.batches}"])


def parse_budget(text: str | None) -> Budget:
    """Read `100`, `100x50`, or `30min`, `12h`, `2d`.

    Raises:
        ConfigError: it is none of these.
    """
    if text is None:
        return Budget()
    if match := _TIME.fullmatch(text.strip()):
        seconds = float(match[1]) * _SECONDS[match[2]]
        if seconds > 0:
            return Budget(seconds=seconds)
    if (match := _EPOCHS.fullmatch(text.strip())) and int(match[1]) > 0 and match[2] != "0":
        return Budget(int(match[1]), None if match[2] is None else int(match[2]))
    remedy = "Write budget=100 (epochs), budget=100x50 (epochs of 50 batches), or budget=12h (30min, 2d) for all folds."
    raise ConfigError("is no budget", f"budget={text}", remedy)


def epochs_within(seconds: float, epoch_seconds: float, trainings: int) -> int:
    """Epochs that each of so many equally long trainings gets.

    Raises:
        ConfigError: these are too few to train anything.
    """
    epochs = int(seconds / trainings / epoch_seconds)
    if epochs < LEAST_EPOCHS:
        needed = LEAST_EPOCHS * trainings * epoch_seconds / 3600
        each = "the training" if trainings == 1 else f"each of {trainings} trainings"
        what = f"the time is enough for {epochs} epochs of {each}"
        remedy = f"Give at least {needed:.1f}h, fewer folds= or configurations=, or shorter epochs: budget=100x50."
        raise ConfigError(what, "budget", remedy)
    return min(epochs, MOST_EPOCHS)
