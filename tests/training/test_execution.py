"""How a step is computed must not change what it computes."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

from segplan.errors import ConfigError
from segplan.networks import PlainUNet
from segplan.training import DeepSupervisionLoss, DiceBCELoss, DiceCELoss, DiceTopKLoss
from segplan.training.execution import Execution, ExecutionWishes, Probe, agree, choose_execution, take_up
from segplan.training.micro_batches import forward_in_parts, is_out_of_memory, out_of_memory

LOSSES = {
    "batch Dice": DiceCELoss(batch_dice=True),
    "ignore label": DiceCELoss(batch_dice=True, ignore_label=2),
    "Top-K": DiceTopKLoss(),
    "regions": DiceBCELoss([[1, 2], [2], [1]], batch_dice=True),
}


def network():
    torch.manual_seed(0)
    return PlainUNet(1, 3, features=(4, 6), strides=[(1, 1, 1), (2, 2, 2)], kernel_sizes=[(3, 3, 3)] * 2)


def batch(size=5):
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(size, 1, 8, 8, 8, generator=generator)
    return image, torch.randint(0, 3, (size, 8, 8, 8), generator=generator)


def probe(net):
    return Probe(net, batch()[0], nullcontext)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("parts", [2, 5])
def test_a_batch_in_parts_has_the_loss_and_the_gradients_of_the_whole_one(name, parts):
    net, (image, labels) = network().double(), batch()
    loss = DeepSupervisionLoss(LOSSES[name])
    results = []
    for number in (1, parts):
        value = loss(forward_in_parts(net, image.double(), number), labels)
        gradients = torch.autograd.grad(value, list(net.parameters()), allow_unused=True)
        results.append((value, [gradient for gradient in gradients if gradient is not None]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)


def test_the_network_never_sees_more_than_a_part():
    seen = []

    class Watching(nn.Module):
        def forward(self, x):
            seen.append(len(x))
            return x * torch.ones((), requires_grad=True)

    forward_in_parts(Watching(), batch()[0], 3).sum().backward()
    assert max(seen) == 2


def test_trial_steps_leave_weights_buffers_gradients_and_random_numbers_alone():
    net = nn.Sequential(nn.Conv3d(1, 2, 3), nn.BatchNorm3d(2), nn.Dropout3d(0.5))
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    choose_execution(ExecutionWishes(compile=False, memory_format="measure"), probe(net))
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_measuring_tells_both_times_and_takes_one_format():
    execution, notes = choose_execution(ExecutionWishes(memory_format="measure"), probe(network()))
    assert not execution.compiled
    assert f"memory format {execution.memory_format}" in notes[0]
    assert "contiguous" in notes[0]
    assert "channels_last" in notes[0]


def test_on_a_cpu_auto_measures_nothing_and_computes_plainly():
    assert choose_execution(ExecutionWishes(), probe(network())) == (Execution(), [])


def test_what_a_checkpoint_says_is_taken_up():
    net = network()
    execution, notes = take_up(Execution(False, "channels_last", 2), ExecutionWishes(), probe(net))
    assert execution == Execution(False, "channels_last", 2)
    assert notes == []
    kernels = [parameter for parameter in net.parameters() if parameter.ndim == 5]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last_3d) for kernel in kernels)


def test_what_is_named_outright_counts_more_than_the_checkpoint_and_is_said():
    net = network()
    before = Execution(True, "channels_last", 2)
    execution, notes = take_up(before, ExecutionWishes(compile=False, memory_format="contiguous"), probe(net))
    assert execution == Execution(False, "contiguous", 2)
    assert "compiled, channels_last before, uncompiled, contiguous now" in notes[0]
    assert net._compiled_call_impl is None
    assert all(parameter.is_contiguous() for parameter in net.parameters())


def test_a_batch_that_fits_in_parts_alone_is_not_measured(monkeypatch):
    def full(self, memory_format):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Probe, "step", full)
    execution, notes = choose_execution(ExecutionWishes(memory_format="measure", oom="shrink"), probe(network()))
    assert execution == Execution()
    assert "not measured" in notes[0]
    with pytest.raises(torch.OutOfMemoryError):
        choose_execution(ExecutionWishes(memory_format="measure"), probe(network()))


def test_a_network_that_cannot_be_compiled_runs_uncompiled_and_one_line_says_why(monkeypatch):
    def fail(self, *arguments, **keywords):
        raise RuntimeError("no compiler\nand a long story")

    monkeypatch.setattr(PlainUNet, "compile", fail)
    net = network()
    execution, notes = choose_execution(ExecutionWishes(compile=True), probe(net))
    assert not execution.compiled
    assert notes == ["the network cannot be compiled here, so it runs uncompiled: RuntimeError: no compiler"]
    assert len(net(batch()[0])) == 1


def test_ranks_compute_alike_and_compiled_only_where_all_can():
    net = network()
    net._compiled_call_impl = net.forward
    others = [Execution(False, "channels_last"), Execution(True, "contiguous")]
    assert agree(net, others[1], others) == Execution(False, "channels_last")
    assert net._compiled_call_impl is None


@pytest.mark.slow
def test_a_compiled_network_computes_the_same():
    net, (image, _) = network(), batch()
    with torch.no_grad():
        expected = net(image)
    execution, notes = choose_execution(ExecutionWishes(compile=True), probe(net))
    assert (execution.compiled, notes) == (True, [])
    with torch.no_grad():
        torch.testing.assert_close(net(image), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"compile": "yes"}, {"memory_format": "nhwc"}, {"oom": True}])
def test_wishes_that_there_are_not_are_refused_with_those_that_there_are(wrong):
    with pytest.raises(ConfigError, match=f"module.{next(iter(wrong))}"):
        ExecutionWishes(**wrong)


def test_a_full_memory_is_known_from_other_errors():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert not is_out_of_memory(RuntimeError("shapes differ"))


def test_the_remedies_for_a_full_memory_name_what_can_still_be_changed():
    first = str(out_of_memory(2, (8, 16), 1, "cuda:0", may_shrink=True))
    assert "batch of 2 patches of 8×16" in first
    for key in ("module.oom=shrink", "trainer.precision", "network.activation_checkpointing=true", "data.batch_size"):
        assert key in first
    assert "oom=shrink" not in str(out_of_memory(2, (8, 16), 2, "cuda:0", may_shrink=True))
