"""The benchmarks start, refuse to compare without nnU-Net, and measure what they say."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
SCRIPTS = {
    "planning.py": [],
    "preprocessing.py": [],
    "loading.py": [],
    "step_agreement.py": [],
    "training_time.py": [],
    "training_step.py": [],
    "dice_small_budget.py": ["--full"],
}


def run_script(name, *arguments):
    return subprocess.run(
        [sys.executable, BENCHMARKS / name, *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("name", [*SCRIPTS, "reference_environment.py", "case_store.py", "label_kinds.py"])
def test_help_is_answered(name):
    done = run_script(name, "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage:")


@pytest.mark.parametrize(("name", "extra"), SCRIPTS.items())
def test_without_nnunet_nothing_is_compared_and_the_exit_code_is_3(name, extra, tmp_path):
    done = run_script(name, *extra, "--no-install", "--reference", tmp_path / "missing")
    assert done.returncode == 3, done.stderr
    assert done.stdout == ""
    assert "nnU-Net is not available" in done.stderr


@pytest.mark.parametrize(
    "words", [["loading_gpu.py"], ["inference.py", "--device", "cuda"]], ids=lambda words: words[0]
)
def test_without_a_cuda_device_the_gpu_benchmarks_say_so_and_leave_with_3(words):
    done = subprocess.run(
        [sys.executable, BENCHMARKS / words[0], *words[1:]],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(BENCHMARKS.parent), "CUDA_VISIBLE_DEVICES": ""},
    )
    assert done.returncode == 3, done.stderr
    assert done.stderr == "there is no CUDA device here, so nothing is measured\n"


def test_an_environment_that_cannot_be_made_gives_exit_code_3(tmp_path):
    (tmp_path / "file").touch()
    done = run_script("reference_environment.py", "--reference", tmp_path / "file" / "venv")
    assert done.returncode == 3, done.stderr
    assert "nnU-Net is not available" in done.stderr


def test_mending_torchvision_disables_its_registrations_and_is_done_once(on_path, tmp_path):
    from reference_environment import Reference, mend_torchvision

    path = tmp_path / "lib" / "python3.11" / "site-packages" / "torchvision" / "_meta_registrations.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "registered = []\n"
        "class torch:\n"
        "    class library:\n"
        "        def register_fake(name):\n"
        "            raise RuntimeError(name)\n"
        "def register_meta(op_name):\n"
        "    def wrapper(fn):\n"
        "        registered.append(op_name)\n"
        "        return fn\n"
        "    return wrapper\n"
        '@register_meta("roi_align")\n'
        "def roi_align():\n"
        "    return 1\n"
        '@torch.library.register_fake("torchvision::nms")\n'
        "def nms():\n"
        "    return 2\n"
    )
    mend_torchvision(Reference(tmp_path))
    mended = path.read_text()
    names = {}
    exec(mended, names)
    assert (names["roi_align"](), names["nms"](), names["registered"]) == (1, 2, [])
    mend_torchvision(Reference(tmp_path))
    assert path.read_text() == mended


def test_a_measurement_counts_the_child_processes(on_path, tmp_path):
    from measure import neutral_environment, run_measured

    burn = (
        "import time; block = bytearray(200 * 2**20); end = time.process_time() + 0.5\n"
        "while time.process_time() < end: pass"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {burn!r}], check=True)"
    cost = run_measured([sys.executable, "-c", parent], tmp_path / "log", neutral_environment())
    assert 0.5 <= cost.cpu_s < 3
    assert cost.wall_s >= 0.5
    assert 200 <= cost.peak_mib < 300


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux hands orphans to the measuring process")
def test_a_measurement_counts_workers_of_a_fork_server_that_nobody_waits_for(on_path, tmp_path):
    from measure import neutral_environment, run_measured

    script = tmp_path / "forkserver.py"
    script.write_text(
        "import multiprocessing, time\n"
        "def burn():\n"
        "    end = time.process_time() + 1\n"
        "    while time.process_time() < end: pass\n"
        "if __name__ == '__main__':\n"
        "    worker = multiprocessing.get_context('forkserver').Process(target=burn)\n"
        "    worker.start()\n"
        "    worker.join()\n"
    )
    cost = run_measured([sys.executable, script], tmp_path / "log", neutral_environment())
    assert 1 <= cost.cpu_s < 3


def test_a_failing_command_is_reported_with_its_last_lines(on_path, tmp_path):
    from measure import BenchmarkFailed, neutral_environment, run_measured

    with pytest.raises(BenchmarkFailed, match="it went wrong"):
        run_measured(
            [sys.executable, "-c", "raise SystemExit('it went wrong')"], tmp_path / "log", neutral_environment()
        )


def test_the_comparison_of_weights_sees_one_tensor_that_is_off(on_path):
    from step_agreement import compare_step

    rng = np.random.default_rng(0)
    start = {"a.weight": rng.normal(size=100), "b.weight": rng.normal(size=100_000)}
    theirs = {name: value + 0.1 for name, value in start.items()}
    ours = theirs | {"a.weight": theirs["a.weight"] * 1.001}
    everything, worst, _ = compare_step(ours, theirs, start)
    assert worst == pytest.approx(1e-3, rel=1e-6)
    assert everything < 1e-4
    assert compare_step(theirs, theirs, start) == (0, 0, 0)
