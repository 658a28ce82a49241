"""Patches of a cascade's second stage: what the first stage segmented goes through the same geometry as the labels."""

import pickle

import numpy as np
import pytest
import torch
from small_store import LABELS, write_store

from segplan.augmentation import build_pipeline, plain_pipeline
from segplan.dataset import Labels, Split
from segplan.errors import StoreError
from segplan.patches import Oversampling, PatchDataModule, PatchDataset
from segplan.preprocessing import CascadeCases, Maker, StageSegmentations

PATCH = (8, 12, 12)
SHAPES = [(14, 20, 22), (16, 18, 24)]
PREVIOUS = LABELS.foreground_labels
SPATIAL = {"spatial": {"_target_": "segplan.augmentation.Spatial", "rotation_probability": 1, "scaling_probability": 1}}
MIRROR = {"mirror": {"_target_": "segplan.augmentation.Mirror"}}
DAMAGE = {"cascade_morphology": {"_target_": "segplan.augmentation.CascadeMorphology", "probability": 1}}


@pytest.fixture
def cases(tmp_path):
    """Cases whose previous segmentation is their own labels."""
    store = write_store(tmp_path / "store", SHAPES)
    segmentations = StageSegmentations(tmp_path / "previous")
    for case in store.identifiers():
        segmentations.write(case, np.maximum(store.open(case).labels, 0), Maker("A/3d_lowres", "default", "0", "x"))
    return CascadeCases(store, segmentations)


def dataset(cases, pipeline, **more):
    return PatchDataset(
        cases, ["case0", "case1"], pipeline=pipeline, oversampling=Oversampling(2, 0.33), seed=3, **more
    )


def augmented(nodes):
    return build_pipeline(nodes, PATCH, (False, False), previous_labels=PREVIOUS)


def masks_of(labels):
    return torch.stack([labels == label for label in PREVIOUS]).float()


@pytest.mark.parametrize("nodes", [MIRROR, SPATIAL | MIRROR])
def test_the_previous_segmentation_moves_with_the_labels(cases, nodes):
    patches = dataset(cases, augmented(nodes))
    seen = 0
    for index in range(8):
        sample = patches[index]
        assert sample["image"].shape == (4, *PATCH)
        assert torch.equal(sample["image"][2:], masks_of(sample["labels"]))
        seen += int(sample["image"][2:].sum())
    assert seen > 0


def test_validation_patches_have_the_masks_too(cases):
    patches = dataset(cases, plain_pipeline(PATCH, 2, PREVIOUS))
    assert all(torch.equal(patches[index]["image"][2:], masks_of(patches[index]["labels"])) for index in range(4))


def test_the_image_channels_are_those_without_a_cascade(cases):
    nodes = SPATIAL | MIRROR
    single = dataset(cases.store, build_pipeline(nodes, PATCH, (False, False)))
    double = dataset(cases, augmented(nodes))
    for index in range(4):
        assert torch.equal(single[index]["image"], double[index]["image"][:2])
        assert torch.equal(single[index]["labels"], double[index]["labels"])


def test_only_the_previous_segmentation_is_damaged(cases):
    patches = dataset(cases, augmented(MIRROR | DAMAGE))
    damaged = 0
    for index in range(6):
        sample, draw = patches[index], patches.draw(index)
        case, kept = cases.open(draw.case), {key: params for key, params in draw.params.items() if key == "mirror"}
        image, labels = patches.pipeline.apply(case.image, patches.label_maps(case), kept, draw.box)
        assert torch.equal(sample["image"][:2], image)
        assert torch.equal(sample["labels"], labels[0])
        masks = sample["image"][2:]
        assert set(masks.unique().tolist()) <= {0.0, 1.0}
        assert masks.sum(0).max() <= 1  # the labels exclude one another
        damaged += not torch.equal(masks, masks_of(sample["labels"]))
    assert damaged


def test_samples_are_written_into_the_places_of_a_batch(cases):
    patches = dataset(cases, augmented(SPATIAL | MIRROR | DAMAGE))
    layout = patches.array_layout
    assert layout == {"image": ((4, *PATCH), "float32"), "labels": (PATCH, "int16")}
    out = {key: torch.zeros(shape, dtype=getattr(torch, kind)) for key, (shape, kind) in layout.items()}
    sample = patches.make(1, out)
    assert sample["image"].data_ptr() == out["image"].data_ptr()
    again = pickle.loads(pickle.dumps(patches))[1]  # as in a loader's process
    assert torch.equal(again["image"], out["image"])
    assert torch.equal(again["labels"], out["labels"])


def module(cases, device, labels=LABELS):
    return PatchDataModule(
        cases.store.folder,
        Split(("case0",), ("case1",)),
        labels,
        patch_size=PATCH,
        batch_size=2,
        augmentation={"device": device} | SPATIAL | MIRROR | DAMAGE,
        use_mask_for_norm=(False, False),
        batches_per_epoch=2,
        val_batches=1,
        num_workers=0,
        previous=cases.segmentations.folder,
    )


def test_an_accelerator_makes_the_same_batches(cases):
    by_workers, on_device = module(cases, "cpu"), module(cases, "accelerator")
    assert on_device.train_dataset().array_layout["labels"][0][0] == 2
    for expected, read in zip(by_workers.train_dataloader(), on_device.train_dataloader(), strict=True):
        made = on_device.on_after_batch_transfer(read, 0)
        assert made["image"].shape == (2, 4, *PATCH)
        assert torch.equal(made["image"][:, 2:], expected["image"][:, 2:])
        assert torch.equal(made["labels"], expected["labels"])
        torch.testing.assert_close(made["image"], expected["image"])
    assert next(iter(on_device.val_dataloader()))["image"].shape == (2, 4, *PATCH)


def test_there_is_a_mask_for_each_label_and_none_for_what_is_ignored(tmp_path):
    labels = Labels.from_json({"labels": {"background": 0, "organ": 40, "lesion": 70, "ignore": 255}})
    store = write_store(tmp_path / "store", SHAPES, labels.indexed)
    segmentations = StageSegmentations(tmp_path / "previous")
    for case in store.identifiers():
        ignored = np.maximum(store.open(case).labels, 0)
        segmentations.write(case, ignored, Maker("A/3d_lowres", "default", "0", "x"))
    made = module(CascadeCases(store, segmentations), "cpu", labels)
    assert made.pipeline.context.previous_labels == (1, 2)  # indices, as the segmentations hold
    batch = next(iter(made.val_dataloader()))
    assert batch["image"].shape[1] == 2 + 2
    assert torch.equal(batch["image"][0, 2:], masks_of(batch["labels"][0]))


def test_a_segmentation_of_another_grid_is_refused(cases):
    cases.segmentations.write("case0", np.zeros((3, 3, 3), np.uint8), Maker("A/3d_lowres", "default", "0", "x"))
    with pytest.raises(StoreError, match=r"has \(3, 3, 3\) voxels, the case \(14, 20, 22\)"):
        cases.open("case0")
