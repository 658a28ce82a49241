import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segplan.errors import ModelError
from segplan.inference import (
    Tiling,
    gaussian_weights,
    mirror_combinations,
    sliding_window,
    stream_logits,
    tile_starts,
    window,
)
from segplan.inference.tiled import auto_batch_size
from segplan.inference.tiles import padding


def network_of(dimensions: int, seed: int):
    """Three channels that look at neighbours to one side; exact, so that batching cannot change a bit."""

    def network(tiles: torch.Tensor) -> torch.Tensor:
        assert tiles.ndim == dimensions + 2
        rolled = tiles[:, :1].roll(1, dims=-1), tiles[:, 1:].roll(1 + seed, dims=2)
        return torch.cat([*rolled, tiles[:, :1]], dim=1)

    return network


def whole_volume(networks, image, tiling) -> np.ndarray:
    """The plain formula on whole-volume sums: every tile, fold and mirror image on its own."""
    flat = len(tiling.patch_size) == 2
    patch = (1, *tiling.patch_size) if flat else tiling.patch_size
    margins = padding(image.shape[1:], patch)
    padded = torch.from_numpy(np.pad(image, [(0, 0), *margins]))
    shape = padded.shape[1:]
    starts = [range(n) if p == 1 else tile_starts(n, p, tiling.step_size) for n, p in zip(shape, patch, strict=True)]
    sums, weights = torch.zeros(3, *shape), torch.zeros(shape)
    gaussian = torch.tensor(gaussian_weights(tiling.patch_size)).reshape(patch)
    for start, network in itertools.product(itertools.product(*starts), networks):
        region = tuple(slice(a, a + p) for a, p in zip(start, patch, strict=True))
        tile = padded[(slice(None), *region)]
        tile = (tile[:, 0] if flat else tile)[None]
        flips = [[axis + 2 for axis in axes] for axes in mirror_combinations(tiling.mirror_axes)]
        answer = torch.stack([network(tile.flip(flip)).flip(flip) for flip in flips]).mean(0)[0].reshape(3, *patch)
        sums[(slice(None), *region)] += (answer * gaussian).half().float()
        weights[region] += gaussian
    inside = tuple(slice(low, low + n) for (low, _), n in zip(margins, image.shape[1:], strict=True))
    return (sums / weights)[(slice(None), *inside)].numpy()


@settings(max_examples=25, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 14), st.integers(3, 11), st.integers(3, 11)),
    patch=st.sampled_from([(4, 6, 8), (2, 8, 8), (8, 4, 5), (8, 8), (4, 7)]),
    step_size=st.sampled_from([0.3, 0.5, 1.0]),
    mirror=st.booleans(),
    batch_size=st.integers(1, 9),
    folds=st.integers(1, 2),
)
def test_streamed_logits_equal_the_whole_volume_formula(shape, patch, step_size, mirror, batch_size, folds):
    networks = [network_of(len(patch), seed) for seed in range(folds)]
    # Small whole numbers keep the mean over mirror images exact in any order.
    image = np.random.default_rng(0).integers(-9, 9, size=(2, *shape)).astype(np.float32)
    tiling = Tiling(patch, 3, step_size, tuple(range(len(patch))) if mirror else (), batch_size)
    slabs = list(stream_logits(networks, image, tiling))
    assert np.allclose(torch.cat(slabs, dim=1), whole_volume(networks, image, tiling), atol=1e-4)


def test_slabs_are_never_deeper_than_a_tile_moves():
    tiling = Tiling((8, 8, 8), 3)
    depths = [slab.shape[1] for slab in stream_logits(network_of(3, 0), np.zeros((2, 40, 8, 8), np.float32), tiling)]
    assert max(depths) == 8
    assert len(depths) == len(tile_starts(40, 8))


def test_an_image_smaller_than_the_patch_keeps_its_size():
    logits = sliding_window(network_of(3, 0), np.ones((2, 3, 5, 9), np.float32), Tiling((8, 8, 8), 3))
    assert logits.shape == (3, 3, 5, 9)


@pytest.mark.parametrize("exact_half", [False, True])
def test_huge_logits_do_not_overflow(exact_half):
    def network(tiles: torch.Tensor) -> torch.Tensor:
        return torch.cat([tiles * 0, tiles * 1e6, tiles * -1e6], dim=1)

    tiling = Tiling((8, 8, 8), 3, exact_half=exact_half)
    logits = sliding_window(network, np.ones((1, 30, 20, 20), np.float32), tiling)
    assert torch.isfinite(logits).all()
    assert (logits.argmax(0) == 1).all()


def test_large_sums_of_one_fold_are_held_in_half_precision(monkeypatch):
    image = np.random.default_rng(0).normal(size=(2, 30, 20, 20)).astype(np.float32)
    network = network_of(3, 0)
    tiling = Tiling((8, 8, 8), 3, half_if_large=True)
    single = sliding_window(network, image, tiling)
    assert torch.equal(single, sliding_window(network, image, replace(tiling, half_if_large=False)))
    monkeypatch.setattr(window, "_LARGE_BYTES", 0)
    half = sliding_window(network, image, tiling)
    assert torch.equal(half, sliding_window(network, image, replace(tiling, exact_half=True)))
    assert 0 < (half - single).abs().max() < 0.02
    two = sliding_window([network, network], image, tiling)  # half for each of two would be as much as single for both
    assert torch.equal(two, sliding_window([network, network], image, replace(tiling, half_if_large=False)))


def test_a_network_that_gives_nan_is_refused():
    with pytest.raises(ModelError, match="not finite"):
        sliding_window(lambda tiles: tiles * torch.nan, np.ones((1, 8, 8, 8), np.float32), Tiling((8, 8, 8), 1))


def test_running_out_of_device_memory_falls_back_to_smaller_batches():
    sizes = []

    def network(tiles: torch.Tensor) -> torch.Tensor:
        sizes.append(len(tiles))
        if len(tiles) > 3:
            raise torch.OutOfMemoryError
        return tiles * 2

    image = np.random.default_rng(1).normal(size=(1, 16, 16, 16)).astype(np.float32)
    tiling = Tiling((8, 8, 8), 1, mirror_axes=(0, 1), batch_size=16)
    logits = sliding_window(network, image, tiling)
    assert max(sizes) == 16
    assert sizes[-1] <= 3
    assert np.median(np.abs(logits.numpy() - 2 * image)) < 1e-3


def test_running_out_of_memory_with_a_single_tile_is_an_error():
    def network(tiles: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError

    with pytest.raises(torch.OutOfMemoryError):
        sliding_window(network, np.ones((1, 8, 8, 8), np.float32), Tiling((8, 8, 8), 1, batch_size=4))


def test_read_only_memory_maps_serve_as_images(tmp_path):
    np.save(tmp_path / "image.npy", np.ones((2, 9, 9, 9), np.float32))
    mapped = np.load(tmp_path / "image.npy", mmap_mode="r")
    tiling = Tiling((8, 8, 8), 3)
    expected = sliding_window(network_of(3, 0), np.array(mapped), tiling)
    assert torch.equal(sliding_window(network_of(3, 0), mapped, tiling), expected)


def test_batches_are_single_for_volumes_on_a_cpu_and_large_on_accelerators():
    assert auto_batch_size((128, 128, 128), torch.device("cpu")) == 1
    assert auto_batch_size((56, 40), torch.device("cpu")) > 8
    assert auto_batch_size((128, 128, 128), torch.device("cuda")) == 4
