"""Labels made where the logits are. "cpu:0" stands for an accelerator: as a device it is not the host, "cpu"."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_export import PLAIN, REGIONS, cases, plan_of, properties_of, whole_volume
from whole_volume import LargestTensor

from segplan.errors import ConfigError
from segplan.inference import InferenceSettings, Tiling, device_labels, slabs_to_labels
from segplan.inference.axis_tables import tables_of
from segplan.inference.case_export import CaseExport
from segplan.inference.device_labels import DeviceLabels
from segplan.inference.predictor import make_tiling
from segplan.inference.streaming import segment_case
from segplan.preprocessing import PreprocessedCase

ACCELERATORS = ["cpu:0", *(["cuda"] if torch.cuda.is_available() else [])]
SMALL = {"one class of a plane": 1, "some classes of a plane": 16 * 130 * 3, "some planes": 16 * 130 * 4 * 2}


def case_of(shape=(6, 9, 7), cropped=(20, 13, 10)):
    properties = properties_of(shape, cropped, cropped, (0, 0, 0), (1.0, 1.0, 1.0), (0, 1, 2))
    return plan_of((3.0, 1.4, 1.4), (0, 1, 2)), properties


def labels_on(device, slabs, properties, plan, labels=PLAIN):
    notes: list[str] = []
    export = CaseExport(properties, plan, labels, device=torch.device(device), notes=notes)
    for slab in slabs:
        export.add(slab)
    assert not notes
    return export.labels


def logits_of(shape, channels=4, seed=5, device="cpu"):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(channels, *shape)).astype(np.float32)).to(device)


@pytest.mark.parametrize("device", ACCELERATORS)
@settings(max_examples=60, deadline=None)
@given(case=cases(), regions=st.booleans(), seed=st.integers(0, 1000), data=st.data())
def test_they_equal_the_whole_volume_formula(device, case, regions, seed, data):
    plan, properties = case
    labels = REGIONS if regions else PLAIN
    logits = logits_of(properties.shape, 3 if regions else 4, seed)
    cuts = sorted(data.draw(st.lists(st.integers(0, properties.shape[0]), max_size=3)))
    slabs = [part.to(device) for part in torch.tensor_split(logits, cuts, dim=1)]
    expected, full = whole_volume(logits.numpy(), properties, plan, labels)
    found = labels_on(device, slabs, properties, plan, labels)
    ordered = np.sort(full, axis=0)
    margin = np.abs(full).min(axis=0) if regions else ordered[-1] - ordered[-2]
    unsure = np.zeros(properties.shape_before_cropping, bool)
    unsure[tuple(slice(*pair) for pair in properties.box)] = margin < 1e-5
    sure = ~unsure.transpose(np.argsort(properties.transpose))
    assert np.array_equal(found[sure], expected[sure])


@pytest.mark.parametrize("device", ACCELERATORS)
@pytest.mark.parametrize("labels", [PLAIN, REGIONS], ids=["labels", "regions"])
@pytest.mark.parametrize("work", SMALL.values(), ids=SMALL)
def test_the_working_memory_changes_nothing(monkeypatch, device, labels, work):
    plan, properties = case_of()
    logits = logits_of(properties.shape, labels.num_heads, device=device)
    expected = labels_on(device, [logits], properties, plan, labels)
    monkeypatch.setattr(device_labels, "_WORK_BYTES", work)
    assert np.array_equal(labels_on(device, [logits], properties, plan, labels), expected)
    assert len(np.unique(expected)) == 4


@pytest.mark.parametrize("sizes", [((4, 8, 8), (60, 64, 64)), ((8, 64, 64), (16, 9, 8)), ((8, 64, 64), (5, 9, 8))])
def test_the_working_memory_is_bounded_whatever_the_number_of_classes(monkeypatch, sizes):
    plan, properties = case_of(*sizes)
    first, second = logits_of(properties.shape, 4).repeat(32, 1, 1, 1).chunk(2, dim=1)
    first, second = first.clone(), second.clone()
    labels = DeviceLabels(tables_of(properties, plan), painted=False)
    along = tables_of(properties, plan)[0]
    monkeypatch.setattr(device_labels, "_WORK_BYTES", 1 << 18)
    for start, slab in ((0, first), (first.shape[1], second)):
        with LargestTensor(slab) as tensors:
            for low, numbers in labels.add(slab, start, along.ready(start, start + slab.shape[1])):
                assert numbers.any()
                assert low + len(numbers) <= sizes[1][0]
        last_plane = slab[:, 0].numel()
        assert tensors.values <= max((1 << 18) // 4, last_plane)
    assert slab.numel() > (1 << 18) // 4 or sizes[0][1] == 8


@pytest.mark.parametrize("device", ACCELERATORS)
def test_equal_logits_give_the_first_channel_and_no_positive_one_the_background(device):
    plan, properties = case_of()
    tied = torch.ones((4, *properties.shape), device=device)
    assert not labels_on(device, [tied], properties, plan).any()
    tied[2] = 2
    assert (labels_on(device, [tied], properties, plan) == 2).all()
    assert not labels_on(device, [-tied[:3]], properties, plan, REGIONS).any()


def exhausted_after(calls: int):
    """`DeviceLabels.add` on a device that is full from some slab on, in the middle of it."""
    whole, made = DeviceLabels.add, []

    def add(self, slab, start, ready):
        made.append(start)
        for number, part in enumerate(whole(self, slab, start, ready)):
            if len(made) > calls and number == 1:
                raise torch.OutOfMemoryError
            yield part

    return add


@pytest.mark.parametrize("calls", [0, 1, 3])
def test_a_full_device_leaves_the_rest_to_the_host_and_this_is_said(monkeypatch, calls):
    plan, properties = case_of()
    logits = logits_of(properties.shape)
    expected = slabs_to_labels([logits], properties, plan, PLAIN)
    monkeypatch.setattr(device_labels, "_WORK_BYTES", 1)
    monkeypatch.setattr(DeviceLabels, "add", exhausted_after(calls))
    notes: list[str] = []
    export = CaseExport(properties, plan, PLAIN, device=torch.device("cpu:0"), notes=notes)
    for slab in logits.split([2, 1, 1, 1, 1], dim=1):
        export.add(slab)
    assert np.array_equal(export.labels, expected)
    assert notes == ["no room on cpu:0 to resample labels: that is done on the host"]


def test_sums_that_leave_the_device_in_mid_case_change_nothing():
    plan, properties = case_of()
    logits = logits_of(properties.shape)
    first, second, third = logits.split([2, 1, 3], dim=1)
    found = labels_on("cpu:0", [first, second.numpy(), third], properties, plan)
    assert np.array_equal(found, slabs_to_labels([logits], properties, plan, PLAIN))


def test_any_other_error_is_not_taken_for_a_full_device(monkeypatch):
    plan, properties = case_of()

    def broken(*_):
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(DeviceLabels, "add", broken)
    with pytest.raises(RuntimeError, match="no kernel image"):
        CaseExport(properties, plan, PLAIN, device=torch.device("cpu:0")).add(logits_of(properties.shape))


@pytest.mark.parametrize("device", ACCELERATORS)
@pytest.mark.parametrize("choice", ["auto", "cpu"])
def test_a_case_on_an_accelerator_gets_the_labels_it_gets_on_the_host(monkeypatch, device, choice):
    plan, properties = case_of((30, 12, 11), (60, 24, 22))
    image = np.random.default_rng(0).normal(size=(1, *properties.shape)).astype(np.float32)
    case = PreprocessedCase(image, None, properties)
    used: list[int] = []
    whole = DeviceLabels.add
    monkeypatch.setattr(DeviceLabels, "add", lambda *words: used.append(1) or whole(*words))

    def segmented_on(name: str, **settings) -> np.ndarray:
        tiling = make_tiling(
            (8, 8, 8),
            4,
            InferenceSettings(**settings),
            mirror_axes=(0,),
            dtype=torch.float32,
            device=torch.device("cpu"),
        )
        assert isinstance(tiling, Tiling)
        weights = torch.tensor([1.0, -1.0, 0.5, -0.5], device=name).view(1, 4, 1, 1, 1)
        # As in Lightning's loop: the export's thread is not in inference mode, its slabs are from there.
        with torch.inference_mode():
            return segment_case(
                lambda tiles: tiles * weights, case, plan, PLAIN, tiling, device=name, overlap=True
            ).labels

    expected = segmented_on("cpu")
    assert not used
    found = segmented_on(device, export_device=choice)
    assert bool(used) == (choice == "auto")
    assert np.mean(found == expected) > 0.9999


def test_an_unknown_place_is_refused():
    with pytest.raises(ConfigError, match="export_device=cuda: must be auto or cpu"):
        InferenceSettings(export_device="cuda")
