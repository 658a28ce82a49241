"""Memory as the machine has it: the graphics card's size, and what a training step takes, each in its own process.

    python -m segplan.jobs.measured_memory < request.json

runs one request and prints the answer, as JSON. A process of its own keeps the peak clean and torch out of planning; a
step that exhausts the memory ends that process alone. The CUDA path has not run on a GPU yet.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segplan.errors import ConfigError, PlanError
from segplan.planning import Trial

NETWORKS = {"plain_unet": "PlainUNet", "residual_unet": "ResidualUNet", "stunet": "STUNet"}
"""Option of the configuration group `network` to its class in `segplan.networks`."""

_STEPS = 2  # the optimiser's buffers are made at the first step, so only the second holds everything at once
_SLACK = 1.25  # beyond the limit by this factor a step on the CPU is stopped, before the machine begins to swap


def card_gigabytes() -> float:
    """Memory in GB of the CUDA graphics card; of the smallest, where there are several.

    Raises:
        ConfigError: there is none.
    """
    sizes: list[int] = _ask({"what": "cards"})["bytes"]
    if not sizes:
        raise ConfigError(
            "torch finds no CUDA graphics card here",
            "planner.gpu_memory_gb=auto",
            "Give the memory of the card that will train: planner.gpu_memory_gb=8.",
        )
    return round(min(sizes) / 2**30, 1)


def measure_step(trial: Trial, limit_gb: float) -> float:
    """Bytes that two training steps of `trial` take at their peak, on the graphics card if there is one, else in RAM.

    Forward pass, Dice and cross-entropy with deep supervision, backward pass, SGD with momentum; in the arithmetic
    that `trainer.precision=auto` chooses. Infinity where memory ran out.

    Args:
        trial: network and batch.
        limit_gb: on the CPU a step that takes much more is stopped.

    Raises:
        PlanError: the step failed for another reason.
    """
    answer = _ask(
        {
            "what": "step",
            "network": trial.network,
            "arguments": dict(trial.arguments),
            "patch_size": trial.patch_size,
            "batch_size": trial.batch_size,
            "limit": limit_gb * 2**30,
        }
    )
    return float("inf") if answer["bytes"] is None else float(answer["bytes"])


def main() -> int:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    answer = _cards() if request["what"] == "cards" else _step(request)
    sys.stdout.write(json.dumps({"bytes": answer}) + "\n")
    return 0


def _ask(request: Mapping[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "segplan.jobs.measured_memory"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        command, input=json.dumps(request), capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode == -9:  # the system's answer to exhausted memory
        return {"bytes": None}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise PlanError(
            f"a training step could not be measured ({reason})",
            "planner.memory=measured",
            "Use planner.memory=estimated.",
        )
    return dict(json.loads(lines[-1]))


def _cards() -> list[int]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.cuda.get_device_properties(index).total_memory for index in range(count)]


def _step(request: Mapping[str, Any]) -> float | None:
    name = NETWORKS[request["network"]]
    import torch

    import segplan.networks
    from segplan.training import DeepSupervisionLoss, DiceCELoss

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        before = _resident()
        _limit_memory(request["limit"])
    try:
        network = getattr(segplan.networks, name)(**request["arguments"]).to(device)
        _train(network, DeepSupervisionLoss(DiceCELoss()), request, device)
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "memory" in str(error).lower() or "bad_alloc" in str(error):
            return None
        raise
    if device.type == "cuda":
        return float(torch.cuda.max_memory_reserved(device))  # what the card must hold: allocated and in between
    return max(_peak_resident() - before, 1.0)


def _train(network: Any, loss: Any, request: Mapping[str, Any], device: Any) -> None:
    import torch

    from segplan.inference.precision import autocast, resolve_precision

    precision = resolve_precision("auto", device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.99, nesterov=True)
    scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)
    batch, patch, arguments = request["batch_size"], request["patch_size"], request["arguments"]
    for _ in range(_STEPS):
        image = torch.randn(batch, arguments["input_channels"], *patch, device=device)
        labels = torch.randint(arguments["num_classes"], (batch, *patch), device=device)
        optimizer.zero_grad()
        with autocast(device, precision):
            value = loss(network(image), labels)
        scaler.scale(value).backward()
        scaler.step(optimizer)
        scaler.update()


def _limit_memory(limit: float) -> None:
    """Make allocations far beyond `limit` fail in this process; where the system cannot, nothing happens."""
    if Path("/proc/self/status").exists():
        import resource

        ceiling = int(_status("VmData") + _SLACK * limit) + 2**29
        resource.setrlimit(resource.RLIMIT_DATA, (ceiling, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _resident() -> float:
    if not Path("/proc/self/status").exists():
        import psutil

        return float(psutil.Process().memory_info().rss)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak that importing left
    return _status("VmRSS")


def _peak_resident() -> float:
    import resource

    if Path("/proc/self/status").exists():
        return _status("VmHWM")  # not getrusage's, which a process inherits from the one that started it

    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * (1 if sys.platform == "darwin" else 1024)


def _status(name: str) -> float:
    """A field of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(float(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


if __name__ == "__main__":
    sys.exit(main())
