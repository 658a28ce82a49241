"""What preprocessing depends on, and nothing else: two plans that agree here share their preprocessed data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from segplan.errors import PlanError

NORMALIZATIONS = ("ct", "zscore", "none", "rescale_to_0_1", "rgb_to_0_1")

LABEL_RESAMPLING = ("votes", "nearest", "annotated")

CT_STATISTICS = ("mean", "std", "percentile_00_5", "percentile_99_5")
"""The intensity statistics that the scheme "ct" reads."""

RULES_VERSION = 1
"""Raised when the same plan would give other arrays than before, so that old stores are not taken for new ones."""


@dataclass(frozen=True)
class PreprocessingPlan:
    """How a case gets from its file to the network's grid.

    Args:
        spacing: voxel size in mm in the network frame (after `transpose`); None on axis 0 means that a case keeps
            its own (2D configurations never resample across slices).
        transpose: network axis i is the file's axis `transpose[i]`.
        normalization: one scheme a channel, of `NORMALIZATIONS`.
        use_mask: whether a channel's z-score looks at the nonzero mask only.
        intensities: the foreground statistics of a channel; needed by "ct".
        label_resampling: "votes": a voxel of a label map takes the label with the largest linear weight around it;
            "nearest": that of the nearest voxel; "annotated": the ignore label where the nearest voxel bears it, else
            the label with the largest weight among the others; without such a label, as "votes".
    """

    spacing: tuple[float | None, float, float]
    transpose: tuple[int, int, int]
    normalization: tuple[str, ...]
    use_mask: tuple[bool, ...]
    intensities: tuple[Mapping[str, float] | None, ...]
    label_resampling: str = "votes"

    def __post_init__(self) -> None:
        if self.label_resampling not in LABEL_RESAMPLING:
            what = f"label maps cannot be resampled by {self.label_resampling}"
            raise PlanError(what, "plan.label_resampling", f"Use one of {', '.join(LABEL_RESAMPLING)}")
        unknown = sorted(set(self.normalization) - set(NORMALIZATIONS))
        if unknown:
            raise PlanError(
                f"there is no normalization {', '.join(unknown)}", "plan.normalization", f"Use one of {NORMALIZATIONS}"
            )
        if not len(self.normalization) == len(self.use_mask) == len(self.intensities):
            raise PlanError("normalization, use_mask and intensities need one entry a channel", "plan", "Plan again")
        if sorted(self.transpose) != [0, 1, 2]:
            raise PlanError(f"{list(self.transpose)} is no order of three axes", "plan.transpose", "Plan again")
        for channel, (scheme, known) in enumerate(zip(self.normalization, self.intensities, strict=True)):
            missing = [key for key in CT_STATISTICS if scheme == "ct" and key not in (known or {})]
            if missing:
                where = f"plan.intensities[{channel}]"
                raise PlanError(f"CT normalization needs {', '.join(missing)}", where, "Plan again from a fingerprint")

    def target_spacing(self, spacing: tuple[float, float, float]) -> tuple[float, float, float]:
        """The network grid's spacing (network frame) for a case of `spacing` (mm, original axis order)."""
        first = self.spacing[0]
        own = float(spacing[self.transpose[0]])
        return (own if first is None else first, self.spacing[1], self.spacing[2])

    def identifier(self, classes: str = "") -> str:
        """A folder name: readable, and ending in a hash of everything that decides the arrays.

        Args:
            classes: the labels as text, where label maps are kept too.
        """
        used = [
            {key: known[key] for key in CT_STATISTICS} if scheme == "ct" and known is not None else None
            for scheme, known in zip(self.normalization, self.intensities, strict=True)
        ]
        decisive = self.to_json() | {"intensities": used, "rules": RULES_VERSION, "classes": classes}
        digest = hashlib.blake2b(json.dumps(decisive, sort_keys=True).encode(), digest_size=5).hexdigest()
        grid = "x".join("own" if value is None else f"{value:.3g}" for value in self.spacing)
        schemes = "-".join(dict.fromkeys(self.normalization))
        return f"{grid}mm_{schemes}_{digest}"

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, for YAML and JSON."""
        return {
            "spacing": list(self.spacing),
            "transpose": list(self.transpose),
            "normalization": list(self.normalization),
            "use_mask": list(self.use_mask),
            "intensities": [None if known is None else dict(known) for known in self.intensities],
            # Stores from before there was a choice keep their name.
            **({} if self.label_resampling == "votes" else {"label_resampling": self.label_resampling}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "PreprocessingPlan":
        """The inverse of `to_json`.

        Raises:
            PlanError: a key is missing or a value cannot be used.
        """
        try:
            first, second, third = data["spacing"]
            x, y, z = (int(axis) for axis in data["transpose"])
            return cls(
                spacing=(None if first is None else float(first), float(second), float(third)),
                transpose=(x, y, z),
                normalization=tuple(str(scheme) for scheme in data["normalization"]),
                use_mask=tuple(bool(flag) for flag in data["use_mask"]),
                intensities=tuple(
                    None if known is None else {str(key): float(value) for key, value in known.items()}
                    for known in data["intensities"]
                ),
                label_resampling=str(data.get("label_resampling") or "votes"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PlanError(
                f"the preprocessing part of the plan is unusable ({error!r})", "plan", "Plan again"
            ) from error
