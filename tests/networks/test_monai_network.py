"""A network of another library, set up as the documentation says; runs where MONAI is installed."""

import json

import pytest

pytest.importorskip("monai", reason="MONAI is not installed")


@pytest.fixture
def own_plan(tmp_path):
    """A plan of the workspace, and a file of the user's own on top of it that names MONAI's network."""
    folder = tmp_path / "plan" / "D"
    folder.mkdir(parents=True)
    (folder / "3d_fullres.yaml").write_text(
        "# @package _global_\nplan: {input_channels: 1, num_classes: 3}\n"
        "data: {patch_size: [16, 16, 16], batch_size: 2}\n"
        "network: {features: [4, 8, 8], strides: [[1,1,1],[2,2,2],[2,2,2]], kernel_sizes: [[3,3,3],[3,3,3],[3,3,3]]}\n"
    )
    (folder / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - /plan/D/3d_fullres\n  - _self_\n"
        "network:\n  _target_: monai.networks.nets.DynUNet\n  spatial_dims: 3\n"
        "  in_channels: ${plan.input_channels}\n  out_channels: ${plan.num_classes}\n"
        "  kernel_size: ${network.kernel_sizes}\n  upsample_kernel_size: [[2, 2, 2], [2, 2, 2]]\n"
        "  filters: ${network.features}\n"
    )
    return tmp_path


def test_monais_network_gets_the_plans_values_and_trains(own_plan):
    import torch

    from segplan.entry.compose import compose_job
    from segplan.jobs.instantiate import instantiate
    from segplan.jobs.network_node import network_node, recorded_network
    from segplan.networks import set_deep_supervision
    from segplan.training import DeepSupervisionLoss, DiceCELoss

    config = compose_job("train", ["plan=D/mine"], own_plan)
    network = instantiate(network_node(config.network))
    set_deep_supervision(network, True)  # MONAI's flag of that name means something else, and stays
    logits = network(torch.randn(2, 1, 16, 16, 16))
    assert logits.shape == (2, 3, 16, 16, 16)
    loss = DeepSupervisionLoss(DiceCELoss(batch_dice=False))(logits, torch.randint(0, 3, (2, 16, 16, 16)))
    loss.backward()
    assert torch.isfinite(loss)
    recorded = recorded_network(config.network)
    assert recorded["target"] == "monai.networks.nets.DynUNet"
    assert recorded["filters"] == [4, 8, 8]
    assert json.dumps(recorded)
