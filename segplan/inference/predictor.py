"""Segment images with a trained model: from arrays or files to label maps, in memory."""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segplan.dataset import Labels
from segplan.errors import ConfigError, ImageError
from segplan.imaging import Geometry, Image, read_image
from segplan.inference.export import logits_to_probabilities, slabs_to_labels
from segplan.inference.mirror_swap import MirrorSwap, mirror_swap
from segplan.inference.network import check_model, load_network
from segplan.inference.precision import resolve_precision, select_device
from segplan.inference.resampled_first import preprocess_resampled_first
from segplan.inference.settings import STUNET_V1, InferenceSettings
from segplan.inference.tiled import Network, Tiling, auto_batch_size, sliding_window, stream_logits
from segplan.model_folder import ModelFolder
from segplan.preprocessing import PreprocessedCase, PreprocessingPlan, StoredCase, preprocess
from segplan.preprocessing.plan_node import labels_of, preprocessing_of

T = TypeVar("T")

_NO_SLICES = 999.0  # stands for the slice distance of 2D pictures: larger than any real one


@dataclass(frozen=True)
class Predictor:
    """A loaded model. Nothing changes after loading, so several threads may use one at the same time.

    Args:
        model: the folder it was read from.
        networks: one a fold; their logits are averaged.
        plan: how images are preprocessed.
        labels: what the network's channels stand for.
        tiling: how images are cut into tiles and what is averaged.
        previous: a cascade's first stage, whose segmentation is an input.
    """

    model: ModelFolder
    networks: tuple[nn.Module, ...]
    plan: PreprocessingPlan
    labels: Labels
    tiling: Tiling
    previous: "Predictor | None" = None

    @classmethod
    def from_model(
        cls,
        path: Path | str,
        folds: Sequence[int | str] | int | str | None = None,
        *,
        device: str | torch.device = "auto",
        precision: str | int = "auto",
        checkpoint: str = "final",
        step_size: float = InferenceSettings.step_size,
        mirror: bool | Sequence[int] = InferenceSettings.mirror,
        tile_batch_size: int | str = InferenceSettings.tile_batch_size,
        accumulator: str = InferenceSettings.accumulator,
        mode: str = InferenceSettings.mode,
        network_target: str | None = None,
    ) -> "Predictor":
        """Load a model folder.

        Args:
            path: a run folder, or any other folder with a model.json and weights.
            folds: those to average; None: all that have weights.
            device: "auto", "gpu", or what torch.device takes.
            precision: "auto", "32", "bf16" or "16": the arithmetic of the network.
            checkpoint: "final" weights or the "best" ones.
            step_size: see `InferenceSettings`, as the arguments after it.
            mirror: see there.
            tile_batch_size: see there.
            accumulator: see there.
            mode: see there.
            network_target: import path of the network's class, where that is none of segplan's.

        Raises:
            ModelError: the folder is no model, or lacks a fold that is asked for.
            ConfigError: a setting cannot work.
        """
        model = ModelFolder.open(path)
        settings = InferenceSettings(step_size, _plain_mirror(mirror), tile_batch_size, accumulator, mode)
        chosen = model.select_folds(folds, checkpoint)
        plan, labels = preprocessing_of(model.plan), labels_of(model.plan)
        check_model(model, labels.num_heads)
        target = select_device(device)
        networks = tuple(load_network(model, fold, checkpoint, network_target).to(target) for fold in chosen)
        tiling = _tiling_of(model, labels, settings, resolve_precision(precision, target), target)
        previous = None
        if (first_stage := model.previous) is not None:
            previous = cls.from_model(
                first_stage.path,
                device=target,
                precision=precision,
                step_size=step_size,
                mirror=mirror,
                tile_batch_size=tile_batch_size,
                accumulator=accumulator,
                mode=mode,
                network_target=network_target,
            )
        return cls(model, networks, plan, labels, tiling, previous)

    def predict(self, array: NDArray[Any], spacing: Sequence[float]) -> NDArray[np.unsignedinteger]:
        """Segment an image.

        Args:
            array: (C, Z, Y, X), or (C, Y, X) for a 2D picture; without C if the model has one channel.
            spacing: mm of the spatial axes, (z, y, x) or (y, x).

        Returns:
            The label of every voxel, (Z, Y, X) or (Y, X): the array's own frame, uint8 or uint16.

        Raises:
            ImageError: shapes, channels or values do not fit the model.
        """
        labels = self.segment(self.preprocess(image_from_array(array, spacing)))
        return labels[0] if len(spacing) == 2 else labels

    def predict_files(self, paths: Sequence[Path | str]) -> tuple[NDArray[np.unsignedinteger], Geometry]:
        """Segment the case whose channel files are `paths`; returns labels (Z, Y, X) and the files' geometry."""
        image = read_image([Path(path) for path in paths])
        return self.segment(self.preprocess(image)), image.geometry

    def preprocess(self, image: Image) -> PreprocessedCase:
        """The image on the network's grid; of a cascade with its first stage's labels as further channels, 0 or 1.

        Raises:
            ImageError: a value is NaN or infinite, or the image does not fit the model.
        """
        for number, channel in enumerate(image.array):
            if not np.isfinite(channel.sum(dtype=np.float64)):
                raise ImageError(f"channel {number} holds NaN or infinite values", remedy="Replace them by real ones.")
        if self.tiling.probabilities:
            return preprocess_resampled_first(image, self.plan)
        if self.previous is None:
            return preprocess(image, None, self.plan)
        earlier = self.labels.to_indices(self.previous.segment(self.previous.preprocess(image)))
        return with_label_channels(preprocess(image, earlier, self.plan), len(self.labels.foreground_labels))

    def segment(self, case: PreprocessedCase, seconds: dict[str, float] | None = None) -> NDArray[np.unsignedinteger]:
        """Labels (Z, Y, X) in the original frame; `seconds` receives the time spent in `network` and `export`."""
        clock = {} if seconds is None else seconds
        start = time.perf_counter()
        slabs = _timed(stream_logits(self.networks, case.image, self.tiling, self.device), clock, "network")
        labels = slabs_to_labels(slabs, case.properties, self.plan, self.labels)
        clock["export"] = time.perf_counter() - start - clock.get("network", 0.0)
        return labels

    def probabilities(self, case: PreprocessedCase) -> NDArray[np.float32]:
        """Probabilities (K, Z, Y, X) in the original frame; holds all classes in memory."""
        logits = sliding_window(self.networks, case.image, self.tiling, self.device)
        ready = self.tiling.probabilities
        return logits_to_probabilities(logits, case.properties, self.plan, self.labels, are_probabilities=ready)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.networks[0].parameters()).device


