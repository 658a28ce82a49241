"""The plans of nnU-Net 2.8.1 that ours must agree with, and what is needed to make ours."""

import gzip
import json
from functools import cache
from pathlib import Path

from segplan.dataset import Description, Labels
from segplan.planning import Fingerprint, fingerprint_from_json

DATA = Path(__file__).parents[1] / "data" / "plans"
PLANNERS = {
    "ExperimentPlanner": "default",
    "nnUNetPlannerResEncM": "resenc_m",
    "nnUNetPlannerResEncL": "resenc_l",
    "nnUNetPlannerResEncXL": "resenc_xl",
}
SCHEMES = {
    "CTNormalization": "ct",
    "NoNormalization": "none",
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
}


@cache
def fixtures() -> dict[str, dict]:
    with gzip.open(DATA / "fixture_plans.jsonl.gz", "rt", encoding="utf-8") as lines:
        return {entry["name"]: entry for entry in map(json.loads, lines)}


@cache
def random_plans() -> list[dict]:
    with gzip.open(DATA / "random_plans.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


@cache
def option_plans() -> list[dict]:
    with gzip.open(DATA / "option_plans.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def description_of(dataset_json: dict, name: str = "Dataset900_Test") -> Description:
    ending = dataset_json["file_ending"]
    return Description(
        name=name,
        channel_names=tuple(dataset_json["channel_names"].values()),
        labels=Labels.from_json(dataset_json),
        file_ending=ending,
        label_ending=ending,
        num_training=dataset_json["numTraining"],
        raw=dataset_json,
    )


def fixture_inputs(name: str) -> tuple[Fingerprint, Description]:
    entry = fixtures()[name]
    return fingerprint_from_json(entry["fingerprint"]), description_of(entry["dataset"])


def random_inputs(entry: dict) -> tuple[Fingerprint, Description]:
    dataset_json = {
        "channel_names": entry["channel_names"],
        "labels": {"background": 0} | {f"label{value}": value for value in range(1, entry["n_labels"])},
        "numTraining": entry["numTraining"],
        "file_ending": ".nii.gz",
    }
    return fingerprint_from_json(entry["fingerprint"]), description_of(dataset_json)
