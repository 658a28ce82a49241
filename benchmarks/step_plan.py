"""The network and the batches of step_agreement.py, as nnU-Net's plans say it: Hippocampus, 3d_fullres, batch 2.

Both programs' environments import this file, so it needs nothing but the standard library.
"""

from typing import Any

THREADS = 2
PATCH = (40, 56, 40)
BATCH = 2
STEPS = 10
CHANNELS = 1
CLASSES = 3

FEATURES = [32, 64, 128, 256]
STRIDES = [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
KERNEL_SIZES = [[3, 3, 3]] * 4
CONVS_PER_STAGE = [2] * 4
CONVS_PER_STAGE_DECODER = [2] * 3

DATASET_JSON: dict[str, Any] = {
    "channel_names": {"0": "MRI"},
    "labels": {"background": 0, "Anterior": 1, "Posterior": 2},
    "numTraining": 260,
    "file_ending": ".nii.gz",
}

PLANS: dict[str, Any] = {
    "dataset_name": "Dataset004_Hippocampus",
    "plans_name": "nnUNetPlans",
    "image_reader_writer": "SimpleITKIO",
    "transpose_forward": [0, 1, 2],
    "transpose_backward": [0, 1, 2],
    "label_manager": "LabelManager",
    "foreground_intensity_properties_per_channel": {},
    "configurations": {
        "3d_fullres": {
            "data_identifier": "nnUNetPlans_3d_fullres",
            "preprocessor_name": "DefaultPreprocessor",
            "batch_size": BATCH,
            "patch_size": list(PATCH),
            "spacing": [1.0, 1.0, 1.0],
            "normalization_schemes": ["ZScoreNormalization"],
            "use_mask_for_norm": [False],
            "batch_dice": False,
            "architecture": {
                "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
                "arch_kwargs": {
                    "n_stages": len(FEATURES),
                    "features_per_stage": FEATURES,
                    "conv_op": "torch.nn.modules.conv.Conv3d",
                    "kernel_sizes": KERNEL_SIZES,
                    "strides": STRIDES,
                    "n_conv_per_stage": CONVS_PER_STAGE,
                    "n_conv_per_stage_decoder": CONVS_PER_STAGE_DECODER,
                    "conv_bias": True,
                    "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                    "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                    "dropout_op": None,
                    "dropout_op_kwargs": None,
                    "nonlin": "torch.nn.LeakyReLU",
                    "nonlin_kwargs": {"inplace": True},
                },
                "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
            },
        }
    },
}
