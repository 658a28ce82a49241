"""Activation checkpointing: the same loss and gradients from less memory, for every network."""

import pytest
import torch

from segplan.networks import PlainUNet, ResidualUNet, STUNet

TOPOLOGY = {"features": [8, 12, 16], "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]]}
KERNELS = {"kernel_sizes": [[3, 3, 3]] * 3}
NETWORKS = {
    "plain": lambda **more: PlainUNet(1, 2, **TOPOLOGY, **KERNELS, **more),
    "residual": lambda **more: ResidualUNet(1, 2, **TOPOLOGY, **KERNELS, blocks_per_stage=[2, 2, 2], **more),
    "stunet": lambda **more: STUNet(1, 2, **TOPOLOGY, blocks_per_stage=[2, 2, 2], **more),
}


def step(network, image):
    """Loss, gradients, and the bytes of activations that are kept for the gradients."""
    parameters = {parameter.data_ptr() for parameter in network.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.data_ptr() not in parameters:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = sum(logits.square().mean() for logits in network(image))
    size = sum(kept.values())
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in network.named_parameters()}, size


@pytest.mark.parametrize("kind", NETWORKS)
def test_loss_and_gradients_stay_and_memory_falls(kind):
    torch.manual_seed(0)
    plain = NETWORKS[kind]()
    for name, parameter in plain.named_parameters():
        if name.endswith("norm.weight"):
            torch.nn.init.ones_(parameter)  # residual branches start silent, which would hide their gradients
    saving = NETWORKS[kind](activation_checkpointing=True)
    saving.load_state_dict(plain.state_dict())
    image = torch.randn(1, 1, 16, 16, 16)
    loss, gradients, size = step(plain, image)
    saved_loss, saved_gradients, saved_size = step(saving, image)
    assert torch.equal(loss, saved_loss)
    for name, gradient in gradients.items():
        assert gradient.abs().sum() > 0 or name.endswith("bias"), name
        torch.testing.assert_close(saved_gradients[name], gradient)
    assert saved_size < 0.6 * size


@pytest.mark.parametrize("kind", NETWORKS)
def test_without_gradients_it_changes_nothing(kind):
    network, image = NETWORKS[kind](activation_checkpointing=True, deep_supervision=False), torch.randn(1, 1, 8, 8, 8)
    with torch.no_grad():
        output = network(image)
    network.activation_checkpointing = False
    assert torch.equal(network(image), output)
