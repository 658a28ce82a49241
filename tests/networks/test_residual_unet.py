"""Counts are those of nnU-Net 2.8.1's network (dynamic-network-architectures 0.4.4), aliases dropped."""

import pytest
import torch

from segplan.errors import ConfigError
from segplan.networks import ResidualUNet


def small(**changes):
    arguments = {
        "features": [4, 8, 8],
        "strides": [[1, 1, 1], [2, 2, 2], [1, 2, 2]],
        "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
        "blocks_per_stage": [1, 2, 1],
    }
    return ResidualUNet(2, 3, **(arguments | changes))


def test_parameters_and_names_are_those_of_nnunets_network():
    with torch.device("meta"):
        network = ResidualUNet(
            1,
            3,
            features=[32, 64, 128, 256, 320, 320],
            strides=[[1, 1, 1], *[[2, 2, 2]] * 5],
            kernel_sizes=[[3, 3, 3]] * 6,
            blocks_per_stage=[1, 3, 4, 6, 6, 6],
        )
    assert sum(parameter.numel() for parameter in network.parameters()) == 102_350_575
    keys = network.state_dict().keys()
    assert len(keys) == 264
    for key in (
        "encoder.stem.convs.0.conv.weight",
        "encoder.stages.0.blocks.0.conv1.norm.bias",
        "encoder.stages.1.blocks.0.skip.1.conv.weight",
        "encoder.stages.5.blocks.5.conv2.conv.bias",
        "decoder.stages.4.convs.0.conv.weight",
    ):
        assert key in keys
    # 320 to 320 channels: the shortcut only pools.
    assert not [key for key in keys if key.startswith("encoder.stages.5.blocks.0.skip")]
    assert "encoder.stages.1.blocks.0.skip.1.conv.bias" not in keys


def test_logits_have_the_resolutions_of_the_stages_but_the_last():
    image = torch.zeros(1, 2, 8, 16, 16)
    network = small()
    assert [tuple(logits.shape[2:]) for logits in network(image)] == [(8, 16, 16), (4, 8, 8)]
    network.deep_supervision = False
    assert network(image).shape == (1, 3, 8, 16, 16)


def test_a_fresh_block_is_its_shortcut():
    network = small()
    block = network.encoder.stages[1].blocks[1]
    x = torch.randn(1, 8, 4, 8, 8)
    assert torch.equal(block(x), torch.nn.functional.leaky_relu(x, 0.01))


def test_gradients_reach_every_parameter():
    network = small()
    for block in network.modules():
        if hasattr(block, "conv2"):
            torch.nn.init.ones_(block.conv2.norm.weight)
    sum(logits.square().sum() for logits in network(torch.randn(2, 2, 8, 16, 16))).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="blocks_per_stage"):
        small(blocks_per_stage=[1, 2])
