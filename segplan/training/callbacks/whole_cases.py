"""The true Dice during training: some validation cases are segmented whole, every so many epochs."""

import math
import time
from collections.abc import Callable, Mapping, Sequence

import pytorch_lightning as pl
import torch
from torch import nn

from segplan.errors import ConfigError
from segplan.networks import set_deep_supervision
from segplan.training.gather import gather_objects
from segplan.training.module import SegmentationModule

CaseDice = Callable[[nn.Module, str], Mapping[str, float]]
"""Segments a whole case with a network in evaluation mode; returns each target's Dice, NaN where it does not occur."""


class WholeCases(pl.Callback):
    """Measures the Dice over whole cases; `best` is chosen by it, and metrics.csv and the epoch's line show it.

    Args:
        cases: those to segment, the same each time; ranks share them.
        case_dice: segments and evaluates one.
        every_n_epochs: how often.

    Raises:
        ConfigError: `every_n_epochs` is no number of epochs.
    """

    def __init__(self, cases: Sequence[str], case_dice: CaseDice, every_n_epochs: int) -> None:
        if isinstance(every_n_epochs, bool) or not isinstance(every_n_epochs, int) or every_n_epochs < 1:
            raise ConfigError(
                f"{every_n_epochs} is no number of epochs", "validation.every_n_epochs", "Give 1 or more, or null."
            )
        self.cases, self.every_n_epochs = tuple(cases), every_n_epochs
        self._case_dice = case_dice

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say that there will be a true Dice."""
        if isinstance(pl_module, SegmentationModule):
            pl_module.true_dice = {}

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure, where it is time."""
        if not isinstance(pl_module, SegmentationModule):
            return
        pl_module.true_dice = {}
        if (trainer.current_epoch + 1) % self.every_n_epochs == 0:
            start = time.perf_counter()
            pl_module.true_dice = self._measure(trainer, pl_module)
            if trainer.is_global_zero:
                self._tell(trainer, pl_module, time.perf_counter() - start)

    def _measure(self, trainer: pl.Trainer, module: SegmentationModule) -> dict[str, float]:
        mine = self.cases[trainer.global_rank :: trainer.world_size]
        network = module.network
        heads = getattr(network, "deep_supervision", False)
        was_training, compiled = network.training, network._compiled_call_impl
        network.eval()
        network._compiled_call_impl = None  # tiles come in other shapes, and each would be compiled anew
        set_deep_supervision(network, False)
        try:
            with torch.inference_mode(), module.weights_to_use():
                dice = [dict(self._case_dice(network, case)) for case in mine]
        finally:
            set_deep_supervision(network, heads)
            network.train(was_training)
            network._compiled_call_impl = compiled
        return _means([case for rank in gather_objects(dice) for case in rank])

    def _tell(self, trainer: pl.Trainer, module: SegmentationModule, seconds: float) -> None:
        score = module.score
        if score is None:
            return
        is_best = module.best_true_dice is None or score > module.best_true_dice
        text = "  ".join(f"{name} {value:.3f}" for name, value in (module.true_dice or {}).items())
        line = f"full validation at epoch {trainer.current_epoch + 1} ({len(self.cases)} cases): {text}"
        print(f"{line}  mean {score:.3f}  {seconds:.0f} s{'  best so far' if is_best else ''}", flush=True)  # noqa: T201


def choose_cases(cases: Sequence[str], number: int | None) -> tuple[str, ...]:
    """The cases to validate with: `number` of them, evenly spread over the sorted names; None: all.

    Raises:
        ConfigError: the number cannot work.
    """
    ordered = sorted(cases)
    if number is None or (isinstance(number, int) and number >= len(ordered)):
        return tuple(ordered)
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigError(f"{number} is no number of cases", "validation.num_cases", "Give 1 or more, or null for all.")
    return tuple(ordered[(2 * place + 1) * len(ordered) // (2 * number)] for place in range(number))


def _means(cases: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each target's mean over the cases in which it occurs."""
    means = {}
    for name in dict.fromkeys(name for case in cases for name in case):
        values = [case[name] for case in cases if not math.isnan(case.get(name, math.nan))]
        means[name] = sum(values) / len(values) if values else math.nan
    return means
