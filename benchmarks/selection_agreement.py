"""Best configuration, ensembles, postprocessing and summary.json: segplan's decision and nnU-Net's, on the same inputs.

    python benchmarks/selection_agreement.py [--folder FOLDER] [--reference .venv-reference]
        [--scenarios 0 1 2 3 4 5 6 7] [--record tests/data/selection]

Makes small phantoms with noisy probabilities of two configurations and two folds, lays them out for both programs,
runs `nnUNetv2_find_best_configuration` in the reference environment and `segplan select` here, and compares: every
candidate's mean Dice, the winner, the accepted postprocessing steps, the scores after them, summary.json, and the
ensembles voxel by voxel.
"""

import argparse
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK
from omegaconf import OmegaConf
from scipy import ndimage

from segplan.cli import main as segplan
from segplan.dataset import Labels, Split, write_splits
from segplan.evaluation import read_selection
from segplan.imaging import Geometry, Image
from segplan.jobs.plan_node import labels_of, preprocessing_of, store_folder
from segplan.jobs.postprocess import read_steps
from segplan.preprocessing import CaseStore, foreground_locations, preprocess

CONFIGURATIONS = ("2d", "3d_fullres")
CASES, SHAPE, SPACING = tuple("abcdef"), (10, 24, 26), (2.5, 0.8, 0.8)
SPLITS = (CASES[:3], CASES[3:])
FIRST_IN_PARTS = 4  # from this scenario on structures are mostly in two parts, and there is less noise
FIRST_UNEQUAL = 6  # from this one on a configuration is so much worse that the other wins alone
RECORDED = (1, 3)  # scenarios for the tests: two labels, regions
LABELS = (
    {"labels": {"background": 0, "organ": 1}},
    {"labels": {"background": 0, "organ": 1, "tumour": 2}},
    {"labels": {"background": 0, "organ": 1, "tumour": 2, "vessel": 3}},
    {
        "labels": {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enhancing": 3},
        "regions_class_order": [1, 2, 3],
    },
)


def scenario(index):
    """dataset.json, references by case, probabilities by configuration and case."""
    rng = np.random.default_rng(index)
    dataset = dict(LABELS[index % len(LABELS)])
    labels = Labels.from_json(dataset)
    values = labels.all_labels
    references, probabilities = {}, {name: {} for name in CONFIGURATIONS}
    level = [0.35, 0.45] if index < FIRST_IN_PARTS else [0.2, 0.25] if index < FIRST_UNEQUAL else [0.2, 1.5]
    noise = dict(zip(CONFIGURATIONS, rng.permutation(level) + rng.uniform(-0.1, 0.1, 2), strict=True))
    for case in CASES:
        reference = phantom(rng, values, doubled=0.25 if index < FIRST_IN_PARTS else 0.9)
        if rng.random() < 0.15 and len(values) > 2:
            reference[reference == values[-1]] = 0
        references[case] = reference
        for name in CONFIGURATIONS:
            probabilities[name][case] = noisy(rng, reference, labels, noise[name])
    return dataset, references, probabilities


def phantom(rng, values, doubled):
    """An ellipsoid for each label, now and then two; later labels lie over earlier ones."""
    grid = np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")
    result = np.zeros(SHAPE, np.uint8)
    for value in values[1:]:
        for _ in range(1 + (rng.random() < doubled)):
            centre, radius = rng.uniform(0.3, 0.7, 3) * SHAPE, rng.uniform(0.12, 0.3, 3) * SHAPE
            result[sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) < 1] = value
    return result


def noisy(rng, reference, labels, level):
    """Probabilities (K, Z, Y, X) float32 that mostly have the reference's label on top, with islands of others."""
    if labels.has_regions:
        truth = np.stack([np.isin(reference, members) for members in labels.targets.values()])
    else:
        truth = np.stack([reference == value for value in labels.all_labels])
    fields = ndimage.gaussian_filter(rng.normal(size=truth.shape), (0, 1, 1.5, 1.5))
    logits = ndimage.gaussian_filter(truth.astype(float), (0, 0.5, 1, 1)) + level * fields / fields.std()
    if labels.has_regions:
        return (1 / (1 + np.exp(-8 * (logits - 0.5)))).astype(np.float32)
    powers = np.exp(8 * logits)
    return (powers / powers.sum(axis=0)).astype(np.float32)


def to_labels(probabilities, labels):
    if not labels.has_regions:
        return np.asarray(labels.all_labels, np.uint8)[probabilities.argmax(axis=0)]
    result = np.zeros(probabilities.shape[1:], np.uint8)
    for channel, value in zip(probabilities, labels.regions_class_order, strict=True):
        result[channel > 0.5] = value
    return result


