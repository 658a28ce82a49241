"""Pictures for people: segmentations over their images."""

from segplan.reporting.overlay import write_overlay

__all__ = ["write_overlay"]
