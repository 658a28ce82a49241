"""Counts against numbers recorded from the authors' networks, memory against real tensors, reach against gradients."""

import math

import pytest
import torch

from segplan.networks import PlainUNet, ResidualUNet, STUNet
from segplan.networks.cost import cost_of, kept_bytes
from segplan.planning.settings import PRESETS

TERA = 1e12
HALVED = [[1, 1, 1], *[[2, 2, 2]] * 5]
SHIPPED = [*HALVED[:5], [1, 1, 2]]
STRIDES = [[1, 1, 1], [2, 2, 2], [1, 2, 2]]
KERNELS = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]


def build_stunet(size, strides):
    settings = PRESETS[f"stunet_{size}"]
    return STUNet(1, 105, settings.stunet_features, settings.stunet_blocks_per_stage, strides)


def saved_by_convolving_before_upsampling(size, strides):
    """Multiply-adds that the authors' order, upsampling first, has more."""
    features, edge, saved = PRESETS[f"stunet_{size}"].stunet_features, [128, 128, 128], 0
    for stage in range(len(features) - 1):
        voxels = math.prod(edge)
        saved += features[stage + 1] * features[stage] * (voxels - voxels // math.prod(strides[stage + 1]))
        edge = [length // step for length, step in zip(edge, strides[stage + 1], strict=True)]
    return saved


@pytest.mark.parametrize(
    ("size", "strides", "expected"),
    [
        ("s", HALVED, 0.12938),
        ("s", SHIPPED, 0.13007),
        ("b", HALVED, 0.50624),
        ("b", SHIPPED, 0.50901),
        ("l", HALVED, 3.80351),
        ("l", SHIPPED, 3.82546),
        ("h", HALVED, 12.59340),
        ("h", SHIPPED, 12.66724),
    ],
)
def test_multiply_adds_are_the_published_ones_less_what_the_order_saves(size, strides, expected):
    cost = cost_of(lambda: build_stunet(size, strides), 1, (128, 128, 128))
    authors = cost.multiply_adds + saved_by_convolving_before_upsampling(size, strides)
    assert authors / TERA == pytest.approx(expected, abs=6e-6)


def test_parameters_and_multiply_adds_of_nnunets_networks():
    features, kernels = [32, 64, 128, 256, 320, 320], [[3, 3, 3]] * 6
    plain = cost_of(lambda: PlainUNet(1, 3, features, HALVED, kernels), 1, (128, 128, 128))
    assert plain.parameters == 31_196_399
    assert plain.multiply_adds / TERA == pytest.approx(0.477, abs=5e-4)
    residual = cost_of(
        lambda: ResidualUNet(1, 3, features, HALVED, kernels, blocks_per_stage=[1, 3, 4, 6, 6, 6]), 1, (128, 128, 128)
    )
    assert residual.parameters == 102_350_575
    assert residual.multiply_adds / TERA == pytest.approx(0.718, abs=5e-4)


NETWORKS = {
    "plain": lambda: PlainUNet(1, 2, [4, 6, 8], STRIDES, KERNELS),
    "residual": lambda: ResidualUNet(1, 2, [4, 6, 8], STRIDES, KERNELS, blocks_per_stage=[1, 2, 1]),
    "stunet": lambda: STUNet(1, 2, [4, 6, 8], [1, 2, 1], STRIDES),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_memory_is_that_of_a_real_forward_pass(kind):
    real = kept_bytes(NETWORKS[kind](), torch.randn(1, 1, 8, 16, 16))
    assert cost_of(NETWORKS[kind], 1, (8, 16, 16)).activation_bytes == pytest.approx(real, rel=0.02)


@pytest.mark.parametrize("kind", NETWORKS)
def test_the_receptive_field_is_what_gradients_reach(kind):
    network = NETWORKS[kind]().double()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, torch.nn.InstanceNorm3d):
                setattr(module, name, torch.nn.Identity())  # it would couple all voxels
    network.deep_supervision = False
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, 0.1, 1.0)  # positive, so that nothing cancels
    size = (48, 56, 56)
    image = torch.ones(1, 1, *size, dtype=torch.float64, requires_grad=True)
    network(image)[0, 0, 24, 28, 28].backward()
    reached = image.grad[0, 0].nonzero()
    extent = reached.max(0).values - reached.min(0).values + 1
    expected = cost_of(NETWORKS[kind], 1, size).receptive_field
    assert max(expected) < 56  # else the image would hide how far it goes
    for axis in range(3):
        # Where the voxel lies in its low-resolution voxel moves the ends by less than one of those.
        assert abs(int(extent[axis]) - expected[axis]) < 4
