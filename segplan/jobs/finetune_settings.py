"""What a user may choose about fine-tuning. No torch here: settings are checked before it loads."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omegaconf import DictConfig, OmegaConf

from segplan.errors import ConfigError

_NODE = "finetune"
_ALL_ALIKE = MappingProxyType({"encoder": 1.0, "decoder": 1.0, "heads": 1.0, "other": 1.0})


@dataclass(frozen=True)
class FinetuneSettings:
    """Settings of fine-tuning.

    Args:
        recipe: name of the recipe that was chosen; it needs a checkpoint.
        checkpoint: weights to start from: a file, a fold's folder, or a model folder with one fold; None: random ones.
        heads: "new" starts the heads at random, "copy" copies those of the same number of classes.
        channels: "divide" or "repeat": see `segplan.training.finetune.transfer`.
        strict: refuse a source that does not fit; false: what does not fit starts anew.
        learning_rates: factor on the learning rate of each part of the network.
        freeze: parts or name patterns of weights that are not trained.
        freeze_epochs: for how many epochs; None: all.

    Raises:
        ConfigError: a value cannot work.
    """

    recipe: str | None = None
    checkpoint: str | None = None
    heads: str = "new"
    channels: str = "divide"
    strict: bool = True
    learning_rates: Mapping[str, float] = field(default_factory=lambda: _ALL_ALIKE)
    freeze: tuple[str, ...] = ()
    freeze_epochs: int | None = None

    def __post_init__(self) -> None:
        if self.recipe is not None and self.checkpoint is None:
            remedy = f"Give {_NODE}.checkpoint=FILE_OR_MODEL_FOLDER."
            raise ConfigError("says no weights to start from", f"{_NODE}={self.recipe}", remedy)
        _check_choice("heads", self.heads, ("new", "copy"))
        _check_choice("channels", self.channels, ("divide", "repeat"))
        for part, factor in self.learning_rates.items():
            where = f"{_NODE}.learning_rates.{part}"
            if part not in _ALL_ALIKE:
                raise ConfigError("there is no such part", where, f"There are {', '.join(_ALL_ALIKE)}.")
            if isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0:
                raise ConfigError(f"{factor} must be above 0", where, f"To keep a part: {_NODE}.freeze=[{part}].")
        if not all(isinstance(entry, str) for entry in self.freeze):
            raise ConfigError("must be a list of names", f"{_NODE}.freeze", "Write finetune.freeze=[encoder].")
        epochs: object = self.freeze_epochs
        if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
            raise ConfigError(f"{epochs} is no number of epochs", f"{_NODE}.freeze_epochs", "Give 1 or more, or null.")

    @property
    def source(self) -> Path | None:
        """Where the weights come from."""
        return None if self.checkpoint is None else Path(self.checkpoint)


def finetune_settings(node: DictConfig) -> FinetuneSettings:
    """The settings in a `finetune` node.

    Raises:
        ConfigError: a recipe was chosen without weights, or a value cannot work.
    """
    values: Any = OmegaConf.to_container(node, resolve=True)
    known = [item.name for item in fields(FinetuneSettings)]
    for key in values:
        if key not in known:
            raise ConfigError("there is no such key", f"{_NODE}.{key}", f"There are {', '.join(known)}.")
    if not isinstance(values.get("freeze", []), list):
        raise ConfigError("must be a list of names", f"{_NODE}.freeze", "Write finetune.freeze=[encoder].")
    return FinetuneSettings(**values | {"freeze": tuple(values.get("freeze", []))})


def _check_choice(key: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError("is unknown", f"{_NODE}.{key}={value}", f"Use {' or '.join(known)}.")
