"""Look at the machine and the installation as a training will meet them, and say what to mend."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import segplan
from segplan.jobs.console import print_table
from segplan.jobs.provenance import processor
from segplan.preprocessing.cpus import available_cpus

_EXTRAS = {"mlflow": "mlflow", "optuna": "sweep", "submitit": "slurm", "onnxruntime": "onnx", "imagecodecs": "tiff"}
_SLOW_CONVOLUTION = 10.0  # GFLOP/s a core: oneDNN gives 30 and more on any AVX2 core, torch's own kernels below 5
_LITTLE_DISK_GIB = 20.0
_LITTLE_MEMORY_GIB = 8.0
_LITTLE_SHARED_GIB = 0.25
_FEW_FILES = 1024


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Args:
        what: what was looked at.
        found: what it is.
        state: fine; note: works, but slower or less than it could; wrong: something will not work.
        remedy: what to do about it.
    """

    what: str
    found: str
    state: Literal["fine", "note", "wrong"] = "fine"
    remedy: str = ""


def run(workspace: Path) -> int:
    """Print all findings; returns 0, or 1 if something will not work."""
    found = [*_python(), *_packages(), *_torch(), *_machine(), *_shared_memory(), *_disk(workspace)]
    print_table(["", "what", "found"], [[_MARKS[one.state], one.what, one.found] for one in found])
    remedies = [one for one in found if one.remedy]
    if remedies:
        print("\nTo mend:")
        for one in sorted(remedies, key=lambda one: one.state != "wrong"):
            print(f"  {one.what}: {one.remedy}")
    wrong = sum(one.state == "wrong" for one in found)
    print(f"\n{wrong} to mend, {sum(one.state == 'note' for one in found)} notes" if remedies else "\nall is well")
    return 1 if wrong else 0


_MARKS = {"fine": "ok", "note": "note", "wrong": "WRONG"}


def _python() -> Iterator[Finding]:
    version = platform.python_version()
    fine = sys.version_info >= (3, 11)
    yield Finding("python", version, "fine" if fine else "wrong", "" if fine else "Use Python 3.11 or newer.")
    yield Finding("segplan", f"{segplan.__version__} in {Path(segplan.__file__).parent}")


