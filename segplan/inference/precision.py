"""The number format of the forward pass: what `precision` means on a device."""

from contextlib import AbstractContextManager, nullcontext

import torch

from segplan.errors import ConfigError

_FORMATS = {
    "32": torch.float32,
    "32-true": torch.float32,
    "bf16": torch.bfloat16,
    "bf16-mixed": torch.bfloat16,
    "16": torch.float16,
    "16-mixed": torch.float16,
}


def resolve_precision(precision: str | int, device: torch.device) -> torch.dtype:
    """The format that convolutions run in on `device`.

    "auto": bfloat16 where the hardware computes in it (CPUs with AMX or AVX512-BF16, GPUs from Ampere on), float16
    on older GPUs, else float32.

    Raises:
        ConfigError: an unknown precision.
    """
    name = str(precision)
    if name in _FORMATS:
        return _FORMATS[name]
    if name != "auto":
        raise ConfigError("is unknown", f"trainer.precision={name}", f"Use auto, {', '.join(_FORMATS)}.")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and _cpu_computes_bfloat16():
        return torch.bfloat16
    return torch.float32


def precision_name(dtype: torch.dtype) -> str:
    """`32`, `bf16` or `16`."""
    return {torch.float32: "32", torch.bfloat16: "bf16", torch.float16: "16"}[dtype]


def autocast(device: torch.device, dtype: torch.dtype) -> AbstractContextManager[object]:
    """The context in which a network computes in `dtype` on `device`."""
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)


def select_device(device: str | torch.device, key: str = "device") -> torch.device:
    """The device of that name; for "auto" the current CUDA device, else Apple's GPU, else the CPU.

    Args:
        device: "auto", "gpu" (as auto, but never the CPU), or what torch.device takes.
        key: what the user calls it, for messages.

    Raises:
        ConfigError: there is no such device here.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if device == "auto" or (device == "gpu" and (cuda or mps)):
        return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("mps" if mps else "cpu")
    where, remedy = f"{key}={device}", "Use auto or cpu."
    if device == "gpu":
        raise ConfigError("torch finds no GPU here", where, remedy)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ConfigError("is no device", where, remedy) from error
    lacks_cuda = chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count()
    if lacks_cuda or (chosen.type == "mps" and not mps):
        raise ConfigError("torch finds no such device here", where, remedy)
    return chosen


def _cpu_computes_bfloat16() -> bool:
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)
