"""Any torchio transform as one of the pipeline's transforms, spatial ones included (they act on the cut patch)."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segplan.augmentation.transform import Context, seed_from
from segplan.errors import ConfigError


@dataclass(frozen=True)
class TorchioParams:
    """The seed of everything random inside the torchio transform."""

    seed: int


class TorchioTransform:
    """Run a torchio transform on a patch: intensities as a ScalarImage, labels as a LabelMap.

    torchio sees the array axes (z, y, x) as its three spatial axes, of 1 mm each; a 2D patch has one voxel along the
    last. Spatial transforms see the patch alone: what they move in from beyond it is torchio's padding (the image's
    minimum and the background, unless set otherwise), where `Spatial` finds the case itself. torchio samples label
    maps by nearest neighbour. The transform's own probability `p` is drawn from the sample's random stream. Patches on
    an accelerator go to the CPU and back.

    Args:
        transform: a `torchio.Transform`.
        name: of its configuration node, for messages.

    Raises:
        ConfigError: `transform` is none of torchio's.
    """

    def __init__(self, transform: Any, name: str = "torchio") -> None:
        import torchio

        if not isinstance(transform, torchio.Transform):
            raise ConfigError(
                f"{type(transform).__name__} is neither one of segplan's transforms nor one of torchio's",
                where=f"augmentation: {name}",
                remedy="Name a class of segplan.augmentation or torchio as its _target_.",
            )
        self.name = name
        self.probability = float(transform.probability)
        transform.probability = 1
        self._transform = transform

    @property
    def is_for_volumes(self) -> bool:
        """Whether 2D patches cannot have it.

        RandomMotion puts the movements together along the last axis, of which a 2D patch has one voxel: all of it then
        comes from the last movement, and its labels stay behind.
        """
        import torchio

        return isinstance(self._transform, torchio.RandomMotion | torchio.Motion)

    def sample(self, rng: np.random.Generator, context: Context) -> TorchioParams | None:
        """Draw the seed, or None where the sample stays as it is."""
        return TorchioParams(seed_from(rng)) if rng.random() < self.probability else None

    def apply(self, image: Tensor, labels: Tensor, params: TorchioParams) -> tuple[Tensor, Tensor]:
        """Return the transformed `image` (C, *spatial) and `labels` (L, *spatial).

        Raises:
            ConfigError: the transform changes the patch's size.
        """
        import torchio

        is_flat = image.ndim == 3
        subject = torchio.Subject(
            image=torchio.ScalarImage(tensor=_as_4d(image)), labels=torchio.LabelMap(tensor=_as_4d(labels))
        )
        with _seeded(params.seed):
            transformed = self._transform(subject)
        new_image, new_labels = transformed["image"].data.float(), transformed["labels"].data.to(labels.dtype)
        if is_flat:
            new_image, new_labels = new_image[..., 0], new_labels[..., 0]
        if new_image.shape != image.shape or new_labels.shape != labels.shape:
            raise ConfigError(
                f"the transform makes a patch of {tuple(new_image.shape[1:])} out of {tuple(image.shape[1:])}",
                where=f"augmentation: {self.name}",
                remedy="Patches must keep their size: leave it out.",
            )
        return new_image.contiguous().to(image.device), new_labels.contiguous().to(labels.device)


def _as_4d(patch: Tensor) -> Tensor:
    return patch[..., None].cpu() if patch.ndim == 3 else patch.cpu()


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global random streams that torchio draws from, and give them back as they were."""
    numpy_state = np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
