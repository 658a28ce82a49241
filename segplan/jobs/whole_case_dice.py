"""The Dice of a fold's whole validation cases while it is still training."""

from collections.abc import Callable

from torch import nn

from segplan.errors import ConfigError
from segplan.evaluation import Targets, case_metrics
from segplan.jobs import fold_validation
from segplan.jobs.training_setup import TrainingSetup
from segplan.training.callbacks import WholeCases, choose_cases

_DEFAULTS = {"every_n_epochs": None, "num_cases": None}


def whole_cases(setup: TrainingSetup) -> list[WholeCases]:
    """The callback that measures it, as `validation.every_n_epochs` and `validation.num_cases` say; none where off.

    Raises:
        ConfigError: a value cannot work, it would never be measured, or the fold has no validation cases.
    """
    node = setup.config.validation
    every, number = (node.get(key, default) for key, default in _DEFAULTS.items())
    if every is None:
        return []
    if not setup.split.validation:
        raise ConfigError("the fold has no validation cases", "validation.every_n_epochs", "Use another fold, or null.")
    measured = WholeCases(choose_cases(setup.split.validation, number), case_dice(setup), every)
    if every > (epochs := int(setup.config.trainer.max_epochs)):
        what = f"{every} is more than all epochs ({epochs}): nothing would be measured, and no best be chosen"
        raise ConfigError(what, "validation.every_n_epochs", f"Give {epochs} or less, or null.")
    return [measured]


def case_dice(setup: TrainingSetup) -> Callable[[nn.Module, str], dict[str, float]]:
    """What segments a stored case and returns the Dice of each target, on the original grid."""
    tiling = fold_validation.tiling_of(setup)
    targets = Targets.from_labels(setup.labels)

    def measure(network: nn.Module, identifier: str) -> dict[str, float]:
        case = setup.store.open(identifier)
        device = next(network.parameters()).device
        labels = fold_validation.segment_case(setup, network, case, tiling, device=device)
        metrics = case_metrics(labels, case.reference(), setup.labels)
        return {name: float(metrics[key]["Dice"]) for key, name in targets.names.items()}

    return measure
