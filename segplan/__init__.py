"""segplan: medical image segmentation that plans itself from the data."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from segplan.inference import EnsemblePredictor, Predictor

__all__ = ["EnsemblePredictor", "Predictor", "__version__"]


def __getattr__(name: str) -> Any:
    # Imported on first use: `import segplan` must not load torch.
    if name in ("EnsemblePredictor", "Predictor"):
        import segplan.inference

        return getattr(segplan.inference, name)
    raise AttributeError(f"module 'segplan' has no attribute {name!r}")
