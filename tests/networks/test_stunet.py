"""Against the authors' network: names, shapes and counts recorded from it, and its arithmetic written out by name."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from segplan.errors import ConfigError
from segplan.networks import STUNet
from segplan.planning.settings import PRESETS
from segplan.planning.stunet import count_stunet_parameters

SHAPES = Path(__file__).parents[1] / "data" / "networks" / "stunet_shapes_105cls.json.gz"
PARAMETERS = {"S": 14_596_941, "B": 58_262_669, "L": 440_302_605, "H": 1_457_326_221}
ISOTROPIC = [[1, 1, 1], *[[2, 2, 2]] * 5]


def preset(size: str, **changes):
    """The published network `size`, without memory for its weights."""
    settings = PRESETS[f"stunet_{size.lower()}"]
    with torch.device("meta"):
        return STUNet(1, 105, settings.stunet_features, settings.stunet_blocks_per_stage, ISOTROPIC, **changes)


def small(**changes):
    arguments = {
        "features": [4, 6, 8],
        "blocks_per_stage": [2, 1, 2],
        "strides": [[1, 1, 1], [2, 2, 2], [1, 1, 2]],
    }
    return STUNet(2, 3, **(arguments | changes))


def authors_arithmetic(weights, x, strides):
    """Logits, highest resolution first, from the weights by their published names: upsample, then convolve."""

    def conv(name, x, stride=1, padding=0):
        return F.conv3d(
            x, weights[f"{name}.weight"], weights[f"{name}.bias"], tuple(stride) if stride != 1 else 1, padding
        )

    def norm(name, x):
        return F.instance_norm(x, weight=weights[f"{name}.weight"], bias=weights[f"{name}.bias"], eps=1e-5)

    def stage(name, x, stride=1):
        block = 0
        while f"{name}.{block}.conv1.weight" in weights:
            here, step = f"{name}.{block}", stride if block == 0 else 1
            y = F.leaky_relu(norm(f"{here}.norm1", conv(f"{here}.conv1", x, step, 1)), 0.01)
            y = norm(f"{here}.norm2", conv(f"{here}.conv2", y, 1, 1))
            x = F.leaky_relu(y + (conv(f"{here}.conv3", x, step) if block == 0 else x), 0.01)
            block += 1
        return x

    skips = []
    for number, stride in enumerate(strides):
        x = stage(f"conv_blocks_context.{number}", x, stride)
        skips.append(x)
    outputs = []
    for up in range(len(strides) - 1):
        stride = strides[len(strides) - 1 - up]
        for axis, step in enumerate(stride):
            x = x.repeat_interleave(step, dim=axis + 2)
        x = torch.cat([conv(f"upsample_layers.{up}.conv", x), skips[-2 - up]], dim=1)
        x = stage(f"conv_blocks_localization.{up}", x)
        outputs.append(conv(f"seg_outputs.{up}", x))
    return outputs[::-1]


@pytest.mark.parametrize("size", PARAMETERS)
def test_names_shapes_and_counts_are_those_of_the_authors_network(size):
    expected = json.loads(gzip.decompress(SHAPES.read_bytes()))[size]
    network = preset(size)
    state = {name: list(value.shape) for name, value in network.state_dict().items()}
    assert state == expected
    assert list(state) == list(expected)
    assert sum(parameter.numel() for parameter in network.parameters()) == PARAMETERS[size]
    assert count_stunet_parameters(1, 105, PRESETS[f"stunet_{size.lower()}"]) == PARAMETERS[size]


def test_logits_are_those_of_the_authors_arithmetic():
    torch.manual_seed(0)
    network = small().double()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    image = torch.randn(2, 2, 8, 6, 12, dtype=torch.float64)
    expected = authors_arithmetic(network.state_dict(), image, network.strides)
    outputs = network(image)
    assert len(outputs) == len(expected) == 2
    for output, wanted in zip(outputs, expected, strict=True):
        torch.testing.assert_close(output, wanted, rtol=1e-10, atol=1e-10)


def test_without_deep_supervision_only_the_highest_head_is_computed():
    network, image, called = small(), torch.randn(1, 2, 8, 8, 8), []
    full = network(image)[0]
    network.deep_supervision = False
    for depth, head in enumerate(network.seg_outputs):
        head.register_forward_hook(lambda *_, depth=depth: called.append(depth))
    assert torch.equal(network(image), full)
    assert called == [1]


def test_weights_fit_other_poolings():
    network = small()
    other = small(strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]])
    other.load_state_dict(network.state_dict())
    assert other(torch.randn(1, 2, 8, 8, 8))[0].shape == (1, 3, 8, 8, 8)


def test_two_axes_give_a_2d_network():
    network = small(strides=[[1, 1], [2, 2], [2, 2]])
    assert [tuple(logits.shape) for logits in network(torch.randn(1, 2, 16, 8))] == [(1, 3, 16, 8), (1, 3, 8, 4)]


def test_a_size_in_between_is_a_factor_on_width_and_depth():
    network = preset("B", width=1.5, depth=2)
    assert network.conv_blocks_context[0][0].conv1.out_channels == 48
    assert network.conv_blocks_context[5][0].conv1.out_channels == 768
    assert [len(stage) for stage in network.conv_blocks_localization] == [2] * 5


def test_initial_weights_are_he_normal_with_zero_biases():
    conv = STUNet(1, 2, [8, 64], [1, 2], ISOTROPIC[:2]).conv_blocks_context[1][1].conv1
    assert conv.weight.std().item() == pytest.approx((2 / 1.0001 / (64 * 27)) ** 0.5, rel=0.02)
    assert not conv.bias.any()


@pytest.mark.parametrize(
    "changes", [{"features": [4, 6]}, {"blocks_per_stage": [1, 1]}, {"width": 0.1}, {"strides": []}]
)
def test_what_cannot_work_is_refused(changes):
    with pytest.raises(ConfigError):
        small(**changes)
