"""A workspace with validated folds of a tiny dataset, made without any training; scores are counted from label maps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from tiny_run import make_run

from segplan.evaluation import CaseResult, case_metrics, summarize, write_summary
from segplan.imaging import Geometry, write_label_map
from segplan.jobs.plan_node import labels_of, store_folder
from segplan.jobs.prepare import fold_folder
from segplan.preprocessing import CaseStore

DATASET = "Dataset999_Tiny"
SPLITS = (("e", "f"), ("a", "b"))
METRICS = "epoch,step,lr,train_loss,val_loss,patch_dice,samples_per_s,waiting_share,epoch_s\n"


def plan_files(workspace: Path, *names: str) -> None:
    """Plan files of these configurations, as far as folds and jobs look at them."""
    for name in names:
        path = workspace / "plan" / DATASET / f"{name}.yaml"
        path.write_text(f"plan: {{configuration: {name}, runnable: true}}\n", encoding="utf-8")


def validated_fold(workspace: Path, fold: int, shift: int = 1, **options: Any) -> Path:
    """RUN/fold_K whose predictions are the references moved by `shift` voxels along x; returns its folder."""
    config = make_run(workspace, f"fold={fold}", **options)
    folder = fold_folder(config)
    results = []
    for case in SPLITS[fold]:
        path = folder / "validation" / f"{case}.nii.gz"
        results.append(_predict(config, case, shift, path))
    write_summary(folder / "validation" / "summary.json", summarize(results))
    (folder / "metrics.csv").write_text(
        METRICS + "".join(f"{e},{4 * e},0.01,{1 / e},{1.1 / e},{0.2 * e},8,0.1,30\n" for e in (1, 2, 3)),
        encoding="utf-8",
    )
    (folder / "weights.safetensors").write_bytes(b"")
    starts = [{"versions": {"segplan": "0.1.0"}, "hardware": {"processor": "A <fast> one", "cores": 4, "gpus": []}}]
    (folder / "provenance.json").write_text(
        json.dumps({"command": f"python train.py plan={DATASET}/3d_fullres fold={fold}", "starts": starts})
    )
    return folder


def _predict(config: DictConfig, case: str, shift: int, path: Path) -> CaseResult:
    plan: Any = OmegaConf.to_container(config.plan)
    labels = labels_of(plan)
    stored = CaseStore(store_folder(Path(config.workspace), plan)).open(case)
    reference = np.asarray(stored.reference())
    prediction = np.roll(reference, shift, axis=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_label_map(path, prediction, Geometry.from_json(stored.properties.geometry))
    return CaseResult(case_metrics(prediction, reference, labels), str(path), "store")
