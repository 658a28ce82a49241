"""nnU-Net v2: its trained models become model folders, and model folders become nnU-Net's."""

from segplan.interop.nnunet.checkpoint import Checkpoint, read_checkpoint
from segplan.interop.nnunet.export import export_nnunet
from segplan.interop.nnunet.model import find_models, import_model
from segplan.interop.nnunet.plans import SourceConfiguration, read_configuration

__all__ = [
    "Checkpoint",
    "SourceConfiguration",
    "export_nnunet",
    "find_models",
    "import_model",
    "read_checkpoint",
    "read_configuration",
]
