"""The same checkpoints and images give nnU-Net 2.8.1's answers."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from nnunet_fixture import DATA, import_fixture

from segplan.imaging import read_image
from segplan.inference import Predictor, logits_to_labels, logits_to_probabilities, sliding_window, tile_starts
from segplan.inference.tiles import padding

CASES = {
    "2d__f0_tta": ("2d", [0], True),
    "3d_fullres__f0_1_tta": ("3d_fullres", [0, 1], True),
    "3d_fullres__f0_notta": ("3d_fullres", [0], False),
    "3d_lowres__fall_tta": ("3d_lowres", ["all"], True),
}
TOLERANCE = 4e-3


def files(case: str) -> list[Path]:
    return [DATA / "images" / f"{case}_{channel:04d}.nii.gz" for channel in range(2)]


def load(folder: Path, name: str, **settings) -> Predictor:
    configuration, folds, mirror = CASES[name]
    model = folder / configuration
    if not model.exists():
        import_fixture(configuration, model)
    return Predictor.from_model(model, folds=folds, device="cpu", precision="32", mirror=mirror, **settings)


class Run:
    """One fixture: nnU-Net's answer and ours."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self.expected = name, np.load(DATA / f"pred/{name}.npz")
        self.predictor = load(folder, name)
        self.case = self.predictor.preprocess(read_image(files("t0")))
        self.logits = sliding_window(self.predictor.networks, self.case.image, self.predictor.tiling).numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module", params=CASES)
def run(request: pytest.FixtureRequest, folder: Path) -> Run:
    return Run(folder, request.param)


def sure_voxels(scores: np.ndarray, margin: float) -> np.ndarray:
    ordered = np.sort(scores, axis=0)
    sure = ordered[-1] - ordered[-2] > margin
    assert sure.mean() > 0.95
    return sure


def test_tiles_lie_where_nnunet_put_them(run):
    shape, patch = run.case.image.shape[1:], run.predictor.tiling.patch_size
    if len(patch) == 2:
        starts = [range(shape[0]), *(tile_starts(*pair) for pair in zip(shape[1:], patch, strict=True))]
    else:
        margins = padding(shape, patch)
        starts = [tile_starts(n + sum(m), p) for n, m, p in zip(shape, margins, patch, strict=True)]
    assert np.array_equal(list(itertools.product(*starts)), run.expected["tile_starts"])


def test_logits_agree(run):
    reference = run.expected["logits"]
    # Convolutions may differ in the last bits of float32 between machines, which can turn a rounding to half.
    assert np.all(np.abs(run.logits - reference) <= np.maximum(TOLERANCE, np.spacing(np.abs(reference))))
    assert np.mean(run.logits == reference) > 0.98


def test_labels_are_the_same_where_nnunets_best_logits_differ(run):
    reference = run.expected["logits"].astype(np.float32)
    sure = sure_voxels(reference, TOLERANCE)
    assert np.array_equal(run.logits.argmax(0)[sure], reference.argmax(0)[sure])


def test_label_map_in_the_files_frame_agrees(run):
    expected = run.expected["t0"]
    labels = logits_to_labels(run.logits, run.case.properties, run.predictor.plan, run.predictor.labels)
    assert labels.shape == expected.shape
    assert labels.dtype == np.uint8
    assert len(np.unique(expected)) > 1
    assert np.mean(labels != expected) < 1e-3  # near ties of a random network


def test_export_of_nnunets_logits_gives_its_labels_and_probabilities(run):
    properties, plan, labels = run.case.properties, run.predictor.plan, run.predictor.labels
    logits = run.expected["logits"].astype(np.float32)
    probabilities = logits_to_probabilities(logits, properties, plan, labels)
    assert np.abs(probabilities[:, ::3, ::3, ::3] - run.expected["probabilities_crop"]).max() < 3e-3
    sure = sure_voxels(probabilities, 2e-3)
    assert np.array_equal(logits_to_labels(logits, properties, plan, labels)[sure], run.expected["t0"][sure])


def test_a_single_precision_accumulator_differs_by_nnunets_own_rounding(run, folder):
    predictor = load(folder, run.name, accumulator="float32")
    logits = sliding_window(predictor.networks, run.case.image, predictor.tiling).numpy()
    reference = run.expected["logits"].astype(np.float32)
    # nnU-Net sums in half precision, whose steps exceed the tolerance where logits are large.
    assert np.all(np.abs(logits - reference) <= TOLERANCE * np.maximum(1, np.abs(reference)))
    sure = sure_voxels(reference, TOLERANCE)
    assert np.array_equal(logits.argmax(0)[sure], reference.argmax(0)[sure])


def test_a_second_case_of_another_size_agrees(folder):
    labels, geometry = load(folder, "2d__f0_tta").predict_files(files("t1"))
    expected = np.load(DATA / "pred/2d__f0_tta.npz")["t1"]
    assert labels.shape == expected.shape
    assert np.mean(labels != expected) < 1e-3
    assert geometry == read_image(files("t1")[:1]).geometry


@pytest.mark.parametrize("name", ["2d__f0_tta", "3d_fullres__f0_notta"])
def test_a_batch_of_tiles_gives_the_logits_of_single_tiles(folder, name):
    one, many = (load(folder, name, tile_batch_size=size) for size in (1, 11))
    image = one.preprocess(read_image(files("t1"))).image
    expected = sliding_window(one.networks, image, one.tiling)
    assert np.allclose(sliding_window(many.networks, image, many.tiling), expected, rtol=2e-3, atol=2e-3)
