"""What a network costs, without running it: parameters, multiply-adds, memory of activations, receptive field."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_CONV = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_UP = (nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class Cost:
    """What one forward pass of one sample takes.

    Args:
        parameters: trainable values.
        multiply_adds: of all convolutions, biases left out; floating-point operations are twice as many.
        activation_bytes: float32 values that are kept for the gradients, the network's outputs not counted.
        receptive_field: voxels of the image per axis that the convolutions let one output voxel depend on. Instance
            norm sees the whole patch besides.
    """

    parameters: int
    multiply_adds: int
    activation_bytes: int
    receptive_field: tuple[int, ...]


def cost_of(build: Callable[[], nn.Module], input_channels: int, patch_size: Sequence[int]) -> Cost:
    """Measure a network on the meta device, where tensors have shapes but no values.

    Args:
        build: makes the network.
        input_channels: of the image.
        patch_size: voxels, (Z, Y, X) or (Y, X).

    Raises:
        RuntimeError, NotImplementedError: the network looks at values, or the patch does not fit it.
    """
    with torch.device("meta"):
        network = build()
        image = torch.empty(1, input_channels, *patch_size)
    network.train()
    counts: list[int] = []
    reach = [1] * len(patch_size)

    def count(module: nn.Module, inputs: Sequence[Tensor], output: Tensor) -> None:
        counts.append(_multiply_adds(module, inputs[0], output))
        if not isinstance(module, _UP):  # a transposed convolution's output voxel sees one input voxel
            kernel, dilation = _numbers(module, "kernel_size"), _numbers(module, "dilation")
            for axis, (size, here) in enumerate(zip(patch_size, inputs[0].shape[2:], strict=True)):
                reach[axis] += round((kernel[axis] - 1) * dilation[axis] * size / here)

    with _hooked(network, count):
        kept = kept_bytes(network, image)
    parameters = sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
    return Cost(parameters, sum(counts), kept, tuple(reach))


def kept_bytes(network: nn.Module, image: Tensor) -> int:
    """Bytes that a forward pass on `image` keeps for the gradients, each tensor once, parameters and image left out."""
    own = {_storage(tensor) for tensor in (*network.parameters(), *network.buffers(), image)}
    sizes: dict[int, int] = {}
    alive = []  # else the address of a freed tensor could come back for another

    def keep(tensor: Tensor) -> Tensor:
        if _storage(tensor) not in own:
            sizes[_storage(tensor)] = tensor.untyped_storage().nbytes()
            alive.append(tensor.detach())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(image)
    return sum(sizes.values())


def _multiply_adds(module: nn.Module, x: Tensor, output: Tensor) -> int:
    weight: Any = module.weight
    # Each output voxel, or input voxel of a transposed one, meets every weight once.
    voxels = math.prod((x if isinstance(module, _UP) else output).shape[2:])
    return int(x.shape[0] * voxels * weight.numel())


def _numbers(module: nn.Module, name: str) -> tuple[int, ...]:
    values: Any = getattr(module, name)
    return tuple(int(value) for value in values)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)  # the address of meta tensors' data is always 0


@contextmanager
def _hooked(network: nn.Module, hook: Callable[..., None]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook) for module in network.modules() if isinstance(module, _CONV)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
