"""Do models go over both ways? nnU-Net's models predict the same in segplan, and segplan's exports the same in nnU-Net.

nnU-Net writes five small models (residual encoder, cascade, regions, ignore label with CT normalisation, plans of
before 2.4) and predicts two images with each. segplan imports them, predicts the same images in float32, and exports
them back; nnU-Net predicts with the exports. Compared are the logits of one patch and the label maps.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measure import neutral_environment, print_machine, run_measured
from reference_environment import Reference, add_reference_arguments, ensure_reference, run_benchmark
from reference_models import DATA, patch, thinned, variants

from segplan import Predictor
from segplan.interop.nnunet import export_nnunet, find_models, import_model
from segplan.model_folder import ModelFolder

LOGIT_TOLERANCE = 1e-4
HERE = Path(__file__).resolve().parent


def run_reference(reference: Reference, log: Path, *words: str | Path) -> None:
    command = [reference.python, HERE / "reference_models.py", *words]
    run_measured(command, log, neutral_environment(PYTHONPATH=str(HERE)))


def predict(model: Path) -> dict[str, np.ndarray]:
    """segplan's answers, as `reference_models.py` writes nnU-Net's."""
    predictor = Predictor.from_model(model, device="cpu", precision=32)
    found = {}
    for case in ("t0", "t1"):
        found[case], _ = predictor.predict_files(
            [DATA / "images" / f"{case}_000{channel}.nii.gz" for channel in (0, 1)]
        )
    channels = next(predictor.networks[0].parameters()).shape[1]
    with torch.no_grad():
        found["patch_logits"] = thinned(predictor.networks[0](patch(channels, list(model_patch(model))))[0].numpy())
    return found


def model_patch(model: Path) -> tuple[int, ...]:
    return ModelFolder.open(model).patch_size


def agrees(title: str, found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Print a row; whether logits and all voxels that nnU-Net is sure of agree."""
    difference = float(np.abs(found["patch_logits"] - expected["patch_logits"]).max())
    wrong = unsure = total = 0
    for case in ("t0", "t1"):
        other = found[case] != expected[case]
        sure = np.unpackbits(expected[f"sure_{case}"], count=other.size).reshape(other.shape).astype(bool)
        wrong, unsure, total = (
            wrong + int((other & sure).sum()),
            unsure + int((other & ~sure).sum()),
            total + other.size,
        )
    print(f"{title:32} logits {difference:.1e}   labels: {wrong} differ, {unsure} more at ties, of {total}")
    return difference <= LOGIT_TOLERANCE and wrong == 0


def body(arguments: argparse.Namespace) -> int:
    reference = ensure_reference(arguments.reference, install=not arguments.no_install)
    print_machine()
    passed = True
    with tempfile.TemporaryDirectory(prefix="segplan-import-") as name:
        scratch = Path(name)
        run_reference(reference, scratch / "make.log", "make", scratch)
        for model, (configuration, _, _) in variants().items():
            own = f"__{configuration}"
            source = next(path for path in find_models(scratch / "models" / model) if path.name.endswith(own))
            import_model(source, scratch / "imported" / model)
            expected = dict(np.load(scratch / "expected" / f"{model}.npz"))
            passed &= agrees(f"{model}: in segplan", predict(scratch / "imported" / model), expected)
            export_nnunet(ModelFolder.open(scratch / "imported" / model), scratch / "exported" / model)
        run_reference(reference, scratch / "predict.log", "predict", scratch / "exported", scratch / "back")
        for model in variants():
            found, expected = (dict(np.load(scratch / side / f"{model}.npz")) for side in ("back", "expected"))
            passed &= agrees(f"{model}: exported, in nnU-Net", found, expected)
    print("PASS" if passed else "FAIL")
    return 0 if passed else 1


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Models in and out: segplan against nnU-Net 2.8.1.")
    add_reference_arguments(parser)
    return run_benchmark(body, parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