def with_label_channels(case: PreprocessedCase, count: int) -> PreprocessedCase:
    """Append to the image of `case` a channel for each of its labels 1 … `count`: 1 where the label is, else 0."""
    if case.labels is None:
        raise ValueError("the case has no labels")
    channels, *shape = case.image.shape
    image = np.empty((channels + count, *shape), dtype=np.float32)
    image[:channels] = case.image
    for label in range(1, count + 1):
        np.equal(case.labels, label, out=image[channels + label - 1], casting="unsafe")
    return dataclasses.replace(case, image=image)


def segment_stored_case(
    networks: Network | Sequence[Network],
    case: StoredCase,
    plan: PreprocessingPlan,
    labels: Labels,
    tiling: Tiling,
    *,
    device: torch.device | str = "cpu",
) -> NDArray[np.unsignedinteger]:
    """Segment a case of a store; its image is read tile by tile.

    Args:
        networks: in evaluation mode, on `device`; several are averaged.
        case: as `CaseStore.open` gives it.
        plan: the plan that it was preprocessed by.
        labels: what the channels stand for.
        tiling: see `make_tiling`.
        device: where the networks are.

    Returns:
        Labels (Z, Y, X) in the original frame, as `StoredCase.reference` is.
    """
    return slabs_to_labels(stream_logits(networks, case.image, tiling, device), case.properties, plan, labels)


