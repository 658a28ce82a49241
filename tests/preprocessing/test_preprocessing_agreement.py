"""Agreement with nnU-Net 2.8.1's own arrays of one case in three configurations (tests/data/preprocessed)."""

import json
from pathlib import Path

import numpy as np
import pytest

from segplan.dataset import Case, Labels
from segplan.errors import DatasetError, ImageError
from segplan.preprocessing import CaseStore, PreprocessingPlan, preprocess_to_store

DATA = Path(__file__).parents[1] / "data" / "preprocessed"
SPACINGS = {
    "2d": (None, 1.100000023841858, 1.0),
    "3d_fullres": (2.75, 1.100000023841858, 1.0),
    "3d_lowres": (2.75, 1.8, 1.6),
}
CASE = Case("c0", tuple(DATA / "raw" / f"c0_000{channel}.nii.gz" for channel in (0, 1)), DATA / "raw" / "c0.nii.gz")


@pytest.fixture(scope="module", params=list(SPACINGS))
def both(request, tmp_path_factory):
    plan = PreprocessingPlan(
        spacing=SPACINGS[request.param],
        transpose=(2, 0, 1),
        normalization=("zscore", "zscore"),
        use_mask=(False, False),
        intensities=(None, None),
    )
    labels = Labels.from_json(json.loads((DATA / "raw" / "dataset.json").read_text()))
    folder = tmp_path_factory.mktemp("store")
    assert preprocess_to_store(CASE, labels, plan, folder, "hash") == "c0"
    expected = dict(np.load(DATA / f"{request.param}_c0.npz", allow_pickle=False))
    properties = json.loads((DATA / f"{request.param}_c0.json").read_text())
    return CaseStore(folder).open("c0"), expected, properties


def test_a_case_that_cannot_be_used_is_named(tmp_path):
    labels = Labels.from_json(json.loads((DATA / "raw" / "dataset.json").read_text()))
    plan = PreprocessingPlan(SPACINGS["2d"], (2, 0, 1), ("zscore",), (False,), (None,))
    with pytest.raises(ImageError, match=r"c0: the image has 2 channel\(s\), the plan 1"):
        preprocess_to_store(CASE, labels, plan, tmp_path, "hash")
    with pytest.raises(DatasetError, match="c0: a training case needs a label map"):
        preprocess_to_store(Case("c0", CASE.images, None), labels, plan, tmp_path, "hash")
    assert list(tmp_path.iterdir()) == []


def test_image_agrees_within_a_ten_thousandth_of_the_standard_deviation(both):
    stored, expected, _ = both
    assert stored.image.shape == expected["data"].shape
    for ours, theirs in zip(stored.image, expected["data"], strict=True):
        assert np.abs(ours - theirs).max() < 1e-4 * theirs.std()


def test_labels_agree_exactly(both):
    stored, expected, _ = both
    assert set(np.unique(expected["seg"])) >= {0, 1, 2, 3}
    assert np.array_equal(stored.labels, expected["seg"][0])


def test_locations_agree_exactly_and_in_order(both):
    stored, expected, _ = both
    assert list(stored.locations) == ["1", "2", "3"]
    for key, rows in stored.locations.items():
        assert np.array_equal(rows, expected[f"loc_{key}"][:, 1:])


def test_properties_agree_exactly(both):
    stored, expected, properties = both
    ours = stored.properties
    assert list(ours.spacing) == properties["spacing"]
    assert list(ours.shape_before_cropping) == properties["shape_before_cropping"]
    assert [list(pair) for pair in ours.box] == properties["bbox_used_for_cropping"]
    assert list(ours.shape_after_cropping) == properties["shape_after_cropping_and_before_resampling"]
    assert ours.shape == expected["data"].shape[1:]
    for key in ("spacing", "origin", "direction"):
        assert list(ours.geometry[key]) == properties["sitk_stuff"][key]
