"""Inference: tiles, Gaussian weights, mirroring, fold ensembles, export, and the `Predictor`.

Names are imported on first use: a job checks its arguments before torch loads.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segplan.inference.ensemble import EnsemblePredictor
    from segplan.inference.export import logits_to_labels, logits_to_probabilities, slabs_to_labels
    from segplan.inference.network import load_network
    from segplan.inference.precision import resolve_precision
    from segplan.inference.predictor import Predictor, make_tiling
    from segplan.inference.settings import InferenceSettings
    from segplan.inference.streaming import open_probabilities, segment_case
    from segplan.inference.tiled import Tiling, sliding_window, stream_logits
    from segplan.inference.tiles import gaussian_weights, mirror_combinations, tile_starts

_HOMES = {
    "EnsemblePredictor": "ensemble",
    "InferenceSettings": "settings",
    "Predictor": "predictor",
    "Tiling": "tiled",
    "gaussian_weights": "tiles",
    "load_network": "network",
    "logits_to_labels": "export",
    "logits_to_probabilities": "export",
    "make_tiling": "predictor",
    "mirror_combinations": "tiles",
    "open_probabilities": "streaming",
    "resolve_precision": "precision",
    "segment_case": "streaming",
    "slabs_to_labels": "export",
    "sliding_window": "tiled",
    "stream_logits": "tiled",
    "tile_starts": "tiles",
}

__all__ = [
    "EnsemblePredictor",
    "InferenceSettings",
    "Predictor",
    "Tiling",
    "gaussian_weights",
    "load_network",
    "logits_to_labels",
    "logits_to_probabilities",
    "make_tiling",
    "mirror_combinations",
    "open_probabilities",
    "resolve_precision",
    "segment_case",
    "slabs_to_labels",
    "sliding_window",
    "stream_logits",
    "tile_starts",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segplan.inference' has no attribute {name!r}")
    return getattr(importlib.import_module(f"segplan.inference.{_HOMES[name]}"), name)
