import numpy as np
import pytest
import SimpleITK

from segplan.dataset import Labels
from segplan.evaluation import (
    CasePair,
    Step,
    Targets,
    choose_postprocessing,
    choose_small_components,
    score_pairs,
)

LABELS = Labels.from_json({"labels": {"background": 0, "a": 1, "b": 2}})
REGIONS = Labels.from_json({"labels": {"background": 0, "all": [1, 2], "core": 2}, "regions_class_order": [1, 2]})
KEEP = "keep_largest_component"


def dice(value_a, value_b, foreground=None):
    """A summary with the mean Dice of both classes."""
    mean = (value_a + value_b) / 2 if foreground is None else foreground
    return {"foreground_mean": {"Dice": mean}, "mean": {"1": {"Dice": value_a}, "2": {"Dice": value_b}}}


class Scores:
    """Answers with prepared summaries by the labels of all steps."""

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
        summary = dice(value_a, value_b)
        return summary | {"mean": {"(1, 2)": {"Dice": value_a}, "2": {"Dice": value_b}}}

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
    before, after = score_pairs(pairs, Targets.from_labels(LABELS), trials=choice.steps)
    assert after["mean"]["1"]["Dice"] == 1
    assert choice.tried[0][2:] == pytest.approx((before["mean"]["1"]["Dice"], 1))
    assert choose_small_components(pairs, LABELS, choice.steps).steps == (), "nothing is left to gain"