def write_image(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = SimpleITK.GetImageFromArray(array)
    image.SetSpacing(SPACING[::-1])
    SimpleITK.WriteImage(image, str(path))


def write_validation(folder, name, cases, probabilities, labels):
    properties = {"sitk_stuff": {"spacing": SPACING[::-1], "origin": (0.0,) * 3, "direction": tuple(np.eye(3).ravel())}}
    for case in cases:
        values = probabilities[name][case]
        write_image(folder / f"{case}.nii.gz", to_labels(values, labels))
        np.savez_compressed(folder / f"{case}.npz", probabilities=values)
        (folder / f"{case}.pkl").write_bytes(pickle.dumps(properties | {"spacing": SPACING}))


def lay_out_nnunet(root, dataset, references, probabilities):
    """Folders as nnU-Net's commands expect them; returns the results folder of the dataset."""
    labels = Labels.from_json(dataset)
    description = dataset | {"channel_names": {"0": "CT"}, "numTraining": len(CASES), "file_ending": ".nii.gz"}
    network = {"network_class_name": "none", "arch_kwargs": {}, "_kw_requires_import": []}  # looked for, not used
    configurations = {name: {"spacing": list(SPACING), "architecture": network} for name in CONFIGURATIONS}
    plans = {
        "dataset_name": "Dataset900_Made",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "configurations": configurations,
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
    }
    raw, made, results = (root / kind / "Dataset900_Made" for kind in ("raw", "preprocessed", "results"))
    (raw / "imagesTr").mkdir(parents=True)
    for case, reference in references.items():
        write_image(raw / "labelsTr" / f"{case}.nii.gz", reference)
        write_image(raw / "imagesTr" / f"{case}_0000.nii.gz", reference.astype(np.float32))
        write_image(made / "gt_segmentations" / f"{case}.nii.gz", reference)
    folders = [results / f"nnUNetTrainer__nnUNetPlans__{name}" for name in CONFIGURATIONS]
    for name, folder in zip(CONFIGURATIONS, folders, strict=True):
        for fold, cases in enumerate(SPLITS):
            write_validation(folder / f"fold_{fold}" / "validation", name, cases, probabilities, labels)
    for folder, file, content in [
        *((folder, "plans.json", plans) for folder in folders),
        *((folder, "dataset.json", description) for folder in (*folders, raw, made)),
        (made, "nnUNetPlans.json", plans),
    ]:
        (folder / file).write_text(json.dumps(content))
    return results


def lay_out_segplan(workspace, dataset, references, probabilities):
    labels = Labels.from_json(dataset)
    name = "Dataset900_Made"
    plan = {
        "dataset": name,
        **labels.to_json(),
        "label_ending": ".nii.gz",
        "input_channels": 1,
        "num_classes": labels.num_heads,
        "spacing": list(SPACING),
        "transpose": [0, 1, 2],
        "normalization": ["zscore"],
        "use_mask_for_norm": [False],
        "use_mask": [False],
        "intensities": [None],
        "runnable": True,
    }
    store = CaseStore(store_folder(workspace, OmegaConf.create(plan)))
    geometry = Geometry(3, SPACING[::-1], (0.0,) * 3, tuple(np.eye(3).ravel().tolist()))
    for case, reference in references.items():
        image = Image(1 + reference[None].astype(np.float32), SPACING, geometry)
        done = preprocess(image, reference, preprocessing_of(OmegaConf.create(plan)))
        store.write(case, done, foreground_locations(done.labels, labels_of(OmegaConf.create(plan))), reference, "made")
    write_splits(
        workspace / "plan" / name / "splits_final.json",
        [Split(tuple(case for case in CASES if case not in cases), cases) for cases in SPLITS],
    )
    for configuration in CONFIGURATIONS:
        (workspace / "plan" / name / f"{configuration}.yaml").write_text("plan: {runnable: true}\n")
        for fold, cases in enumerate(SPLITS):
            folder = workspace / "runs" / name / configuration / "default" / f"fold_{fold}"
            write_validation(folder / "validation", configuration, cases, probabilities, labels)
            (folder / "weights.safetensors").write_bytes(b"")
            OmegaConf.save(OmegaConf.create({"plan": plan}), folder / "config.yaml")
    return workspace / "runs" / name


def run_nnunet(reference, root, results):
    """Run nnU-Net's command and read what it decided."""
    environment = os.environ | {
        "nnUNet_raw": str(root / "raw"),
        "nnUNet_preprocessed": str(root / "preprocessed"),
        "nnUNet_results": str(root / "results"),
    }
    command = [reference / "bin" / "nnUNetv2_find_best_configuration", "900", "-c", *CONFIGURATIONS, "-f", "0", "1"]
    done = subprocess.run(
        [*command, "-np", "1"], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-3000:])
    return read_nnunet(results)


def read_nnunet(results):
    """nnU-Net's scores, winner, steps and scores after them."""
    information = json.loads((results / "inference_information.json").read_text())
    best = information["best_model_or_ensemble"]
    source = Path(best["postprocessing_file"]).parent
    return {
        # Its keys are sorted: the ensemble comes first.
        "scores": [score for _, score in sorted(information["all_results"].items(), key=lambda each: "ens" in each[0])],
        "best": [model["configuration"] for model in best["selected_model_or_models"]],
        "steps": [step.to_json() for step in read_steps(source / "postprocessing.json")],
        "after": best["result_on_crossval_post_pp"],
        "summary": json.loads((source / "summary.json").read_text()),
        "ensemble": next((results / "ensembles").iterdir()),
    }


