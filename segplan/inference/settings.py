"""What a user may choose about inference. No torch here: settings are checked before it loads."""

from dataclasses import dataclass

from segplan.errors import ConfigError


@dataclass(frozen=True)
class InferenceSettings:
    """Settings of tiled inference.

    Args:
        step_size: largest distance of two tiles as a fraction of the patch; larger is faster and a little less exact.
        mirror: average mirror images: along the axes that the training mirrored (True), none (False), or some.
        tile_batch_size: tiles × mirror images of a forward pass; "auto" chooses by device and patch.
        accumulator: "float32": one sum for all folds. "float16": nnU-Net 2.8.1's arithmetic bit by bit: a
            half-precision sum a fold, so its rounding errors too.

    Raises:
        ConfigError: a value cannot work.
    """

    step_size: float = 0.5
    mirror: bool | tuple[int, ...] = True
    tile_batch_size: int | str = "auto"
    accumulator: str = "float32"

    def __post_init__(self) -> None:
        step: object = self.step_size
        if isinstance(step, bool) or not isinstance(step, int | float) or not 0 < step <= 1:
            raise ConfigError("must be above 0 and at most 1", f"inference.step_size={self.step_size}", "Use 0.5.")
        size: object = self.tile_batch_size
        if size != "auto" and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
            raise ConfigError("must be auto or at least 1", f"inference.tile_batch_size={size}", "Use auto.")
        if self.accumulator not in ("float32", "float16"):
            raise ConfigError("must be float32 or float16", f"inference.accumulator={self.accumulator}", "Use float32.")
