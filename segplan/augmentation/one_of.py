"""One of several transforms, where they are alternatives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from segplan.augmentation.transform import Context, Transform, check_probability
from segplan.errors import ConfigError


@dataclass(frozen=True)
class OneOfParams:
    """Which transform acts, and its parameters."""

    name: str
    params: Any


@dataclass(frozen=True)
class OneOf:
    """Draw one of the transforms, each as likely; it then acts with its own probability.

    Args:
        transforms: by name.
        probability: share of samples in which one is drawn.
    """

    transforms: Mapping[str, Transform] = field(default_factory=dict)
    probability: float = 1.0

    def __post_init__(self) -> None:
        check_probability("one_of.probability", self.probability)
        if not isinstance(self.transforms, Mapping) or not self.transforms:
            raise ConfigError("there is nothing to choose from", "augmentation: one_of.transforms", "List transforms.")

    def sample(self, rng: np.random.Generator, context: Context) -> OneOfParams | None:
        """Draw the transform and its parameters, or None where none acts."""
        if rng.random() >= self.probability:
            return None
        names = list(self.transforms)
        name = names[rng.integers(len(names))]
        params = self.transforms[name].sample(rng, context)
        return None if params is None else OneOfParams(name, params)

    def apply(self, image: Tensor, labels: Tensor, params: OneOfParams) -> tuple[Tensor, Tensor]:
        """Apply the drawn transform to `image` (C, *spatial) and `labels` (L, *spatial)."""
        return self.transforms[params.name].apply(image, labels, params.params)
