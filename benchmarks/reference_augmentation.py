"""Record how nnU-Net's default augmentation distributes parameters and patches, for tests/data/transforms.

    .venv-reference/bin/python benchmarks/reference_augmentation.py tests/data/transforms/distributions.npz

Runs in an environment of its own with nnU-Net 2.8.1 (batchgeneratorsv2 0.3.6); segplan is not imported.
"""

import sys

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from scipy import ndimage

PATCH, BOX, CHANNELS, SAMPLES, DRAWS = (16, 16, 16), (25, 25, 25), 2, 500, 1500


def main(path: str) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    image, labels = a_case()
    transforms = nnUNetTrainer.get_training_transforms(
        np.array(PATCH), (-np.pi / 6, np.pi / 6), None, (0, 1, 2), None, use_mask_for_norm=[False] * CHANNELS
    )
    x, y = torch.from_numpy(image.astype(np.float32) / 32), torch.from_numpy(labels.astype(np.int16))
    drawn = {f"param|{name}": values for name, values in parameters(transforms, x, y).items()}
    samples = []
    for _ in range(SAMPLES):
        result = transforms(image=x.clone(), segmentation=y.clone())
        samples.append(statistics(result["image"].numpy(), result["segmentation"].numpy()))
    kept = {f"patch|{name}": np.array([sample[name] for sample in samples], np.float32) for name in samples[0]}
    np.savez_compressed(path, image=image, labels=labels, **drawn, **kept)


def a_case() -> tuple[np.ndarray, np.ndarray]:
    """A smooth image (C, Z, Y, X) in 32nds, and labels -1 to 2 in coherent places (1, Z, Y, X); both int8."""
    rng = np.random.default_rng(7)
    fields = ndimage.gaussian_filter(rng.standard_normal((CHANNELS + 1, *BOX)), (0, 1.5, 1.5, 1.5))
    fields /= fields.std((1, 2, 3), keepdims=True)
    labels = np.digitize(fields[-1:], (-1.5, 0.3, 1.0)) - 1
    return np.clip(np.round(fields[:-1] * 32), -127, 127).astype(np.int8), labels.astype(np.int8)


def parameters(transforms, image, labels) -> dict[str, np.ndarray]:
    """Draws of the parameters of each transform, given that it acts; angles and scales 0 and 1 where it does not."""
    steps = {}
    for step in transforms.transforms:
        inner = getattr(step, "transform", step)
        name = type(inner).__name__.removesuffix("Transform")
        steps[name + "Inverted" if getattr(inner, "p_invert_image", 0) else name] = inner
    draw = lambda name: [steps[name].get_parameters(image=image, segmentation=labels) for _ in range(DRAWS)]  # noqa: E731
    values: dict[str, list[float]] = {
        "noise_std": [float(p["sigmas"]) for p in draw("GaussianNoise")],
        "blur_sigma": [float(s) for p in draw("GaussianBlur") for channel in p["sigmas"] if channel for s in channel],
        "brightness_factor": [float(v) for p in draw("MultiplicativeBrightness") for v in p["multipliers"]],
        "contrast_factor": [float(v) for p in draw("Contrast") for v in p["multipliers"]],
        "low_resolution_zoom": [float(v[0]) for p in draw("SimulateLowResolution") for v in p["scales"]],
        "gamma": [float(v) for p in draw("Gamma") for v in p["gamma"]],
        "gamma_inverted": [float(v) for p in draw("GammaInverted") for v in p["gamma"]],
        "mirrored_axes": [float(len(p["axes"])) for p in draw("Mirror")],
    }
    matrices = [p["affine"] for p in draw("Spatial")]
    values["spatial_share"] = [float(matrix is not None) for matrix in matrices]
    acting = [np.asarray(matrix) for matrix in matrices if matrix is not None]
    values["spatial_scale"] = [float(np.cbrt(np.linalg.det(matrix))) for matrix in acting]
    values["spatial_turn"] = [float(np.trace(matrix) / np.cbrt(np.linalg.det(matrix))) for matrix in acting]
    return {name: np.array(drawn[:DRAWS], np.float32) for name, drawn in values.items()}


def statistics(image: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Numbers that tell augmented patches (C, Z, Y, X) and (1, Z, Y, X) apart."""
    first = image[0].astype(np.float64)
    return {
        "mean": first.mean(),
        "std": first.std(),
        "min": first.min(),
        "max": first.max(),
        "skewness": ((first - first.mean()) ** 3).mean() / first.std() ** 3,
        "roughness_z": np.abs(np.diff(first, axis=0)).mean(),
        "roughness_x": np.abs(np.diff(first, axis=2)).mean(),
        "second_channel_std": image[1].astype(np.float64).std(),
        "empty": (first == 0).mean(),
        "label_1": (labels == 1).mean(),
        "label_2": (labels == 2).mean(),
        "label_edges": (np.diff(labels.astype(np.int16), axis=3) != 0).mean(),
        "corner": first[0, 0, 0],
    }


if __name__ == "__main__":
    main(sys.argv[1])
