"""How the network is computed: compiled or not, in which memory format, a batch whole or in parts.

None of it decides what is computed, only how fast, how large and in what order sums are rounded. So what was chosen on
a machine is kept in the checkpoint, and a resumed run computes as before.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from segplan.errors import ConfigError
from segplan.training.micro_batches import forward_in_parts, is_out_of_memory

MemoryFormat = Literal["contiguous", "channels_last"]
Autocast = Callable[[], AbstractContextManager[Any]]

_TIMED_STEPS = 5
# Another format must be faster by this share: a tie is decided by noise, and contiguous is the plainer one.
_WORTH_IT = 0.97


@dataclass(frozen=True)
class Execution:
    """What was chosen.

    Args:
        compiled: whether the network is compiled.
        memory_format: of activations and convolutions.
        parts: in how many parts a batch is computed.
    """

    compiled: bool = False
    memory_format: MemoryFormat = "contiguous"
    parts: int = 1


@dataclass(frozen=True)
class ExecutionWishes:
    """What is asked for, see `SegmentationModule`.

    Raises:
        ConfigError: a value is none of those that there are.
    """

    compile: bool | Literal["auto"] = "auto"
    memory_format: Literal["auto", "measure", "contiguous", "channels_last"] = "auto"
    oom: Literal["stop", "shrink"] = "stop"

    def __post_init__(self) -> None:
        _check("compile", self.compile, (True, False, "auto"))
        _check("memory_format", self.memory_format, ("auto", "measure", "contiguous", "channels_last"))
        _check("oom", self.oom, ("stop", "shrink"))


@dataclass
class Probe:
    """Trial steps of a network on a real batch; leaves its weights, buffers, gradients and random numbers as they were.

    Args:
        network: on its device.
        image: a batch (B, C, *spatial) on the same device.
        autocast: the precision that training computes in.
    """

    network: nn.Module
    image: Tensor
    autocast: Autocast

    def compiles(self) -> str | None:
        """Compile the network and take a step; None if that works, else why not, with the network as it was."""
        try:
            self.network.compile()
            self.step("contiguous")
        except Exception as error:
            # Compilers fail in many ways, and whichever it is, training goes on without one.
            self.network._compiled_call_impl = None
            torch._dynamo.reset()
            return _first_line(error)
        return None

    def fastest_format(self) -> tuple[MemoryFormat, str]:
        """The memory format with the shortest step, and the two times in a few words; not of a compiled network."""
        seconds: dict[MemoryFormat, float] = {}
        formats: tuple[MemoryFormat, ...] = ("contiguous", "channels_last")
        for name in formats:
            set_memory_format(self.network, name)
            self.step(name)
            seconds[name] = min(self._timed(name) for _ in range(_TIMED_STEPS))
        is_worth_it = seconds["channels_last"] < _WORTH_IT * seconds["contiguous"]
        chosen: MemoryFormat = "channels_last" if is_worth_it else "contiguous"
        set_memory_format(self.network, chosen)
        return chosen, ", ".join(f"{name} {1000 * value:.4g} ms" for name, value in seconds.items())

    def step(self, memory_format: MemoryFormat) -> None:
        """Forward and backward; no gradient is kept."""
        devices = [self.image.device] if self.image.is_cuda else []
        buffers = [(buffer, buffer.clone()) for buffer in self.network.buffers()]
        with torch.enable_grad(), torch.random.fork_rng(devices), self.autocast():
            outputs = forward_in_parts(self.network, as_format(self.image, memory_format), 1)
            heads = [outputs] if isinstance(outputs, Tensor) else outputs
            total = torch.stack([head.float().mean() for head in heads]).sum()
        wanted = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        torch.autograd.grad(total, wanted, allow_unused=True)
        for buffer, before in buffers:
            buffer.copy_(before)

    def _timed(self, memory_format: MemoryFormat) -> float:
        _synchronize(self.image.device)
        start = time.perf_counter()
        self.step(memory_format)
        _synchronize(self.image.device)
        return time.perf_counter() - start


def as_format(image: Tensor, memory_format: MemoryFormat) -> Tensor:
    """The batch (B, C, *spatial) in a memory format."""
    return image if memory_format == "contiguous" else image.contiguous(memory_format=_torch_format(image.ndim))


def set_memory_format(network: nn.Module, memory_format: MemoryFormat) -> None:
    """Lay the kernels of all convolutions out in a format, in place."""
    for parameter in network.parameters():
        if parameter.ndim in (4, 5):
            wanted = torch.contiguous_format if memory_format == "contiguous" else _torch_format(parameter.ndim)
            parameter.data = parameter.data.contiguous(memory_format=wanted)


def choose_execution(wishes: ExecutionWishes, probe: Probe) -> tuple[Execution, list[str]]:
    """Decide what the wishes leave open on this device by trial steps; returns also what there is to tell of it.

    `compile=auto` compiles on CUDA; `memory_format=auto` measures there and is contiguous elsewhere, and where the
    network is compiled: the compiler lays tensors out itself.
    """
    device, notes = probe.image.device.type, []
    compiled = wishes.compile is True or (wishes.compile == "auto" and device == "cuda")
    if compiled and (trouble := probe.compiles()) is not None:
        compiled = False
        notes.append(f"the network cannot be compiled here, so it runs uncompiled: {trouble}")
    memory_format: MemoryFormat = "contiguous"
    if wishes.memory_format == "channels_last":
        memory_format = "channels_last"
    elif not compiled and (wishes.memory_format == "measure" or (wishes.memory_format == "auto" and device == "cuda")):
        memory_format, note = _measured(wishes, probe)
        notes.append(note)
    set_memory_format(probe.network, memory_format)
    return Execution(compiled, memory_format), notes


def take_up(execution: Execution, wishes: ExecutionWishes, probe: Probe) -> tuple[Execution, list[str]]:
    """Compute as a checkpoint says, except for what the wishes now name outright, and uncompiled where need be."""
    notes = []
    compiled = execution.compiled if wishes.compile == "auto" else wishes.compile
    if compiled and (trouble := probe.compiles()) is not None:
        compiled = False
        notes.append(f"the network cannot be compiled here, so it runs uncompiled: {trouble}")
    is_named = wishes.memory_format in ("contiguous", "channels_last")
    memory_format = cast(MemoryFormat, wishes.memory_format) if is_named else execution.memory_format
    chosen = replace(execution, compiled=compiled, memory_format=memory_format)
    if chosen != execution:
        notes.append(f"results differ in rounding from now on: {_text(execution)} before, {_text(chosen)} now")
    set_memory_format(probe.network, memory_format)
    return chosen, notes


def agree(network: nn.Module, mine: Execution, of_ranks: Sequence[Execution]) -> Execution:
    """Compute as all ranks can: in the first one's memory format, compiled if it worked everywhere."""
    agreed = replace(of_ranks[0], compiled=all(other.compiled for other in of_ranks))
    if agreed != mine:
        if mine.compiled and not agreed.compiled:
            network._compiled_call_impl = None
        set_memory_format(network, agreed.memory_format)
    return agreed


def _measured(wishes: ExecutionWishes, probe: Probe) -> tuple[MemoryFormat, str]:
    """The faster format and what there is to tell; a batch that fits in parts alone is not measured."""
    try:
        memory_format, times = probe.fastest_format()
    except RuntimeError as error:
        if wishes.oom != "shrink" or not is_out_of_memory(error):
            raise
        return "contiguous", "memory format contiguous, not measured: a whole batch does not fit"
    return memory_format, f"memory format {memory_format}, measured: {times}"


def _text(execution: Execution) -> str:
    return f"{'compiled' if execution.compiled else 'uncompiled'}, {execution.memory_format}"


def _torch_format(axes: int) -> torch.memory_format:
    return torch.channels_last if axes == 4 else torch.channels_last_3d


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:200]


def _check(key: str, value: Any, known: tuple[Any, ...]) -> None:
    if not any(value is other if isinstance(other, bool) else value == other for other in known):
        names = ", ".join(str(name).lower() for name in known)
        raise ConfigError(f"{value} is unknown", f"module.{key}", f"Use one of {names}.")
