"""Which arithmetic `trainer.precision=auto` stands for on this machine."""

import torch

from segplan.inference.precision import resolve_precision

_REASONS = {
    torch.bfloat16: ("bf16-mixed", "the hardware computes in bf16"),
    torch.float16: ("16-mixed", "the GPU has no bf16 units"),
    torch.float32: ("32-true", "no low precision that is known to pay here"),
}


def auto_precision(accelerator: str) -> tuple[str, str]:
    """Choose the fastest precision that trains safely; inference chooses by the same rule.

    Args:
        accelerator: `cpu`, `cuda` (or Lightning's `gpu`), `mps` …

    Returns:
        Lightning's name of the precision, and the reason in a few words.
    """
    device = torch.device("cuda" if accelerator == "gpu" else accelerator)
    return _REASONS[resolve_precision("auto", device)]
