"""Less memory for the same step: the network sees a batch in parts, the loss sees it whole.

Each part's activations are computed again when its gradient is due, so that those of one part exist at a time. The
loss is taken of the joined logits, so that batch Dice, Top-K and means over valid voxels are those of the whole batch:
the step is the same up to rounding. It costs a second forward pass. Layers that look at the whole batch (batch norm)
see the parts, and there the step is another one.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from segplan.errors import RunError

Logits = Tensor | list[Tensor]


def forward_in_parts(network: nn.Module, image: Tensor, parts: int) -> Logits:
    """`network(image)` for `image` (B, C, *spatial), computed in so many parts where gradients are taken."""
    if parts == 1 or not torch.is_grad_enabled():
        result: Logits = network(image)
        return result
    outputs = [checkpoint(network, chunk, use_reentrant=False) for chunk in image.tensor_split(parts)]
    if isinstance(outputs[0], Tensor):
        return torch.cat(outputs)
    return [torch.cat(level) for level in zip(*outputs, strict=True)]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device's memory is full; the CPU's allocator has no class of its own."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def out_of_memory(batch: int, patch: Sequence[int], parts: int, device: str, *, may_shrink: bool) -> RunError:
    """What to tell the user when a step does not fit.

    Args:
        batch: samples of this rank's batch.
        patch: the patch's size.
        parts: in how many parts the batch was computed.
        device: where.
        may_shrink: whether `module.oom=shrink` could still help.
    """
    size = "×".join(map(str, patch))
    what = f"a step on a batch of {batch} patches of {size}{f' in {parts} parts' if parts > 1 else ''} does not fit"
    ways = []
    if may_shrink and parts < batch:
        ways.append("module.oom=shrink (the same step in parts, slower)")
    if device != "cpu":
        ways.append("trainer.precision=bf16-mixed (or 16-mixed)")
    ways += ["network.activation_checkpointing=true (about 1.4 times the time)"]
    ways += ["data.batch_size or data.patch_size smaller (another run)"]
    return RunError(what, f"memory of {device}", f"Use one of: {'; '.join(ways)}. Or end what else uses this memory.")
