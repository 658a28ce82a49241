"""A synthetic dataset with plausible anatomy: hard for a classifier of single voxels, learnable for a small network."""

from segplan.dataset.phantom.acquisition import KINDS, Kind, PhantomCase, draw_case
from segplan.dataset.phantom.anatomy import LABELS
from segplan.dataset.phantom.folder import holds_phantom, make_phantom

__all__ = ["KINDS", "LABELS", "Kind", "PhantomCase", "draw_case", "holds_phantom", "make_phantom"]
