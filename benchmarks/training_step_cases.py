"""What training_step.py times: patches, batches and networks as nnU-Net's plans say them, and the batches themselves.

Both programs' environments import this file, so it needs nothing but the standard library and numpy.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Case:
    """A patch, a batch and a plain U-Net for it; two convolutions a stage, strides of 2, kernels of 3."""

    patch: tuple[int, ...]
    batch: int
    channels: int
    classes: int
    features: tuple[int, ...]

    @property
    def strides(self) -> list[list[int]]:
        axes = len(self.patch)
        return [[1] * axes, *([[2] * axes] * (len(self.features) - 1))]

    @property
    def kernels(self) -> list[list[int]]:
        return [[3] * len(self.patch)] * len(self.features)

    def batches(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Images (N, B, C, *patch) and label maps (N, B, *patch): boxes in noise."""
        rng = np.random.default_rng(0)
        labels = np.zeros((number, self.batch, *self.patch), np.int16)
        for index in np.ndindex(number, self.batch):
            for label in range(1, self.classes):
                start = [int(rng.integers(0, size // 2)) for size in self.patch]
                labels[index][tuple(slice(a, a + size // 4) for a, size in zip(start, self.patch, strict=True))] = label
        noise = rng.standard_normal((number, self.batch, self.channels, *self.patch), dtype=np.float32)
        return noise + labels[:, :, None].astype(np.float32), labels


CPU_CASES = {
    "3D, 40×56×40, batch 2": Case((40, 56, 40), 2, 1, 3, (32, 64, 128, 256)),
    "2D, 256×256, batch 4": Case((256, 256), 4, 1, 3, (32, 64, 128, 256, 512, 512)),
}
GPU_CASES = {
    "128³, batch 2, 1 channel": Case((128, 128, 128), 2, 1, 3, (32, 64, 128, 256, 320, 320)),
    "128³, batch 2, 4 channels": Case((128, 128, 128), 2, 4, 4, (32, 64, 128, 256, 320, 320)),
}
CASES = CPU_CASES | GPU_CASES


def dataset_json(case: Case) -> dict[str, Any]:
    """dataset.json of the case's labels and channels."""
    return {
        "channel_names": {str(index): "MRI" for index in range(case.channels)},
        "labels": {"background": 0} | {f"label {value}": value for value in range(1, case.classes)},
        "numTraining": 10,
        "file_ending": ".nii.gz",
    }


def nnunet_plans(case: Case) -> dict[str, Any]:
    """The case as a plans file, of one configuration named by the number of axes."""
    axes = len(case.patch)
    stages = len(case.features)
    names = ["conv_op", "norm_op", "dropout_op", "nonlin"]
    architecture = {
        "n_stages": stages,
        "features_per_stage": list(case.features),
        "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
        "kernel_sizes": case.kernels,
        "strides": case.strides,
        "n_conv_per_stage": [2] * stages,
        "n_conv_per_stage_decoder": [2] * (stages - 1),
        "conv_bias": True,
        "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
        "norm_op_kwargs": {"eps": 1e-5, "affine": True},
        "dropout_op": None,
        "dropout_op_kwargs": None,
        "nonlin": "torch.nn.LeakyReLU",
        "nonlin_kwargs": {"inplace": True},
    }
    configuration = {
        "data_identifier": "data",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": case.batch,
        "patch_size": list(case.patch),
        "spacing": [1.0] * axes,
        "normalization_schemes": ["ZScoreNormalization"] * case.channels,
        "use_mask_for_norm": [False] * case.channels,
        "batch_dice": axes == 2,
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": architecture,
            "_kw_requires_import": names,
        },
    }
    return {
        "dataset_name": "Dataset999_Step",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {},
        "configurations": {"2d" if axes == 2 else "3d_fullres": configuration},
    }