def make_tiling(
    patch_size: Sequence[int],
    num_classes: int,
    settings: InferenceSettings,
    *,
    mirror_axes: Sequence[int] | None,
    dtype: torch.dtype,
    device: torch.device,
    swap: MirrorSwap | None = None,
    probabilities: bool = False,
) -> Tiling:
    """The tiling that settings mean for one model on one device.

    Args:
        patch_size: of the network, (Z, Y, X) or (Y, X).
        num_classes: channels of the logits.
        settings: what the user wants.
        mirror_axes: axes along which the training mirrored; None if it did not.
        dtype: number format of the forward pass.
        device: where the networks run.
        swap: channels that mirroring along one axis exchanges.
        probabilities: average these, not logits.

    Raises:
        ConfigError: mirroring is asked for on an axis that the training did not mirror.
    """
    allowed = tuple(mirror_axes or ())
    if isinstance(settings.mirror, bool):
        axes = allowed if settings.mirror else ()
    else:
        axes = settings.mirror
        if not set(axes) <= set(allowed):
            raise ConfigError(
                f"the training mirrored axes {list(allowed)} only", f"inference.mirror={list(axes)}", "Choose of those."
            )
    size = settings.tile_batch_size
    return Tiling(
        patch_size=tuple(patch_size),
        num_classes=num_classes,
        step_size=settings.step_size,
        mirror_axes=axes,
        batch_size=auto_batch_size(patch_size, device) if isinstance(size, str) else size,
        dtype=dtype,
        exact_half=settings.accumulator == "float16",
        mirror_swap=swap,
        probabilities=probabilities,
    )


def image_from_array(array: NDArray[Any], spacing: Sequence[float]) -> Image:
    """An image at the origin without rotation; arguments as in `Predictor.predict`.

    Raises:
        ImageError: the number of axes and spacings do not fit, or a spacing is no length.
    """
    values = np.asarray(array)
    if not all(np.isfinite(value) and value > 0 for value in spacing):
        raise ImageError(f"the spacing is {tuple(spacing)}", remedy="Give mm, all larger than 0.")
    if len(spacing) not in (2, 3) or values.ndim - len(spacing) not in (0, 1):
        raise ImageError(
            f"the array has {values.ndim} axes and the spacing {len(spacing)} entries",
            remedy="Give (C, Z, Y, X) with (z, y, x), or (C, Y, X) with (y, x).",
        )
    if values.ndim == len(spacing):
        values = values[None]
    if len(spacing) == 2:
        values = values[:, None]
    y, x = (float(value) for value in spacing[-2:])
    z = float(spacing[0]) if len(spacing) == 3 else _NO_SLICES * max(y, x)
    in_file_order = tuple(float(value) for value in reversed(spacing))
    direction = tuple(np.eye(len(spacing)).ravel().tolist())
    geometry = Geometry(len(spacing), in_file_order, (0.0,) * len(spacing), direction)
    return Image(np.asarray(values, dtype=np.float32), (z, y, x), geometry)


def _tiling_of(
    model: ModelFolder, labels: Labels, settings: InferenceSettings, dtype: torch.dtype, device: torch.device
) -> Tiling:
    return make_tiling(
        model.patch_size,
        labels.num_heads,
        settings,
        mirror_axes=model.mirror_axes,
        swap=mirror_swap(model.mirror_swap, labels, is_cascade=bool(model.plan.get("previous_stage"))),
        dtype=dtype,
        device=device,
        probabilities=settings.mode_for(model.plan) == STUNET_V1,
    )


def _plain_mirror(mirror: bool | Sequence[int]) -> bool | tuple[int, ...]:
    return mirror if isinstance(mirror, bool) else tuple(int(axis) for axis in mirror)


def _timed(items: Iterable[T], seconds: dict[str, float], stage: str) -> Iterator[T]:
    iterator = iter(items)
    while True:
        start = time.perf_counter()
        item = next(iterator, None)
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start
        if item is None:
            return
        yield item
