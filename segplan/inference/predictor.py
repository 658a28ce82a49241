"""Segment images with a trained model: from arrays or files to label maps, in memory."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from segplan.dataset import Labels
from segplan.errors import ConfigError, ImageError, ModelError
from segplan.imaging import Geometry, Image, read_image
from segplan.inference.compiled import compile_network
from segplan.inference.export import logits_to_probabilities
from segplan.inference.image_kinds import segment_as_given
from segplan.inference.mirror_swap import MirrorSwap, mirror_swap
from segplan.inference.network import check_model, load_network
from segplan.inference.precision import resolve_precision, select_device
from segplan.inference.resampled_first import preprocess_resampled_first
from segplan.inference.settings import CPU, FAST, STUNET_V1, InferenceSettings
from segplan.inference.streaming import StreamedCase, open_probabilities, segment_case
from segplan.inference.tiled import Tiling, auto_batch_size, sliding_window
from segplan.model_folder import ONNX_FILE, ModelFolder
from segplan.preprocessing import PreprocessedCase, PreprocessingPlan, preprocess
from segplan.preprocessing.plan_node import labels_of, preprocessing_of


@dataclass(frozen=True)
class Predictor:
    """A loaded model. Nothing changes after loading, so several threads may use one at the same time.

    Args:
        model: the folder or zip it was read from.
        networks: one a fold; their logits are averaged.
        plan: how images are preprocessed.
        labels: what the network's channels stand for.
        tiling: how images are cut into tiles and what is averaged.
        previous: a cascade's first stage, whose segmentation is an input; None if that is handed in.
        postprocessing: steps that `predict` applies to label maps.
    """

    model: ModelFolder
    networks: tuple[nn.Module, ...]
    plan: PreprocessingPlan
    labels: Labels
    tiling: Tiling
    previous: "Predictor | None" = None
    postprocessing: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def from_model(
        cls,
        path: Path | str | ModelFolder,
        folds: Sequence[int | str] | int | str | None = None,
        *,
        device: str | torch.device = "auto",
        precision: str | int = "auto",
        checkpoint: str = "final",
        network_target: str | None = None,
        postprocess: bool = True,
        first_stage: bool = True,
        **settings: Any,
    ) -> "Predictor":
        """Load a model folder or a model's zip; nothing that it holds is run.

        Args:
            path: a run folder, any other folder with a model.json and weights, or a zip of `segplan export-model`.
            folds: those to average; None: all that have weights.
            device: "auto", "gpu", or what torch.device takes.
            precision: "auto", "32", "bf16" or "16": the arithmetic of the network.
            checkpoint: "final" weights or the "best" ones.
            network_target: import path of the network's class, where that is none of segplan's.
            postprocess: apply the model's own postprocessing, where it has one.
            first_stage: of a cascade: load the first stage too.
            **settings: see `InferenceSettings`: mirror=False, step_size=0.7, mode="fast" ...

        Raises:
            ModelError: the folder is no model, or lacks a fold that is asked for.
            ConfigError: a setting cannot work.
        """
        model = path if isinstance(path, ModelFolder) else ModelFolder.open(path)
        if not isinstance(settings.get("mirror", True), bool):
            settings["mirror"] = tuple(int(axis) for axis in settings["mirror"])
        chosen_settings = InferenceSettings(**settings)
        chosen = model.select_folds(folds, checkpoint)
        plan, labels = preprocessing_of(model.plan), labels_of(model.plan)
        check_model(model, labels.num_heads)
        target = select_device(device)
        networks = tuple(load_network(model, fold, checkpoint, network_target).to(target) for fold in chosen)
        if chosen_settings.compile:
            networks = tuple(compile_network(network, target) for network in networks)
        exported = any(model.weights_name(fold, checkpoint).endswith(ONNX_FILE) for fold in chosen)
        dtype = resolve_precision("32" if exported else precision, target)  # ONNX computes in what it was exported in
        previous = None
        if first_stage and model.previous is not None:
            stage = model.previous
            how: dict[str, Any] = {"device": target, "precision": precision, "network_target": network_target}
            previous = cls.from_model(stage, checkpoint=stage.best_kind, postprocess=False, **how, **settings)
        steps = model.postprocessing if postprocess else ()
        tiling = _tiling_of(model, labels, chosen_settings, dtype, target)
        return cls(model, networks, plan, labels, tiling, previous, steps)

    def predict(self, image: Any, spacing: Sequence[float] | None = None, *, output: Path | str | None = None) -> Any:
        """Segment an image, and return the label map as the same kind of thing.

        Args:
            image: an array (C, Z, Y, X), or (C, Y, X) for a 2D picture, without C if the model has one channel; an
                image of SimpleITK's or nibabel's; or a path. Channels in files or images of their own: a list.
            spacing: of an array: mm of the spatial axes, (z, y, x) or (y, x).
            output: for a path: the file to write.

        Returns:
            The label of every voxel: an array (Z, Y, X) or (Y, X) of uint8 or uint16 in the array's own frame, an image
            of the given library's in the given image's geometry, or `output`.

        Raises:
            ImageError: shapes, channels or values do not fit the model, or a file cannot be read or written.
        """
        return segment_as_given(self.segment_image, image, spacing, output)

    def predict_files(self, paths: Sequence[Path | str]) -> tuple[NDArray[np.unsignedinteger], Geometry]:
        """Segment the case whose channel files are `paths`; returns labels (Z, Y, X) and the files' geometry."""
        image = read_image([Path(path) for path in paths])
        return self.segment_image(image), image.geometry

    def segment_image(self, image: Image) -> NDArray[np.unsignedinteger]:
        """Labels (Z, Y, X) of an image in its own frame, postprocessed."""
        return postprocessed(self.segment(self.prepare(image)), image.spacing, self.postprocessing)

    def prepare(self, image: Image, earlier: NDArray[np.integer] | None = None) -> PreprocessedCase:
        """The image on the network's grid; of a cascade with the labels of its first stage.

        Args:
            image: as read, in its own frame.
            earlier: a cascade's first segmentation, (Z, Y, X) in the image's frame with the files' label values; None:
                the first stage is run.

        Raises:
            ImageError: a value is NaN or infinite, or the image does not fit the model.
            ModelError: a cascade's first stage was not loaded, and `earlier` is missing.
        """
        if image.geometry.dimension == 2 and len(self.tiling.patch_size) == 3:
            raise ImageError("it is a 2D picture, and the model is for volumes", remedy="Use a 2D model.")
        for number, channel in enumerate(image.array):
            if not np.isfinite(channel.sum(dtype=np.float64)):
                raise ImageError(f"channel {number} holds NaN or infinite values", remedy="Replace them by real ones.")
        if self.tiling.probabilities:
            return preprocess_resampled_first(image, self.plan)
        if not self.is_cascade:
            return preprocess(image, None, self.plan)
        if earlier is None:
            if self.previous is None:
                raise ModelError("its first stage was not loaded", self.model.path, "Give that stage's label map.")
            earlier = self.previous.segment(self.previous.prepare(image))
        return preprocess(image, self.labels.to_indices(earlier), self.plan)

    def preprocess(self, image: Image) -> PreprocessedCase:
        """As `prepare`, but of a cascade with the first stage's labels as further channels, 0 or 1: all in memory."""
        case = self.prepare(image)
        return with_label_channels(case, len(self.labels.foreground_labels)) if self.is_cascade else case

    def segment(self, case: PreprocessedCase, seconds: dict[str, float] | None = None) -> NDArray[np.unsignedinteger]:
        """Labels (Z, Y, X) in the original frame; `seconds` receives the time spent in `network` and `export`."""
        result = self.segment_case(case)
        if seconds is not None:
            seconds.update(result.seconds)
        return result.labels

    def segment_case(
        self,
        case: PreprocessedCase,
        *,
        store: Path | None = None,
        about: Mapping[str, Any] | None = None,
        entropy: bool = False,
    ) -> StreamedCase:
        """Segment a prepared case, slab by slab.

        Args:
            case: from `prepare` or `preprocess`.
            store: folder CASE.probabilities to write too.
            about: what the store says of itself.
            entropy: compute it too.
        """
        # What `preprocess` made has the channels already.
        channels = len(self.labels.foreground_labels) if len(case.image) < self._input_channels else 0
        how: dict[str, Any] = {"device": self.device, "entropy": entropy, "label_channels": channels}
        known = (self.networks, case, self.plan, self.labels, self.tiling)
        if store is None:
            return segment_case(*known, **how)
        with open_probabilities(store, case.properties, self.labels, about=about) as writer:
            return segment_case(*known, probabilities=writer, **how)

    def probabilities(self, case: PreprocessedCase) -> NDArray[np.float32]:
        """Probabilities (K, Z, Y, X) of a case of `preprocess` in the original frame; holds all classes in memory."""
        logits = sliding_window(self.networks, case.image, self.tiling, self.device)
        ready = self.tiling.probabilities
        return logits_to_probabilities(logits, case.properties, self.plan, self.labels, are_probabilities=ready)

    @property
    def is_cascade(self) -> bool:
        """Whether a previous stage's segmentation is an input."""
        return bool(self.model.plan.get("previous_stage"))

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return next(self.networks[0].parameters()).device

    @property
    def _input_channels(self) -> int:
        return len(self.plan.normalization) + (len(self.labels.foreground_labels) if self.is_cascade else 0)


def postprocessed(
    labels: NDArray[np.unsignedinteger], spacing: tuple[float, float, float], steps: Sequence[Mapping[str, Any]]
) -> NDArray[np.unsignedinteger]:
    """The label map (Z, Y, X) after the steps, which may change it in place; spacing in mm (z, y, x)."""
    if not steps:
        return labels
    from segplan.evaluation.postprocessing import apply_postprocessing

    done = apply_postprocessing(labels, spacing, steps, in_place=True)
    return done.astype(labels.dtype, copy=False)


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
    regions: bool = False,
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
        regions: the channels are regions.

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
        exact_half=not probabilities
        and (settings.accumulator == "float16" or (settings.accumulator == "auto" and dtype is torch.float32)),
        half_if_large=settings.accumulator == "auto" and not probabilities,
        mirror_swap=swap,
        probabilities=probabilities,
        fast=settings.mode == FAST,
        regions=regions,
        skip_background=settings.skip_background,
        export_on_host=settings.export_device == CPU,
    )


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
        regions=labels.has_regions,
    )
