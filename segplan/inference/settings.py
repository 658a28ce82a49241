"""What a user may choose about inference. No torch here: settings are checked before it loads."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segplan.errors import ConfigError, ModelError

NNUNET, STUNET_V1 = "nnunet", "stunet_v1"
MODES = (NNUNET, STUNET_V1)
FAST = "fast"
ACCUMULATORS = ("auto", "float32", "float16")
CPU = "cpu"
EXPORT_DEVICES = ("auto", CPU)


@dataclass(frozen=True)
class InferenceSettings:
    """Settings of tiled inference.

    Args:
        step_size: largest distance of two tiles as a fraction of the patch; larger is faster and a little less exact.
        mirror: average mirror images: along the axes that the training mirrored (True), none (False), or some.
        tile_batch_size: tiles × mirror images of a forward pass; "auto" chooses by device and patch.
        accumulator: "float32": one sum over tiles for all folds. "float16": nnU-Net 2.8.1's arithmetic bit by bit: a
            half-precision sum a fold, so its rounding errors too (but no overflow). "auto": float16 where the network
            runs in single precision, so that its answers can be compared; else float32.
        mode: "nnunet": normalise, then resample; average logits. "stunet_v1": resample, then normalise; average
            probabilities, as STU-Net's own program does. "auto": what the model was made for. "fast": as auto, but
            labels are decided on the network's grid, and the label map is resampled: coarser borders, no probabilities.
        skip_background: do not run tiles that hold only air; what lies there becomes background.
        export_device: where logits are resampled and become labels: "auto", where the network runs if that has room;
            "cpu". Probabilities are resampled on the CPU.
        compile: the network, with torch.compile: about a minute before the first case, faster tiles from then on.

    Raises:
        ConfigError: a value cannot work.
    """

    step_size: float = 0.5
    mirror: bool | tuple[int, ...] = True
    tile_batch_size: int | str = "auto"
    accumulator: str = "auto"
    mode: str = "auto"
    skip_background: bool = False
    export_device: str = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        step: object = self.step_size
        if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step <= 1:
            raise ConfigError("must be above 0 and at most 1", f"inference.step_size={self.step_size}", "Use 0.5.")
        size: object = self.tile_batch_size
        if size != "auto" and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError("must be auto or at least 1", f"inference.tile_batch_size={size}", "Use auto.")
        if self.accumulator not in ACCUMULATORS:
            known = ", ".join(ACCUMULATORS)
            raise ConfigError(f"must be one of {known}", f"inference.accumulator={self.accumulator}", "Use auto.")
        if self.export_device not in EXPORT_DEVICES:
            known = " or ".join(EXPORT_DEVICES)
            raise ConfigError(f"must be {known}", f"inference.export_device={self.export_device}", "Use auto.")
        if self.mode not in ("auto", *MODES, FAST):
            raise ConfigError("is unknown", f"inference.mode={self.mode}", f"Use auto, {', '.join(MODES)} or {FAST}.")
        for key in ("skip_background", "compile"):
            if not isinstance(getattr(self, key), bool):
                raise ConfigError("must be true or false", f"inference.{key}={getattr(self, key)}", "Use false.")
        self._check_sums(self.mode)

    def mode_for(self, plan: Mapping[str, Any]) -> str:
        """The mode to predict in with a model of the plan node `plan`, which may name its own.

        Raises:
            ModelError: the model names one that there is not.
            ConfigError: stunet_v1 with regions, a cascade or half-precision sums, which it was not made for.
        """
        mode = str(plan.get("inference_mode", NNUNET)) if self.mode in ("auto", FAST) else self.mode
        if mode not in MODES:
            raise ModelError(f"there is no inference_mode {mode}", "model.json", f"Use {' or '.join(MODES)}.")
        if mode == NNUNET:
            return mode
        if plan.get("regions_class_order") or plan.get("previous_stage"):
            what = "is for plain labels and a single stage; the model has regions or a previous stage"
            raise ConfigError(what, f"inference.mode={mode}", f"Use inference.mode={NNUNET}.")
        self._check_sums(mode)
        return mode

    def _check_sums(self, mode: str) -> None:
        if mode == STUNET_V1 and self.accumulator == "float16":
            raise ConfigError("adds up probabilities in float32", f"inference.mode={mode}", "Use accumulator=float32.")