def _packages() -> Iterator[Finding]:
    """Every required package, against the versions that segplan's own metadata allows."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("segplan") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "segplan runs from a checkout that is not installed", "note", "pip install -e .")
        return
    wrong = 0
    for requirement in map(Requirement, lines):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            wrong += 1
            yield Finding(requirement.name, "not installed", "wrong", f"pip install '{requirement}'")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            wrong += 1
            remedy = f"pip install '{requirement}'"
            yield Finding(requirement.name, f"{version}, and {requirement.specifier} is needed", "wrong", remedy)
    if not wrong:
        yield Finding("packages", "all that are required, in versions that fit")
    missing = [f"{package} (segplan[{extra}])" for package, extra in _EXTRAS.items() if not _is_installed(package)]
    yield Finding("extras", f"without {', '.join(missing)}" if missing else "all")


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _torch() -> Iterator[Finding]:
    import torch

    build = "CPU only" if torch.version.cuda is None else f"CUDA {torch.version.cuda}"
    has_card = shutil.which("nvidia-smi") is not None or Path("/dev/nvidia0").exists()
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            card = torch.cuda.get_device_properties(index)
            kinds = "bf16" if torch.cuda.is_bf16_supported() else "fp16"
            yield Finding(f"gpu {index}", f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {kinds}")
        yield Finding("torch", f"{torch.__version__} ({build})")
    elif has_card:
        remedy = (
            "Install a CUDA build: pip install torch --index-url https://download.pytorch.org/whl/cu126 (or another)."
            if torch.version.cuda is None
            else "torch sees none: compare the driver (nvidia-smi) with its CUDA, and look at CUDA_VISIBLE_DEVICES."
        )
        yield Finding("torch", f"{torch.__version__} ({build}), and there is an NVIDIA GPU", "wrong", remedy)
    else:
        yield Finding("torch", f"{torch.__version__} ({build}), no GPU: training takes days on processors", "note")
    yield _convolution()


def _convolution() -> Finding:
    speed, cores = convolution_gflops(), available_cpus()
    text = f"{speed:.0f} GFLOP/s on the processor"
    if speed >= _SLOW_CONVOLUTION * min(cores, 4):
        return Finding("3D convolution", text)
    import torch

    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        remedy = "This torch lacks oneDNN: install the official wheel (pip install torch)."
    else:
        remedy = "Other programs may be at work; else set OMP_NUM_THREADS to the cores, and see that it is not 1."
    return Finding("3D convolution", f"{text}, little for {cores} cores", "note", remedy)


def convolution_gflops(seconds: float = 1.0) -> float:
    """Speed of a 3×3×3 convolution of 32 channels in float32 on the processor, in 10⁹ operations a second."""
    import time

    import torch

    layer, image = torch.nn.Conv3d(32, 32, 3, padding=1), torch.rand(1, 32, 32, 48, 48)
    work = 2 * 27 * 32 * 32 * 32 * 48 * 48
    best = 0.0
    with torch.inference_mode():
        layer(image)
        until = time.perf_counter() + seconds
        while (started := time.perf_counter()) < until:
            layer(image)
            best = max(best, work / (time.perf_counter() - started))
    return best / 1e9


def _machine() -> Iterator[Finding]:
    import psutil

    cores, visible = available_cpus(), os.cpu_count() or 1
    limited = f" (of {visible}: the job's or container's limit)" if cores < visible else ""
    few = cores < 4
    remedy = "Loader processes need cores: 8 to 16 a GPU. Ask for more (cpus_per_task, --cpus)." if few else ""
    yield Finding("processor", f"{processor()}, {cores} cores{limited}", "note" if few else "fine", remedy)
    memory = psutil.virtual_memory()
    little = memory.available / 2**30 < _LITTLE_MEMORY_GIB
    text = f"{memory.available / 2**30:.0f} of {memory.total / 2**30:.0f} GiB free"
    remedy = "Preprocessing takes memory_gb=N into account; training: experiment=low_memory." if little else ""
    yield Finding("memory", text, "note" if little else "fine", remedy)
    if sys.platform != "win32":
        import resource

        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        few_files = files < _FEW_FILES
        yield Finding("open files", str(files), "note" if few_files else "fine", "ulimit -n 4096" if few_files else "")


def _shared_memory() -> Iterator[Finding]:
    folder = Path("/dev/shm")  # noqa: S108 the system's own
    if not folder.is_dir():
        if sys.platform == "linux":
            yield Finding(str(folder), "not there", "note", "Several GPUs talk through it: mount it as a tmpfs.")
        return
    size = shutil.disk_usage(folder)
    little = size.free / 2**30 < _LITTLE_SHARED_GIB
    # segplan's own loader uses anonymous memory; NCCL and other people's loaders use this folder.
    remedy = "Several GPUs talk through it: docker run --shm-size=2g, or --ipc=host." if little else ""
    yield Finding(str(folder), f"{size.free / 2**30:.1f} GiB free", "note" if little else "fine", remedy)


def _disk(workspace: Path) -> Iterator[Finding]:
    place = next(folder for folder in (workspace, *workspace.parents) if folder.is_dir())
    try:
        tempfile.TemporaryFile(dir=place).close()  # permissions alone say nothing of what is mounted there
    except OSError:
        yield Finding("workspace", f"{workspace} cannot be written", "wrong", "Choose another: workspace=DIR.")
        return
    free = shutil.disk_usage(place).free / 2**30
    little = free < _LITTLE_DISK_GIB
    remedy = "Preprocessed data take about 4 bytes a voxel and channel: choose a larger disk (workspace=DIR)."
    yield Finding(
        "workspace", f"{workspace}, {free:.0f} GiB free", "note" if little else "fine", remedy if little else ""
    )
