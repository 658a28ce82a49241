import importlib.metadata
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from segplan.cli import main
from segplan.jobs import doctor

MEASURE = doctor.convolution_gflops


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(doctor, "convolution_gflops", lambda: 100.0)


def test_a_working_installation_gives_0(tmp_path, capsys):
    assert main(["doctor", f"workspace={tmp_path / 'not' / 'there'}"]) == 0
    printed = capsys.readouterr().out
    for what in ("python", "torch", "3D convolution", "processor", "memory", "workspace"):
        assert what in printed
    assert "WRONG" not in printed


def test_a_missing_package_is_named_with_its_remedy(tmp_path, capsys, monkeypatch):
    version = importlib.metadata.version

    def without_scipy(name):
        if name == "scipy":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "requires", lambda _: ["scipy>=1.11", "numpy>=99", "x; extra == 'dev'"])
    monkeypatch.setattr(importlib.metadata, "version", without_scipy)
    assert doctor.run(tmp_path) == 1
    printed = capsys.readouterr().out
    assert "scipy: pip install 'scipy>=1.11'" in printed
    assert "numpy: pip install 'numpy>=99'" in printed
    assert "2 to mend" in printed


def test_a_torch_without_cuda_beside_a_gpu_is_to_be_mended(tmp_path, capsys, monkeypatch):
    import torch

    if torch.cuda.is_available():
        pytest.skip("torch sees the GPU here")
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert doctor.run(tmp_path) == 1
    assert "Install a CUDA build" in capsys.readouterr().out


def test_slow_convolution_and_little_space_are_notes(tmp_path, capsys, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor, "convolution_gflops", lambda: 2.0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 2**30, 2**20))
    assert doctor.run(tmp_path) == 0
    printed = capsys.readouterr().out
    assert "2 GFLOP/s" in printed
    assert "choose a larger disk" in printed
    assert "--shm-size" in printed or "/dev/shm" not in printed


def test_the_speed_of_convolution_is_measured():
    """Any processor does between 0.1 and 100,000 GFLOP/s."""
    assert 0.1 < MEASURE(seconds=0.05) < 1e5


def test_a_workspace_that_cannot_be_written_is_wrong(capsys):
    if not Path("/proc/self").is_dir():
        pytest.skip("/proc is Linux's")
    assert doctor.run(Path("/proc/segplan")) == 1
    assert "/proc/segplan cannot be written" in capsys.readouterr().out
