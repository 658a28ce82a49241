"""What nnU-Net 2.8.1 decided on the same label maps: recorded by benchmarks/selection_agreement.py."""

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from segplan.dataset import Labels
from segplan.evaluation import CasePair, Targets, choose_postprocessing, score_of, score_pairs, score_trials
from segplan.jobs.select import best_of

FOLDER = Path(__file__).parents[1] / "data" / "selection"
RECORDED = json.loads((FOLDER / "nnunet.json").read_text())
CANDIDATES = (["2d"], ["3d_fullres"], ["2d", "3d_fullres"])


@pytest.fixture(params=list(RECORDED))
def scenario(request, tmp_path):
    """nnU-Net's decision, the labels, and the pairs of the three candidates."""
    pairs = [[], [], []]
    with np.load(FOLDER / "maps.npz") as maps:
        for name in maps.files:
            index, _, case = name.partition("_")
            if index != request.param:
                continue
            paths = [tmp_path / f"{case}_{number}.nii.gz" for number in range(4)]
            for path, array in zip(paths, maps[name], strict=True):
                SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array), str(path))
            for number in range(3):
                pairs[number].append(CasePair(case, paths[1 + number], paths[0]))
    recorded = RECORDED[request.param]
    return recorded, Labels.from_json(recorded["dataset"]), pairs


def test_scores_winner_and_postprocessing_are_nnunets(scenario):
    recorded, labels, pairs = scenario
    targets = Targets.from_labels(labels)
    summaries = [score_pairs(each, targets) for each in pairs]
    scores = [summary["foreground_mean"]["Dice"] for summary in summaries]
    assert scores == pytest.approx(recorded["scores"], abs=1e-9, nan_ok=True)
    best = best_of([score_of(summary) for summary in summaries])
    assert CANDIDATES[best] == recorded["best"]

    choice = choose_postprocessing(lambda steps, trials: score_trials(pairs[best], targets, steps, trials), labels)
    assert [step.to_json() for step in choice.steps] == recorded["steps"]
    after = score_pairs(pairs[best], targets, steps=choice.steps)
    assert after["foreground_mean"]["Dice"] == pytest.approx(recorded["after"], abs=1e-9)


def test_every_number_of_summary_json_is_nnunets(scenario):
    recorded, labels, pairs = scenario
    best = CANDIDATES.index(recorded["best"])
    summary = score_pairs(pairs[best], Targets.from_labels(labels))
    assert summary["foreground_mean"] == pytest.approx(recorded["foreground_mean"], abs=1e-9)
    assert summary["mean"].keys() == recorded["mean"].keys()
    for key, values in recorded["mean"].items():
        assert summary["mean"][key] == pytest.approx(values, abs=1e-9, nan_ok=True)
    for pair, case in zip(pairs[best], summary["metric_per_case"], strict=True):
        for key, values in recorded["cases"][pair.identifier].items():
            assert case["metrics"][key] == pytest.approx(values, abs=1e-9, nan_ok=True)