def run_segplan(workspace, runs):
    if segplan(["select", "Dataset900_Made", f"workspace={workspace}", "num_workers=0"]):
        raise SystemExit("segplan select failed")
    names = [*CONFIGURATIONS, " + ".join(CONFIGURATIONS)]
    selection, report = read_selection(runs / "inference.yaml"), json.loads((runs / "selection.json").read_text())
    return {
        "scores": [report["candidates"][name]["foreground_mean"]["Dice"] for name in names],
        "best": [member.plan.split("/")[-1] for member in selection.members],
        "steps": [step.to_json() for step in selection.postprocessing],
        "after": report["best_after_postprocessing"]["foreground_mean"]["Dice"],
        "summary": report["candidates"][report["best"]],
        "ensemble": next((runs / "ensembles").iterdir()),
    }


def compare(theirs, ours):
    """The largest difference of a score, and what differs otherwise."""
    differences = [
        abs(a - b)
        for a, b in zip(theirs["scores"], ours["scores"], strict=True)
        if not (math.isnan(a) and math.isnan(b))
    ]
    differences.append(abs(theirs["after"] - ours["after"]))
    named = [
        {Path(case["prediction_file"]).name: case["metrics"] for case in each["summary"]["metric_per_case"]}
        for each in (theirs, ours)
    ]
    for case, metrics in named[0].items():
        for key, values in metrics.items():
            for metric, value in values.items():
                other = named[1][case][key][metric]
                differences.append(0.0 if math.isnan(value) and math.isnan(other) else abs(value - other))
    for key, values in theirs["summary"]["mean"].items():
        differences += [abs(value - ours["summary"]["mean"][key][metric]) for metric, value in values.items()]
    wrong = [key for key in ("best", "steps") if theirs[key] != ours[key]]
    for path in sorted(theirs["ensemble"].glob("*.nii.gz")):
        maps = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(f))) for f in (path, ours["ensemble"] / path.name)]
        if (maps[0] != maps[1]).any():
            wrong.append(f"ensemble of {path.name}")
    return max(differences), wrong


def record(folder, root):
    """The label maps of the scenarios that the tests repeat, and what nnU-Net made of them."""
    maps, decisions = {}, {}
    for index in RECORDED:
        dataset, references, _ = scenario(index)
        results = root / str(index) / "nnunet" / "results" / "Dataset900_Made"
        decisions[index] = read_nnunet(results) | {"dataset": dataset}
        del decisions[index]["ensemble"]
        sources = [results / f"nnUNetTrainer__nnUNetPlans__{name}" for name in CONFIGURATIONS]
        for case, reference in references.items():
            fold = next(fold for fold, cases in enumerate(SPLITS) if case in cases)
            paths = [source / f"fold_{fold}" / "validation" / f"{case}.nii.gz" for source in sources]
            paths.append(next((results / "ensembles").iterdir()) / f"{case}.nii.gz")
            predicted = [SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))) for path in paths]
            maps[f"{index}_{case}"] = np.stack([reference, *predicted]).astype(np.uint8)
    for index in RECORDED:
        summary = decisions[index].pop("summary")
        cases = summary["metric_per_case"]
        names = [Path(case["prediction_file"]).name.split(".")[0] for case in cases]
        per_case = {name: case["metrics"] for name, case in zip(names, cases, strict=True)}
        decisions[index] |= {"mean": summary["mean"], "foreground_mean": summary["foreground_mean"], "cases": per_case}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / "maps.npz", **maps)
    (folder / "nnunet.json").write_text(json.dumps(decisions, separators=(",", ":")) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where everything is laid out (default: a temporary folder)")
    parser.add_argument("--reference", type=Path, default=Path(".venv-reference"))
    parser.add_argument("--scenarios", type=int, nargs="+", default=range(8))
    parser.add_argument("--record", type=Path, help="folder for nnU-Net's decisions, for the tests")
    options = parser.parse_args()
    root = options.folder or Path(tempfile.mkdtemp(prefix="segplan-selection-"))
    failed = False
    for index in options.scenarios:
        folder = root / str(index)
        shutil.rmtree(folder, ignore_errors=True)
        data = scenario(index)
        results = lay_out_nnunet(folder / "nnunet", *data)
        runs = lay_out_segplan(folder / "segplan", *data)
        theirs = run_nnunet(options.reference.absolute(), folder / "nnunet", results)
        ours = run_segplan(folder / "segplan", runs)
        difference, wrong = compare(theirs, ours)
        failed |= bool(wrong) or difference > 1e-9
        steps = ", ".join("+".join(map(str, step["labels"])) for step in theirs["steps"]) or "none"
        best, differing = " + ".join(theirs["best"]), ", ".join(wrong) or "nothing"
        print(f"scenario {index}: {len(data[0]['labels']) - 1} classes, best {best}, largest component of {steps}:")
        print(f"    scores differ by at most {difference:.2g}; different: {differing}", flush=True)
    if options.record:
        record(options.record, root)
    sys.exit(failed)


if __name__ == "__main__":
    main()
