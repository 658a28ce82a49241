"""Memory: what may be used, what a case needs by its headers, and that no more cases run than it holds."""

import functools
import gzip
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import SimpleITK as sitk
from PIL import Image as Picture

from segplan.dataset import Case
from segplan.preprocessing import CaseSize, PreprocessingPlan, case_size, run_parallel, usable_memory

GIB = 1 << 30


def plan(spacing=(1.0, 1.0, 1.0), transpose=(0, 1, 2), channels=1):
    return PreprocessingPlan(spacing, transpose, ("none",) * channels, (False,) * channels, (None,) * channels)


def write(path, shape=(5, 6, 7), spacing=(3.0, 2.0, 1.0)):
    image = sitk.GetImageFromArray(np.zeros(shape, np.int16))
    image.SetSpacing(spacing[::-1])
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("ending", [".nii.gz", ".nii", ".nrrd", ".mha", ".gipl"])
def test_headers_give_size_and_spacing(tmp_path, ending):
    case = Case("a", tuple(write(tmp_path / f"a_{channel}{ending}") for channel in range(3)), None)
    assert case_size(case) == CaseSize(values=3 * 5 * 6 * 7, voxels=5 * 6 * 7, spacing=(3.0, 2.0, 1.0))


def test_only_headers_are_read(tmp_path):
    path = write(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:400])
    assert case_size(Case("a", (path,), None)).values == 5 * 6 * 7
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes() + bytes(1000))[:200])
    assert case_size(Case("b", (packed,), None)).values == 5 * 6 * 7


def test_a_picture_or_a_file_that_cannot_be_read_is_guessed_by_its_bytes(tmp_path):
    picture = tmp_path / "a.bmp"
    Picture.fromarray(np.zeros((40, 50), np.uint8)).save(picture)
    assert 40 * 50 <= case_size(Case("a", (picture,), None)).values <= 2 * 40 * 50
    broken = tmp_path / "a.nii.gz"
    broken.write_bytes(b"no image" * 1000)
    assert case_size(Case("a", (broken,), None)).values >= 8000
    assert case_size(Case("a", (tmp_path / "missing.nrrd",), None)).values == 0


def test_a_finer_grid_and_more_channels_need_more():
    size = CaseSize(300**3, 300**3, (2.0, 1.0, 1.0))
    same, finer = (size.peak_bytes(plan(spacing)) for spacing in ((2.0, 1.0, 1.0), (1.0, 0.5, 0.5)))
    assert finer > 2 * same
    two = CaseSize(2 * 300**3, 300**3, (2.0, 1.0, 1.0))
    assert two.peak_bytes(plan((1.0, 0.5, 0.5), channels=2)) > finer
    turned = CaseSize(300**3, 300**3, (1.0, 1.0, 2.0))
    assert turned.peak_bytes(plan((1.0, 0.5, 0.5), (2, 0, 1))) == finer


PEAK = """
    import sys
    from pathlib import Path
    import SimpleITK, segplan.preprocessing.kernels
    from segplan.dataset import Case, Labels
    from segplan.preprocessing import PreprocessingPlan, preprocess_to_store

    def peak():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))

    folder = Path(sys.argv[1])
    labels = Labels.from_json({"labels": {"background": 0, "a": 1}})
    plan = PreprocessingPlan((1.0, 0.7, 0.7), (0, 1, 2), ("zscore",), (False,), (None,))
    before = peak()
    preprocess_to_store(Case("a", (folder / "a_0.nii",), folder / "label.nii"), labels, plan, folder / "store", "hash")
    print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_the_estimate_is_above_the_real_peak_and_not_by_far(tmp_path):
    shape = (120, 160, 160)
    write(tmp_path / "a_0.nii", shape, (1.5, 1.0, 1.0))
    sitk.WriteImage(sitk.GetImageFromArray(np.ones(shape, np.uint8)), str(tmp_path / "label.nii"))
    script = "\n".join(line[4:] for line in PEAK.splitlines())
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    estimate = case_size(Case("a", (tmp_path / "a_0.nii",), None)).peak_bytes(plan((1.0, 0.7, 0.7)))
    assert 0.4 * estimate < int(done.stdout) < estimate


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/", {"memory.max": "max", "memory.current": "1"}, None),
        ("0::/", {"memory.max": f"{4 * GIB}", "memory.current": f"{GIB}", "memory.stat": "anon 1\nfile 2"}, 3 * GIB),
        (
            "0::/a/b",
            {"a/memory.max": f"{GIB}", "a/memory.current": f"{GIB}", "a/memory.stat": f"inactive_file {GIB // 4}"},
            GIB // 4,
        ),
        (
            "4:memory:/x\n1:cpu:/",
            {
                "memory/x/memory.limit_in_bytes": f"{2 * GIB}",
                "memory/x/memory.usage_in_bytes": f"{GIB}",
                "memory/x/memory.stat": "cache 5\ntotal_inactive_file 0",
            },
            GIB,
        ),
        ("4:memory:/", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("0::/", {"memory.max": "garbage"}, None),
    ],
)
def test_usable_memory_follows_the_control_groups_limit(tmp_path, monkeypatch, membership, files, expected):
    free = 100 * GIB
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": free}))
    (tmp_path / "membership").write_text(membership + "\n")
    for path, content in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(content + "\n")
    assert usable_memory(tmp_path, tmp_path / "membership") == int(0.8 * (free if expected is None else expected))


def note(item, folder):
    """Leave a file while at work on an item, and say what was there."""
    name, duration = item
    (folder / name).touch()
    time.sleep(duration)
    seen = sorted(path.name for path in folder.iterdir())
    (folder / name).unlink()
    return seen


def test_items_at_work_together_stay_within_the_budget(tmp_path):
    costs = {"a": 6.0, "b": 5.0, "c": 3.0, "d": 2.0, "e": 1.0, "huge": 50.0}
    items = [(name, 0.05) for name in costs]
    results = run_parallel(functools.partial(note, folder=tmp_path), items, 4, costs=list(costs.values()), budget=9.0)
    seen = {name: together for (name, _), together in results}
    assert sorted(seen) == sorted(costs)
    assert seen["huge"] == ["huge"]
    for name, together in seen.items():
        assert name == "huge" or sum(costs[other] for other in together) <= 9.0
    assert any(len(together) > 1 for together in seen.values())


def test_the_dearest_items_are_begun_first():
    for num_workers in (1, 2):
        results = run_parallel(str, [1, 2, 3, 4], num_workers, costs=[1.0, 4.0, 2.0, 3.0], budget=4.0)
        assert [item for item, _ in results] == [2, 4, 3, 1] or num_workers == 2
        first = run_parallel(str, [1, 2, 3, 4], num_workers, costs=[1.0, 4.0, 2.0, 3.0], budget=4.0)
        assert next(first)[0] == 2  # it fills the budget, so nothing overtakes it


def test_workers_that_die_are_replaced_within_a_budget():
    kill = functools.partial(die_or_not, bad=("a", "b"))
    results = dict(run_parallel(kill, ["a", "b", "c", "d"], 2, costs=[2.0, 2.0, 1.0, 1.0], budget=2.0))
    assert results["c"] == "c" and results["d"] == "d"
    assert all("SIGKILL" in str(results[name]) for name in ("a", "b"))


def die_or_not(item, bad):
    import os
    import signal

    if item in bad:
        os.kill(os.getpid(), signal.SIGKILL)
    return item
