"""A case goes from tiles to the file's frame slab by slab, and the answer is that of the whole-volume formula."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from whole_volume import all_logits, decided, fast_labels, in_crop_box, in_file_frame, no_array_of, sure

from segplan.dataset import Labels
from segplan.errors import ModelError
from segplan.inference import Tiling, case_export, sliding_window, window
from segplan.inference.probabilities import ProbabilityStore
from segplan.inference.streaming import open_probabilities, segment_case
from segplan.inference.tile_input import LabelledImage
from segplan.preprocessing import CaseProperties, PreprocessedCase, PreprocessingPlan

ORGANS = 32
PLAIN = Labels.from_json({"labels": {"background": 0} | {f"organ {n}": n for n in range(1, ORGANS)}})
IGNORING = Labels.from_json(
    {"labels": {"background": 0} | {f"organ {n}": n for n in range(1, ORGANS)} | {"ignore": ORGANS}}
)
REGIONS = Labels.from_json(
    {
        "labels": {"background": 0} | {f"region {n}": list(range(n, ORGANS + 1)) for n in range(1, ORGANS + 1)},
        "regions_class_order": list(range(1, ORGANS + 1)),
    }
)


def network_of(dimensions: int, channels: int, seed: int):
    """Looks at neighbours and mixes channels; every class wins somewhere."""
    mix = torch.from_numpy(np.random.default_rng(seed).normal(size=(ORGANS, channels)).astype(np.float32))

    def network(tiles: torch.Tensor) -> torch.Tensor:
        assert tiles.ndim == dimensions + 2
        assert tiles.shape[1] == channels
        return torch.einsum("kc,bc...->bk...", mix, tiles + tiles.roll(1, dims=-1))

    return network


@st.composite
def cases(draw):
    """A case whose first network axis is long, so that a slab is a small part of it."""
    shape = draw(st.tuples(st.integers(110, 130), st.integers(23, 26), st.integers(23, 26)))
    scale = draw(st.tuples(*[st.sampled_from([0.9, 1.0, 1.3])] * 3))
    cropped = tuple(max(1, round(n * factor)) for n, factor in zip(shape, scale, strict=True))
    low, extra = draw(st.tuples(*[st.integers(0, 3)] * 3)), draw(st.tuples(*[st.integers(0, 3)] * 3))
    before = tuple(sum(parts) for parts in zip(low, cropped, extra, strict=True))
    transpose = draw(st.permutations((0, 1, 2)).map(tuple))
    # Spacings decide only whether slices along an axis are separate: on each of the three, or not at all.
    thick = draw(st.sampled_from([None, 0, 1, 2]))
    spacing = tuple(4.0 if axis == thick else 1.0 for axis in range(3))
    plan = PreprocessingPlan((1.0, 1.0, 1.0), transpose, ("none",), (False,), (None,))
    box = tuple((first, first + size) for first, size in zip(low, cropped, strict=True))
    return plan, CaseProperties(spacing, before, box, cropped, shape, transpose, {})


@st.composite
def tilings(draw):
    patch = draw(st.sampled_from([(8, 16, 16), (12, 26, 12), (16, 20), (26, 26)]))
    return Tiling(
        patch,
        ORGANS,
        draw(st.sampled_from([0.5, 1.0])),
        draw(st.sampled_from([(), (0,), tuple(range(len(patch)))])),
        draw(st.integers(1, 5)),
        exact_half=draw(st.booleans()),
        max_window_bytes=draw(st.sampled_from([None, 0])),
    )


@pytest.fixture(autouse=True, scope="module")
def what_is_loaded_at_the_first_case(tmp_path_factory):
    """Modules and compiled code take memory too, but hold no arrays."""
    plan, case = plain_case(shape=(9, 9, 9))
    folder = tmp_path_factory.mktemp("first") / "a"
    with no_array_of(1 << 40), open_probabilities(folder, case.properties, PLAIN) as writer:
        segment_case(
            network_of(3, 1, 0),
            case,
            plan,
            PLAIN,
            Tiling((8, 8, 8), ORGANS, mirror_axes=(0,)),
            probabilities=writer,
            entropy=True,
        )


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(window, "_CHUNK_BYTES", 1 << 15)
    monkeypatch.setattr(case_export, "_BOX_BYTES", 1 << 14)


# No shrinking: a failing example is small enough, and each costs a second.
@settings(max_examples=5, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    case=cases(),
    tiling=tilings(),
    labels=st.sampled_from([PLAIN, IGNORING, REGIONS]),
    folds=st.integers(1, 2),
    cascade=st.booleans(),
    overlap=st.booleans(),
)
def test_streaming_equals_the_whole_volume_formula_and_never_makes_a_volume_of_all_classes(
    tmp_path_factory, case, tiling, labels, folds, cascade, overlap
):
    plan, properties = case
    generator = np.random.default_rng(0)
    image = generator.normal(size=(1, *properties.shape)).astype(np.float32)
    earlier = generator.integers(-1, 4, size=properties.shape).astype(np.int8)
    channels = 3 if cascade else 0
    networks = [network_of(len(tiling.patch_size), 1 + channels, seed) for seed in range(folds)]
    given_case = PreprocessedCase(image, earlier, properties)
    folder = tmp_path_factory.mktemp("out") / "a.probabilities"
    voxels = min(np.prod(properties.shape), np.prod(properties.shape_after_cropping))
    with (
        no_array_of(ORGANS * int(voxels)),
        open_probabilities(folder, properties, labels, dtype="float32") as writer,
    ):
        found = segment_case(
            networks,
            given_case,
            plan,
            labels,
            tiling,
            probabilities=writer,
            entropy=True,
            label_channels=channels,
            overlap=overlap,
        )
    one_hot = [earlier == label for label in range(1, channels + 1)]
    logits = in_crop_box(
        all_logits(networks, np.concatenate([image, np.array(one_hot, np.float32)]) if cascade else image, tiling),
        properties,
        plan,
    )
    tolerance = 0.02 if tiling.exact_half else 0.004
    certain = in_file_frame(sure(logits, labels, tolerance), properties, outside=True)
    expected = in_file_frame(decided(logits, labels), properties)
    assert found.labels.shape == expected.shape
    assert np.array_equal(found.labels[certain], expected[certain])
    exact = np.exp(logits - logits.max(0)) if labels is not REGIONS else 1 / (1 + np.exp(-logits))
    exact = exact if labels is REGIONS else exact / exact.sum(0)
    outside = np.zeros(ORGANS) if labels is REGIONS else np.eye(ORGANS)[0]
    stored = ProbabilityStore.open(folder).read(0, expected.shape[0])
    for channel, value in enumerate(outside):
        assert np.abs(stored[channel] - in_file_frame(exact[channel], properties, value)).max() < tolerance
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.nan_to_num(stored * np.log(stored))
        if labels is REGIONS:
            surprise -= np.nan_to_num((1 - stored) * np.log1p(-stored))
    assert np.allclose(found.entropy, surprise.sum(0), atol=1e-4)


def plain_case(shape=(40, 16, 16), finer=2, seed=0, channels=1):
    cropped = tuple(finer * size for size in shape)
    properties = CaseProperties(
        (0.5, 0.5, 0.5), cropped, tuple((0, size) for size in cropped), cropped, shape, (0, 1, 2), {}
    )
    image = np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)
    return PreprocessingPlan((1.0, 1.0, 1.0), (0, 1, 2), ("none",), (False,), (None,)), PreprocessedCase(
        image, None, properties
    )


def test_the_guard_notices_a_volume_of_all_classes():
    _, case = plain_case()
    with pytest.raises(AssertionError, match="volume of all classes"), no_array_of(ORGANS * case.image.size):
        sliding_window(network_of(3, 1, 0), case.image, Tiling((8, 8, 8), ORGANS))
    with pytest.raises(AssertionError, match="volume of all classes"), no_array_of(ORGANS * case.image.size):
        np.zeros((ORGANS, *case.image.shape), np.uint8)


@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions"])
def test_fast_mode_resamples_labels_decided_on_the_networks_grid(labels):
    plan, case = plain_case()
    tiling = Tiling((8, 8, 8), ORGANS, fast=True)
    found = segment_case(network_of(3, 1, 0), case, plan, labels, tiling)
    logits = sliding_window(network_of(3, 1, 0), case.image, tiling).numpy()
    assert np.array_equal(found.labels, fast_labels(logits, case.properties, plan, labels))
    assert found.labels.dtype == np.uint8
    with pytest.raises(ValueError, match="neither"):
        segment_case(network_of(3, 1, 0), case, plan, labels, tiling, entropy=True)


def test_sums_that_exceed_the_memory_go_to_a_file_and_this_is_said():
    plan, case = plain_case()
    expected = segment_case(network_of(3, 1, 0), case, plan, PLAIN, Tiling((8, 8, 8), ORGANS))
    spilled = segment_case(network_of(3, 1, 0), case, plan, PLAIN, Tiling((8, 8, 8), ORGANS, max_window_bytes=1000))
    assert expected.notes == ()
    assert "temporary file" in spilled.notes[0]
    assert np.array_equal(spilled.labels, expected.labels)


class Exhausted:
    """A network on a device whose memory holds no more than one sample once the sums have left it."""

    def __init__(self, moved_after: int) -> None:
        self.calls, self.moved_after = 0, moved_after

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls > self.moved_after and self.calls <= self.moved_after + 3:
            raise torch.OutOfMemoryError
        return network_of(3, 1, 0)(tiles)


def test_a_full_device_gets_smaller_batches_and_then_leaves_the_sums_to_the_host():
    plan, case = plain_case()
    tiling = Tiling((8, 8, 8), ORGANS, batch_size=4)
    expected = segment_case(network_of(3, 1, 0), case, plan, PLAIN, tiling)
    # "cpu:0" stands for an accelerator: it is not the host, which is "cpu".
    found = segment_case(Exhausted(5), case, plan, PLAIN, tiling, device="cpu:0")
    assert [note.split(":")[-1].strip() for note in found.notes] == [
        "batches of 2 from here on",
        "batches of 1 from here on",
        "tiles are summed up in the host's",
    ]
    assert np.array_equal(found.labels, expected.labels)


@pytest.mark.parametrize("overlap", [False, True])
def test_an_error_of_any_stage_ends_the_case_and_no_thread_stays(monkeypatch, overlap):
    plan, case = plain_case()
    tiling = Tiling((8, 8, 8), ORGANS)
    before = set(threading.enumerate())  # libraries that other tests use keep threads of their own

    def failing_network(tiles: torch.Tensor) -> torch.Tensor:
        return tiles.repeat(1, ORGANS, 1, 1, 1) * torch.nan

    with pytest.raises(ModelError, match="not finite"):
        segment_case(failing_network, case, plan, PLAIN, tiling, overlap=overlap)

    def failing_export(*_):
        raise OSError("the disk is gone")

    monkeypatch.setattr(case_export, "label_plane", failing_export)
    with pytest.raises(OSError, match="disk is gone"):
        segment_case(network_of(3, 1, 0), case, plan, PLAIN, tiling, overlap=overlap)
    assert set(threading.enumerate()) <= before


def test_a_failed_case_leaves_no_probabilities(tmp_path: Path):
    plan, case = plain_case()
    with (
        pytest.raises(ModelError),
        open_probabilities(tmp_path / "a.probabilities", case.properties, PLAIN) as writer,
    ):
        segment_case(
            lambda tiles: tiles * torch.nan, case, plan, PLAIN, Tiling((8, 8, 8), ORGANS), probabilities=writer
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions"])
def test_tiles_of_air_are_not_run_and_become_background(labels):
    plan, case = plain_case(shape=(64, 16, 16), finer=1)
    image = np.full_like(case.image, -3)
    image[:, 20:40] = 5
    ran = []

    def network(tiles: torch.Tensor) -> torch.Tensor:
        ran.append(len(tiles))
        return torch.ones(len(tiles), ORGANS, *tiles.shape[2:]).cumsum(1)

    tiling = Tiling((8, 8, 8), ORGANS, skip_background=True, regions=labels.has_regions)
    case = PreprocessedCase(image, None, case.properties)
    found = segment_case(network, case, plan, labels, tiling)
    highest = ORGANS if labels.has_regions else ORGANS - 1
    assert (found.labels[20:40] == highest).all()
    assert not found.labels[:12].any()
    assert not found.labels[48:].any()
    assert sum(ran) < 15 * 9
    assert "hold only air" in found.notes[0]


def test_a_label_of_the_earlier_stage_is_body_too():
    labels = np.zeros((64, 16, 16), np.int8)
    labels[2:4] = 1
    image = LabelledImage(np.full((1, 64, 16, 16), -3, np.float32), labels, 2)
    ran = []

    def network(tiles: torch.Tensor) -> torch.Tensor:
        ran.append(float(tiles[:, 1].sum()))
        return torch.zeros(len(tiles), ORGANS, *tiles.shape[2:])

    sliding_window(network, image, Tiling((8, 8, 8), ORGANS, skip_background=True))
    assert ran
    assert min(ran) > 0
