import numpy as np
import pytest
import SimpleITK

from segplan.dataset import Labels
from segplan.errors import ImageError
from segplan.evaluation import (
    CasePair,
    Step,
    Targets,
    choose_postprocessing,
    choose_small_components,
    score_pairs,
    score_trials,
)

LABELS = Labels.from_json({"labels": {"background": 0, "a": 1, "b": 2}})
REGIONS = Labels.from_json({"labels": {"background": 0, "all": [1, 2], "core": 2}, "regions_class_order": [1, 2]})
KEEP = "keep_largest_component"


def dice(value_a, value_b):
    return {"1": value_a, "2": value_b}


class Scores:
    """Answers with prepared means by the labels of all steps."""

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def __call__(self, steps, trials):
        keys = [tuple(step.labels for step in (*steps, *trial)) for trial in ((), *((trial,) for trial in trials))]
        self.asked.append(keys)
        return [self.answers[key] for key in keys]


def test_all_joined_must_raise_the_mean_and_lower_no_class():
    worse_b = Scores({(): dice(0.5, 0.6), ((1, 2),): dice(0.9, 0.59), ((1,),): dice(0.8, 0.6), ((2,),): dice(0.5, 0.6)})
    assert choose_postprocessing(worse_b, LABELS).steps == (Step(KEEP, (1,)),)
    better = Scores(
        {
            (): dice(0.5, 0.6),
            ((1, 2),): dice(0.7, 0.6),
            ((1, 2), (1,)): dice(0.7, 0.6),
            ((1, 2), (2,)): dice(0.7, 0.65),
        }
    )
    assert choose_postprocessing(better, LABELS).steps == (Step(KEEP, (1, 2)), Step(KEEP, (2,)))
    assert len(better.asked) == 2, "labels do not meet each other, so all classes are tried in one pass"


def test_an_undefined_mean_accepts_nothing_but_classes_are_still_tried():
    nan = float("nan")
    scores = Scores({(): dice(0.5, nan), ((1, 2),): dice(0.9, nan), ((1,),): dice(0.9, nan), ((2,),): dice(0.5, nan)})
    assert choose_postprocessing(scores, LABELS).steps == (Step(KEEP, (1,)),)


def test_regions_are_tried_one_after_another_on_what_was_accepted():
    def of(value_a, value_b):
        return {"(1, 2)": value_a, "2": value_b}

    scores = Scores(
        {
            (): of(0.5, 0.6),
            ((1, 2),): of(0.5, 0.6),
            ((1, 2), (2,)): of(0.6, 0.7),
        }
    )
    scores.answers[((1, 2),)] = of(0.55, 0.5)  # raises its own mean, so it is accepted as a region though core falls
    scores.answers[((1, 2), (2,))] = of(0.5, 0.7)
    choice = choose_postprocessing(scores, REGIONS)
    assert choice.steps == (Step(KEEP, (1, 2)), Step(KEEP, (2,)))
    assert [accepted for _, accepted, _, _ in choice.tried] == [False, True, True]


def test_the_volume_below_which_components_go_is_the_best_on_the_cases(tmp_path):
    """Two right components of 8 and 4 voxels, and false ones of 1 and 3: 4 voxels stay, 3 go."""
    reference, prediction = np.zeros((2, 4, 8, 8), np.uint8)
    reference[0:2, 0:2, 0:2] = reference[0, 6, 0:4] = 1
    prediction[reference == 1] = 1
    prediction[3, 0, 7] = prediction[3, 5, 5:8] = 1
    for name, array in (("p", prediction), ("r", reference)):
        image = SimpleITK.GetImageFromArray(array)
        image.SetSpacing((0.5, 0.5, 2.0))
        SimpleITK.WriteImage(image, str(tmp_path / f"{name}.nii.gz"))
    pairs = [CasePair("c", tmp_path / "p.nii.gz", tmp_path / "r.nii.gz")]
    choice = choose_small_components(pairs, LABELS)
    (step,) = choice.steps
    assert step.labels == (1,)
    assert 3 * 0.5 < step.min_volume_mm3 <= 4 * 0.5
    before, after = (score_pairs(pairs, Targets.from_labels(LABELS), steps=steps) for steps in ((), choice.steps))
    assert after["mean"]["1"]["Dice"] == 1
    assert choice.tried[0][2:] == pytest.approx((before["mean"]["1"]["Dice"], 1))
    assert choose_small_components(pairs, LABELS, choice.steps).steps == (), "nothing is left to gain"


