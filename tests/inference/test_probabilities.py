"""Probabilities on disk, in pieces."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from segplan.errors import StoreError
from segplan.inference.probabilities import Kind, ProbabilityStore, ProbabilityWriter

SHAPE = (23, 7, 9)


def _probabilities(channels: int = 3, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).dirichlet(np.full(channels, 0.3), SHAPE)
    return np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32)


def test_what_is_written_plane_by_plane_is_read_at_any_range(tmp_path: Path) -> None:
    values = _probabilities()
    with ProbabilityWriter(tmp_path / "a.probabilities", 3, SHAPE, about={"geometry": [1]}) as writer:
        for start in range(0, 23, 5):
            writer.write(start, values[:, start : start + 5])
    store = ProbabilityStore.open(tmp_path / "a.probabilities")
    assert (store.channels, store.shape, store.kind, store.about) == (3, SHAPE, "softmax", {"geometry": [1]})
    for start, stop in [(0, 23), (4, 6), (22, 23), (7, 7)]:
        read = store.read(start, stop)
        assert read.dtype == np.float32
        np.testing.assert_allclose(read, values[:, start:stop], atol=2.5e-4)


def test_single_precision_is_exact(tmp_path: Path) -> None:
    values = _probabilities()
    with ProbabilityWriter(tmp_path / "a", 3, SHAPE, dtype="float32") as writer:
        writer.write(0, values)
    np.testing.assert_array_equal(ProbabilityStore.open(tmp_path / "a").read(0, 23), values)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_outside_the_box_the_background_is_certain_or_no_region_is(tmp_path: Path, kind: Kind) -> None:
    values = _probabilities()
    box = ((2, 20), (1, 7), (0, 4))
    with ProbabilityWriter(tmp_path / "a", 3, SHAPE, kind=kind, box=box, dtype="float32") as writer:
        for column in range(4):  # slabs along the last axis, as of a network whose first axis that is
            writer.write_box((2, 1, column), values[:, 2:20, 1:7, column : column + 1])
    expected = np.zeros_like(values)
    expected[0] = 1 if kind == "softmax" else 0
    expected[:, 2:20, 1:7, :4] = values[:, 2:20, 1:7, :4]
    store = ProbabilityStore.open(tmp_path / "a")
    np.testing.assert_array_equal(store.read(0, 23), expected)
    np.testing.assert_array_equal(store.read(5, 6), expected[:, 5:6])


def test_slabs_cover_every_plane_once_within_their_bytes(tmp_path: Path) -> None:
    values = _probabilities()
    with ProbabilityWriter(tmp_path / "a", 3, SHAPE, dtype="float32") as writer:
        for start, stop in [(0, 4), (4, 15), (15, 23)]:
            writer.write(start, values[:, start:stop])
    store = ProbabilityStore.open(tmp_path / "a")
    for planes in (1, 4, 100):
        limit = planes * 4 * 3 * 7 * 9
        slabs = list(store.slabs(limit))
        assert all(slab.nbytes <= limit for _, _, slab in slabs)
        np.testing.assert_array_equal(np.concatenate([slab for _, _, slab in slabs], axis=1), values)


def test_an_error_leaves_nothing_and_keeps_the_older_store(tmp_path: Path) -> None:
    values = _probabilities()
    folder = tmp_path / "a"
    with ProbabilityWriter(folder, 3, SHAPE, dtype="float32") as writer:
        writer.write(0, values)
    with pytest.raises(ValueError, match="expected"), ProbabilityWriter(folder, 3, SHAPE) as writer:
        writer.write(0, values[:, :5])
    with pytest.raises(KeyError), ProbabilityWriter(folder, 3, SHAPE) as writer:
        writer.write(0, values[:, :5])
        raise KeyError
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    np.testing.assert_array_equal(ProbabilityStore.open(folder).read(0, 23), values)


def test_writing_again_replaces_the_store(tmp_path: Path) -> None:
    for seed in (0, 1):
        with ProbabilityWriter(tmp_path / "a", 3, SHAPE, dtype="float32") as writer:
            writer.write(0, _probabilities(seed=seed))
    np.testing.assert_array_equal(ProbabilityStore.open(tmp_path / "a").read(0, 23), _probabilities(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_block_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    values = _probabilities()
    with pytest.raises(ValueError, match="does not fit"), ProbabilityWriter(tmp_path / "a", 3, SHAPE) as writer:
        writer.write(20, values[:, :5])
    with pytest.raises(ValueError, match="does not fit"), ProbabilityWriter(tmp_path / "a", 4, SHAPE) as writer:
        writer.write(0, values)


def test_nnunets_file_holds_the_same_values(tmp_path: Path) -> None:
    values = _probabilities()
    with ProbabilityWriter(tmp_path / "a", 3, SHAPE, dtype="float32") as writer:
        writer.write(0, values)
    ProbabilityStore.open(tmp_path / "a").to_npz(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as data:
        assert data["probabilities"].dtype == np.float32
        np.testing.assert_array_equal(data["probabilities"], values)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.npz"]


def test_a_damaged_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store"):
        ProbabilityStore.open(tmp_path)
    with ProbabilityWriter(tmp_path / "a", 3, SHAPE) as writer:
        writer.write(0, _probabilities())
    (tmp_path / "a" / "boxes.bin").write_bytes(b"x")
    with pytest.raises(StoreError, match="damaged"):
        ProbabilityStore.open(tmp_path / "a").read(0, 3)
    meta = json.loads((tmp_path / "a" / "meta.json").read_text()) | {"format": 99}
    (tmp_path / "a" / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(StoreError, match="version"):
        ProbabilityStore.open(tmp_path / "a")


def test_it_needs_no_torch() -> None:
    code = "import sys, segplan.inference.probabilities; print([m for m in ('torch', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
