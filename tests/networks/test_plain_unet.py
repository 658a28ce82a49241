from pathlib import Path

import numpy as np
import pytest
import torch

from segplan.errors import ConfigError
from segplan.networks import PlainUNet

MODELS = Path(__file__).parents[1] / "data" / "inference" / "models"
ISOTROPIC = [[1, 1, 1], *[[2, 2, 2]] * 5]


def small(**changes: object) -> PlainUNet:
    arguments: dict = {
        "input_channels": 2,
        "num_classes": 3,
        "features": [4, 6, 8],
        "strides": [[1, 1], [2, 2], [2, 2]],
        "kernel_sizes": [[3, 3]] * 3,
    }
    return PlainUNet(**(arguments | changes))


def load_nnunet(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of an nnU-Net checkpoint with each parameter under one name only."""
    allowed = [np._core.multiarray.scalar, np.dtype, *(type(np.dtype(kind)) for kind in ("f4", "f8", "i8"))]
    with torch.serialization.safe_globals(allowed):
        weights = torch.load(path, weights_only=True, map_location="cpu")["network_weights"]
    return {
        key: value
        for key, value in weights.items()
        if ".all_modules." not in key and not key.startswith("decoder.encoder.")
    }


def test_has_the_published_number_of_parameters_and_names():
    network = PlainUNet(1, 3, [32, 64, 128, 256, 320, 320], ISOTROPIC, [[3, 3, 3]] * 6)
    assert sum(parameter.numel() for parameter in network.parameters()) == 31_196_399
    assert len(network.state_dict()) == 108


@pytest.mark.parametrize(
    ("configuration", "strides", "kernels"),
    [
        ("2d", [[1, 1], *[[2, 2]] * 3], [[3, 3]] * 4),
        ("3d_fullres", [[1, 1, 1], [1, 2, 2], *[[2, 2, 2]] * 2], [[1, 3, 3], *[[3, 3, 3]] * 3]),
    ],
)
def test_loads_an_nnunet_checkpoint_strictly(configuration, strides, kernels):
    weights = load_nnunet(MODELS / configuration / "fold_0" / "checkpoint_final.pth")
    heads = weights["decoder.seg_layers.0.weight"].shape[0]
    network = PlainUNet(
        weights["encoder.stages.0.0.convs.0.conv.weight"].shape[1], heads, [4, 6, 6, 6], strides, kernels
    )
    network.load_state_dict(weights)


def test_deep_supervision_gives_all_resolutions_highest_first_and_can_be_switched_off():
    network, image = small(), torch.randn(2, 2, 16, 24)
    outputs = network(image)
    assert [tuple(output.shape) for output in outputs] == [(2, 3, 16, 24), (2, 3, 8, 12)]
    network.deep_supervision = False
    assert torch.equal(network(image), outputs[0])


def test_heads_that_are_not_needed_are_not_computed():
    network = small(deep_supervision=False)
    called = []
    for depth, head in enumerate(network.decoder.seg_layers):
        head.register_forward_hook(lambda *_, depth=depth: called.append(depth))
    network(torch.randn(1, 2, 16, 16))
    assert called == [1]


def test_initial_weights_are_he_normal_with_zero_biases():
    network = PlainUNet(1, 2, [32, 64], [[1, 1, 1], [2, 2, 2]], [[3, 3, 3]] * 2)
    conv = network.encoder.stages[1][0].convs[1].conv
    assert conv.weight.std().item() == pytest.approx((2 / 1.0001 / (64 * 27)) ** 0.5, rel=0.02)
    up = network.decoder.transpconvs[0]
    assert up.weight.std().item() == pytest.approx((2 / 1.0001 / (32 * 8)) ** 0.5, rel=0.02)
    assert all(not parameter.any() for name, parameter in network.named_parameters() if name.endswith("bias"))


def test_bf16_autocast_stays_close_to_float32():
    torch.manual_seed(0)
    network, image = small(features=[8, 16, 32], deep_supervision=False), torch.randn(2, 2, 32, 32)
    exact = network(image)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(image)
    assert (half.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize(
    "changes",
    [{"features": [4, 6]}, {"kernel_sizes": [[3, 3], [3, 3, 3], [3, 3]]}, {"strides": [[2, 2], [2, 2], [2, 2]]}],
)
def test_a_topology_that_cannot_work_is_refused(changes):
    with pytest.raises(ConfigError):
        small(**changes)
