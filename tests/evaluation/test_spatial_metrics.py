import csv
import itertools
import json
import math

import numpy as np
import pytest
import SimpleITK
from scipy import ndimage

from segplan.cli import main
from segplan.dataset import Labels
from segplan.errors import ConfigError
from segplan.evaluation import (
    GROUPS,
    LOWER_IS_BETTER,
    CaseResult,
    MetricSettings,
    Targets,
    case_metrics,
    spatial_metrics,
    summarize,
)
from segplan.evaluation.lesions import count_lesions
from segplan.evaluation.surfaces import boundary_distances, hd95, surface_dice
from segplan.jobs.evaluate import metric_settings

SPACING = (3.0, 0.5, 0.7)
SHAPE = (6, 9, 8)
LABELS = Labels.from_json({"labels": {"background": 0, "a": 1, "b": 2}})
ALL = MetricSettings(tuple(GROUPS))
FURTHEST = math.hypot(*((size - 1) * step for size, step in zip(SHAPE, SPACING, strict=True)))


def block(*corner, size=(2, 3, 3)):
    mask = np.zeros(SHAPE, np.uint8)
    mask[tuple(slice(start, start + extent) for start, extent in zip(corner, size, strict=True))] = 1
    return mask


def of_first(prediction, reference, settings=ALL, targets=None):
    return spatial_metrics(prediction, reference, SPACING, targets or Targets.from_labels(LABELS), settings)["1"]


EMPTY = np.zeros(SHAPE, np.uint8)
HERE, THERE = block(1, 1, 1), block(3, 5, 4)


def test_where_neither_side_has_the_target_everything_is_undefined():
    values = of_first(EMPTY, EMPTY)
    assert set(values) == set(ALL.names)
    assert all(math.isnan(value) for value in values.values())


@pytest.mark.parametrize(("prediction", "reference"), [(EMPTY, HERE), (HERE, EMPTY)])
def test_where_one_side_lacks_the_target_every_metric_is_at_its_worst(prediction, reference):
    values = of_first(prediction, reference)
    assert values["HD95"] == values["HD95Max"] == values["ASSD"] == pytest.approx(FURTHEST)
    assert values["NSD"] == values["LesionF1"] == values["LesionPrecision"] == 0
    assert values["VolumeDissimilarity"] == 1
    assert values["VolumeError_ml"] == pytest.approx(18 * 3 * 0.5 * 0.7 / 1000)
    assert values["LesionsReference"] == int(reference.any())
    assert values["LesionsPredicted"] == int(prediction.any())
    if reference.any():
        assert values["LesionSensitivity"] == 0
    else:
        assert math.isnan(values["LesionSensitivity"]), "there was nothing to find"


def test_a_missed_structure_never_improves_a_mean():
    """Whatever else a prediction is, missing the structure is no better for any metric's mean over cases."""
    rng = np.random.default_rng(0)
    predictions = [HERE, THERE, block(0, 0, 0, size=SHAPE)]
    predictions += [(ndimage.gaussian_filter(rng.normal(size=SHAPE), 1) > 0.1).astype(np.uint8) for _ in range(10)]
    references = [HERE, THERE, block(5, 8, 7, size=(1, 1, 1))]
    compared = [*ALL.names, "Dice", "IoU"]
    for reference, prediction in itertools.product(references, predictions):
        good = make_case(THERE, THERE)
        tried, missed = (summarize([good, make_case(p, reference)])["mean"]["1"] for p in (prediction, EMPTY))
        for name in compared:
            if name.startswith("Lesions") or name == "VolumeError_ml":
                continue  # counts and volumes are no marks: a miss costs the structure's volume
            worse = 1 if name in LOWER_IS_BETTER else -1
            assert worse * missed[name] >= worse * tried[name] - 1e-12, name


def make_case(prediction, reference):
    spatial = of_first(prediction, reference)
    metrics = {"1": case_metrics(prediction, reference, LABELS)["1"] | spatial}
    return CaseResult(metrics, "p/c.nii.gz", "r/c.nii.gz")


def test_targets_are_measured_in_their_box_as_in_the_whole_image():
    rng = np.random.default_rng(1)
    fields = ndimage.gaussian_filter(rng.normal(size=(4, *SHAPE)), (0, 1, 1, 1))
    prediction, reference = (np.argmax(fields[list(some)], axis=0) for some in ((0, 1, 2), (0, 1, 3)))
    values = of_first(prediction, reference, MetricSettings(("nsd", "hd95"), tolerances_mm={"1": 0.6}))
    masks = prediction == 1, reference == 1
    assert values["HD95"] == hd95(*boundary_distances(*masks, SPACING))
    assert values["NSD"] == pytest.approx(surface_dice(*masks, SPACING, 0.6))


