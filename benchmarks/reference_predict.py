"""A model with random weights as nnU-Net writes it, and one case through nnU-Net: runs in nnU-Net's own environment.

python reference_predict.py make RESULTS PLANS.json DATASET.json
python reference_predict.py predict MODEL OUTPUT.json LABELS DEVICE IMAGE.nii.gz
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path


def predict(model: Path, report: Path, target: Path, device: str, image: Path) -> None:
    """Stage by stage, in one process, on all cores."""
    start = time.perf_counter()
    import torch
    from nnunetv2.inference.export_prediction import export_prediction_from_logits
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    predictor = nnUNetPredictor(
        use_mirroring=False,
        device=torch.device(device),
        perform_everything_on_device=device != "cpu",
        allow_tqdm=False,
    )
    predictor.initialize_from_trained_model_folder(str(model), (0,), "checkpoint_final.pth")
    stages = {"load": time.perf_counter() - start}
    start = time.perf_counter()
    preprocessor = predictor.configuration_manager.preprocessor_class(verbose=False)
    known = (predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json)
    data, _, properties = preprocessor.run_case([str(image)], None, *known)
    stages["read, preprocess"] = time.perf_counter() - start
    start = time.perf_counter()
    array = data if isinstance(data, torch.Tensor) else torch.from_numpy(data)
    logits = predictor.predict_logits_from_preprocessed_data(array).cpu()
    stages["network"] = time.perf_counter() - start
    start = time.perf_counter()
    manager, configuration, dataset = predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    export_prediction_from_logits(logits, properties, configuration, manager, dataset, str(target), False)
    stages["export"] = time.perf_counter() - start
    precision = "32" if device == "cpu" else "16"
    report.write_text(json.dumps({"stages": stages, "precision": precision, "notes": []}))


def main() -> None:
    job, *rest = sys.argv[1:]
    with tempfile.TemporaryDirectory() as unused:
        os.environ |= {f"nnUNet_{name}": unused for name in ("raw", "preprocessed", "results")}
        os.environ |= {"nnUNet_compile": "f"}
        if job == "make":
            from reference_models import make_model

            plans, dataset = (json.loads(Path(file).read_text()) for file in rest[1:])
            make_model(Path(rest[0]), "3d_fullres", plans, dataset)
        else:
            model, report, target, device, image = rest
            predict(Path(model), Path(report), Path(target), device, Path(image))


if __name__ == "__main__":
    main()
