"""On what device a run computes, and in what precision."""

from collections.abc import Callable

import torch
from omegaconf import DictConfig

from segplan.errors import ConfigError
from segplan.inference.precision import select_device
from segplan.training import auto_precision


def accelerator(config: DictConfig) -> str:
    """The type of device that the run uses: cpu, cuda or mps.

    Raises:
        ConfigError: this machine has no such device.
    """
    name = str(config.trainer.accelerator)
    if name == "auto":
        return select_device("auto").type
    kind = "cuda" if name == "gpu" else name
    there: dict[str, Callable[[], bool]] = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if kind in there and not there[kind]():
        raise ConfigError(f"this machine has no {kind} device", f"trainer.accelerator={name}", "Use auto or cpu.")
    return kind


def precision(config: DictConfig) -> tuple[str, str]:
    """Lightning's name of the precision, and why it was chosen."""
    chosen = str(config.trainer.precision)
    return auto_precision(accelerator(config)) if chosen == "auto" else (chosen, "asked for")