def test_a_structure_within_one_slice_of_a_volume_is_no_flat_image():
    values = of_first(block(2, 1, 1, size=(1, 3, 3)), block(3, 1, 1, size=(1, 3, 3)))
    assert values["HD95"] == pytest.approx(3.0)
    single = spatial_metrics(HERE[1:2], HERE[1:2], (999.0, 1.0, 1.0), Targets.from_labels(LABELS), ALL)["1"]
    assert (single["NSD"], single["HD95"], single["LesionF1"]) == (1, 0, 1)


def test_regions_join_labels_and_ignored_voxels_belong_to_neither_side():
    labels = Labels.from_json(
        {"labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 3}, "regions_class_order": [1, 2]}
    )
    prediction, reference = HERE.copy(), 2 * HERE
    prediction[5], reference[5] = 1, 3
    found = spatial_metrics(prediction, reference, SPACING, Targets.from_labels(labels), ALL)
    assert found["(1, 2)"]["HD95"] == 0
    assert found["(1, 2)"]["VolumeDissimilarity"] == 0
    assert found["2"]["NSD"] == 0


def test_lesions_are_components_and_one_voxel_finds_them_unless_more_is_asked():
    reference, prediction = np.zeros((2, 1, 4, 20), bool)
    reference[0, 1, 0:4] = reference[0, 1, 6:10] = reference[0, 1, 12:16] = True  # three lesions
    prediction[0, 1, 3:7] = True  # touches two with a voxel each
    prediction[0, 3, 18:] = True  # touches none
    counts = count_lesions(prediction, reference)
    assert (counts.reference, counts.found, counts.predicted, counts.right) == (3, 2, 2, 1)
    assert counts.sensitivity == pytest.approx(2 / 3)
    assert counts.precision == pytest.approx(1 / 2)
    assert counts.f1 == pytest.approx(4 / 7)
    strict = count_lesions(prediction, reference, 0.5)
    assert (strict.found, strict.right, strict.f1) == (0, 1, 0.0)


def test_words_of_the_command_line_make_settings():
    settings = metric_settings(["Dice", "nsd", "HD95", "lesions"], "1.5, b:3", 0.1, LABELS)
    assert settings == MetricSettings(("nsd", "hd95", "lesions"), 1.5, {"2": 3.0}, 0.1)
    assert metric_settings(["all"], "2", 0, None).groups == tuple(GROUPS)
    for words, tolerance, message in [
        (["hd"], "2", "no metric hd"),
        ([], "far", "no distance"),
        ([], "c:2", "no class c"),
        ([], "-1", "no distance"),
    ]:
        with pytest.raises(ConfigError, match=message):
            metric_settings(words, tolerance, 0.0, LABELS)


def test_the_command_writes_all_metrics_as_json_and_csv(tmp_path, capsys):
    for folder, array in (("pred", HERE), ("raw/labelsTr", block(1, 1, 2))):
        (tmp_path / folder).mkdir(parents=True)
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing(SPACING[::-1])
        SimpleITK.WriteImage(image, str(tmp_path / folder / "c1.nii.gz"))
    (tmp_path / "raw" / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "a": 1, "b": 2}}))
    words = [
        "evaluate",
        str(tmp_path / "pred"),
        str(tmp_path / "raw" / "labelsTr"),
        "metrics=[all]",
        "nsd_tolerance=a:1",
    ]
    assert main(words) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    values = json.loads((tmp_path / "pred" / "summary.json").read_text())["mean"]["1"]
    printed = dict(zip(lines[0][1:-1], lines[1][2:-1], strict=True))
    assert printed == {name: f"{values[name]:.4f}" for name in printed}, "each value stands below its own name"
    assert {"Dice", *MetricSettings(tuple(GROUPS)).names} <= printed.keys()
    assert values["NSD"] == 1
    assert values["HD95"] == pytest.approx(0.7)
    rows = list(csv.DictReader((tmp_path / "pred" / "summary.csv").open()))
    assert [(row["case"], row["class"], row["label"]) for row in rows] == [("c1", "a", "1"), ("c1", "b", "2")]
    assert float(rows[0]["HD95"]) == pytest.approx(0.7)
    assert rows[1]["Dice"] == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["metrics=[nsd]", "nsd_tolerance=liver:3"], "nothing tells which label liver is"),
        (["nsd_tolerance=3"], "is for nsd, which is not computed"),
        (["metrics=[nsd]", "lesion_overlap=0.5"], "is for lesions, which is not computed"),
        (["metrics=[nonsense]"], "no metric nonsense"),
    ],
)
def test_words_that_would_change_nothing_are_refused(tmp_path, capsys, words, message):
    for folder in ("pred", "refs"):
        (tmp_path / folder).mkdir()
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(HERE), str(tmp_path / folder / "c1.nii.gz"))
    assert main(["evaluate", str(tmp_path / "pred"), str(tmp_path / "refs"), *words]) == 2
    assert message in capsys.readouterr().err
