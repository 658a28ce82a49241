"""The plan beside a published STU-Net file (FILE.pkl): read by an unpickler that builds arrays and numbers only."""

import pickle
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from segplan.errors import ModelError

_RECONSTRUCT = np.empty(0).__reduce__()[0]
_SCALAR = np.float64(0).__reduce__()[0]
_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _ALLOWED |= {(_module, "_reconstruct"): _RECONSTRUCT, (_module, "scalar"): _SCALAR}

_SCHEMES = MappingProxyType({"nonCT": "zscore", "noNorm": "none", "CT": "ct", "CT2": "ct"})


@dataclass(frozen=True)
class StunetPlan:
    """What predicting needs of the plan that weights were trained by; the defaults are the published one.

    Args:
        patch_size: voxels, (Z, Y, X).
        spacing: mm, (z, y, x).
        pools: downsampling from each stage to the next, per axis. Weights fit any; results differ.
        normalization: one scheme a channel.
        intensities: foreground statistics a channel, for the scheme ct.
    """

    patch_size: tuple[int, ...] = (128, 128, 128)
    spacing: tuple[float, ...] = (1.5, 1.5, 1.5)
    pools: tuple[tuple[int, ...], ...] = (*((2, 2, 2),) * 4, (1, 1, 2))
    normalization: tuple[str, ...] = ("zscore",)
    intensities: tuple[Mapping[str, float] | None, ...] = (None,)


def read_plan(path: Path) -> StunetPlan:
    """Read FILE.model.pkl or plans.pkl.

    Raises:
        ModelError: it is damaged, holds objects that could run code, or a plan that segplan does not know.
    """
    content = _unpickled(path)
    try:
        plans = content.get("plans", content)
        stages = plans["plans_per_stage"]
        stage = stages[max(stages)] if isinstance(stages, Mapping) else stages[-1]
        schemes = plans["normalization_schemes"]
        if [int(axis) for axis in plans.get("transpose_forward", (0, 1, 2))] != [0, 1, 2]:
            raise ModelError("transposes the axes", path, "Only plans without transposition can be imported.")
        known = (plans.get("dataset_properties") or {}).get("intensityproperties") or {}
        return StunetPlan(
            patch_size=tuple(int(size) for size in stage["patch_size"]),
            spacing=tuple(float(value) for value in stage["current_spacing"]),
            pools=tuple(tuple(int(step) for step in pool) for pool in stage["pool_op_kernel_sizes"]),
            normalization=tuple(_SCHEMES[schemes[channel]] for channel in sorted(schemes)),
            intensities=tuple(_intensities(known.get(channel)) for channel in sorted(schemes)),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ModelError(f"holds no plan that can be used ({error!r})", path, "Give use_plan=false.") from error


def strides_of(pools: Sequence[Sequence[int]], stages: int) -> list[list[int]]:
    """The strides of `stages` stages: ones, then the pools, cut off or filled up with ones (the authors' rule)."""
    rows = [[1, 1, 1], *([int(step) for step in pool] for pool in pools), *([[1, 1, 1]] * stages)]
    return rows[:stages]


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("_codecs", "encode"):
            return _latin1_bytes
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name}")
        return _ALLOWED[module, name]


def _latin1_bytes(text: str, encoding: str = "latin1") -> bytes:
    """Bytes as pickles of old protocols hold them; no other codec is ever looked up."""
    return text.encode("latin1")


def _unpickled(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            content = _Unpickler(file).load()
    except pickle.UnpicklingError as error:
        remedy = "It is not read: that could run code. use_plan=false does without it."
        raise ModelError(f"holds more than plain values ({error})", path, remedy) from error
    except Exception as error:  # a damaged pickle raises whatever its bytes lead to
        raise ModelError(f"cannot be read ({error})", path, "Give use_plan=false to do without it.") from error
    if not isinstance(content, Mapping):
        raise ModelError("holds no dictionary", path, "Give use_plan=false to do without it.")
    return content


def _intensities(known: Mapping[str, Any] | None) -> dict[str, float] | None:
    """The statistics alone: old plans keep samples of intensities beside them."""
    if known is None:
        return None
    return {str(key): float(value) for key, value in known.items() if isinstance(value, int | float | np.number)}
