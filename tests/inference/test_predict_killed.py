"""A prediction that is killed at any moment leaves no broken file, and the same command completes it."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from nnunet_fixture import DATA, import_fixture

from segplan.entry import main
from segplan.imaging import read_image, read_label_map
from segplan.inference.probabilities import ProbabilityStore

CASES = 4
# Wait until torch is loaded, so that the moments of the kills lie in the prediction itself.
CODE = """
import sys, pathlib
import pytorch_lightning, segplan.inference.loop
pathlib.Path(sys.argv[1]).touch()
from segplan.entry import main
sys.exit(main("predict", sys.argv[2:]))
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}


class Job:
    def __init__(self, folder: Path) -> None:
        self.model = import_fixture("3d_fullres", folder / "m")
        self.folder, self.images = folder, folder / "images"
        self.images.mkdir()
        for case in range(CASES):
            for channel in range(2):
                source = DATA / "images" / f"t{case % 2}_{channel:04d}.nii.gz"
                shutil.copy(source, self.images / f"c{case}_{channel:04d}.nii.gz")

    def arguments(self, output: Path) -> list[str]:
        settings = ["folds=0", "inference.mirror=false", "trainer.accelerator=cpu", "trainer.precision=32"]
        wanted = ["save_probabilities=true", "save_entropy=true"]
        return [f"model={self.model}", f"input={self.images}", f"output={output}", *settings, *wanted]

    def run(self, output: Path, kill_after: float | None = None) -> float | None:
        """Predict into `output`; seconds that it took, or None if it was killed before its end."""
        ready = self.folder / f"ready-{random.random()}"
        command = [sys.executable, "-c", CODE, str(ready), *self.arguments(output)]
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            while not ready.exists() and process.poll() is None:
                time.sleep(0.01)
            start = time.perf_counter()
            try:
                text = process.communicate(timeout=kill_after)[0]
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                return None
        assert process.returncode == 0, text.decode()
        return time.perf_counter() - start

    def results(self, output: Path) -> dict[str, np.ndarray]:
        """What lies under final names; reading a broken file fails."""
        found = {}
        for path in sorted(output.glob("*.nii.gz")):
            found[path.name] = read_label_map(path).array
        for path in sorted(output.glob("entropy/*.nii.gz")):
            found[f"entropy/{path.name}"] = read_image([path]).array
        for path in sorted(output.glob("*.probabilities")):
            store = ProbabilityStore.open(path)
            found[path.name] = store.read(0, store.shape[0])
        return found


def killed_and_completed(job: Job, moments: int, seed: int) -> int:
    """Kill at random moments of one folder's prediction until all is done; the number of cases made by the kills."""
    whole = job.folder / "whole"
    duration = job.run(whole)
    assert duration is not None
    expected = job.results(whole)
    assert len(expected) == 3 * CASES
    chance, partial = random.Random(seed), 0
    for number in range(moments):
        output = job.folder / f"killed-{number}"
        job.run(output, kill_after=chance.uniform(0, duration))
        found = job.results(output) if output.exists() else {}
        partial += 0 < len(found) < len(expected)
        for name, values in found.items():
            assert np.array_equal(values, expected[name]), name
        assert job.run(output) is not None
        completed = job.results(output)
        assert completed.keys() == expected.keys()
        assert all(np.array_equal(completed[name], expected[name]) for name in expected)
        left = sorted(path.name for path in output.iterdir() if path.name.startswith("."))
        assert left == []
        shutil.rmtree(output)
    return partial


def same(one: np.ndarray, other: np.ndarray) -> bool:
    """Labels equal; real numbers up to what another number of threads rounds otherwise."""
    return np.array_equal(one, other) if one.dtype.kind in "iu" else np.allclose(one, other, atol=2e-3)


def test_a_killed_prediction_is_completed_by_the_same_command(tmp_path):
    job = Job(tmp_path)
    assert main("predict", job.arguments(tmp_path / "whole")) == 0
    expected = job.results(tmp_path / "whole")
    output = tmp_path / "out"
    command = [sys.executable, "-c", CODE, str(tmp_path / "ready"), *job.arguments(output)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(output.glob("*.nii.gz")) and process.poll() is None:  # the first case is written
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    found = job.results(output)
    assert 0 < len(found) < len(expected)
    assert all(same(values, expected[name]) for name, values in found.items())
    assert main("predict", job.arguments(output)) == 0
    completed = job.results(output)
    assert completed.keys() == expected.keys()
    assert all(same(completed[name], expected[name]) for name in expected)
    assert not [path for path in output.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_twenty_kills_at_random_moments(tmp_path):
    assert killed_and_completed(Job(tmp_path), 20, seed=2) > 0