def write_pair(folder, prediction, reference, name="c"):
    paths = [folder / f"{name}_{kind}.nii.gz" for kind in "pr"]
    for path, array in zip(paths, (prediction, reference), strict=True):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
    return CasePair(name, *paths)


@pytest.mark.parametrize("kind", ["labels", "regions", "ignore"])
def test_trials_score_as_if_each_were_applied_by_itself(tmp_path, kind):
    """The oracle applies a trial to the whole label map and counts all voxels again."""
    content = {
        "labels": {"labels": {"background": 0, "a": 1, "b": 2, "c": 5, "never": 7}},
        "regions": {
            "labels": {"background": 0, "all": [1, 2, 5], "core": [2, 5], "c": 5},
            "regions_class_order": [1, 2, 5],
        },
        "ignore": {"labels": {"background": 0, "a": 1, "b": 2, "c": 5, "ignore": 6}},
    }[kind]
    labels, rng = Labels.from_json(content), np.random.default_rng(3)
    values = [0, 0, 0, 1, 2, 5] + ([6] if kind == "ignore" else [])
    pairs = []
    for name in "xyz":
        reference = rng.choice(values, (5, 9, 8)).astype(np.uint8)
        prediction = np.where(rng.random(reference.shape) < 0.7, reference, rng.choice(values[:6], reference.shape))
        pairs.append(write_pair(tmp_path, np.where(prediction == 6, 0, prediction).astype(np.uint8), reference, name))
    targets = Targets.from_labels(labels)
    trials = [Step(KEEP, members) for members in targets.values.values()]
    trials += [Step("remove_small_components", members, 3.0) for members in targets.values.values()]
    for steps in ([], [Step("remove_small_components", (1,), 2.0)]):
        found = score_trials(pairs, targets, steps, trials)
        expected = [score_pairs(pairs, targets, steps=[*steps, *more]) for more in ([], *([trial] for trial in trials))]
        for ours, summary in zip(found, expected, strict=True):
            assert ours == pytest.approx(
                {key: each["Dice"] for key, each in summary["mean"].items()}, nan_ok=True, abs=0
            )
        assert len({tuple(each.values()) for each in found}) > len(trials) // 2, "the trials differ"


def test_a_small_volume_that_helps_one_region_and_hurts_more_is_not_taken(tmp_path):
    """Four voxels far from the rest are of the core but no enhancing part: without them that region is perfect, and
    both regions around it lack them.
    """
    names = {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    regions = Labels.from_json({"labels": names, "regions_class_order": [1, 2, 3]})
    reference = np.zeros((3, 12, 12), np.uint8)
    reference[:, :5, :8] = 3
    prediction = reference.copy()
    reference[1, 9, 2:6], prediction[1, 9, 2:6] = 2, 3
    pair = write_pair(tmp_path, prediction, reference)
    choice = choose_small_components([pair], regions)
    ((step, accepted, old, new),) = choice.tried
    assert (step.labels, accepted, new) == ((3,), False, 1)
    assert old < 1
    assert choice.steps == ()
    # With the four voxels outside everything, the same step helps all three regions.
    reference[1, 9, 2:6] = 0
    better = choose_small_components([write_pair(tmp_path, prediction, reference)], regions)
    assert [step.labels for step in better.steps] == [(1, 2, 3)]


def test_a_prediction_of_another_shape_is_refused_by_name_also_by_a_worker(tmp_path):
    pair = write_pair(tmp_path, np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 5), np.uint8))
    with pytest.raises(ImageError, match=r"prediction of c has 2×4×4 voxels.*the reference 2×4×5"):
        score_pairs([pair, pair], Targets.from_labels(LABELS), num_workers=2)
