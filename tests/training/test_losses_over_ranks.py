"""Two gloo processes with half a batch each must give the loss and the gradients of one with the whole batch."""

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from segplan.training import DiceBCELoss, DiceCELoss, DiceFocalLoss, TverskyCELoss

REGIONS = [[1, 2, 3], [2, 3], [3]]
CLASSES, IGNORE = 4, 4
CASES = {
    f"{name}{' batch' * batch_dice}{' ignore' * ignore} {shares}": (make, batch_dice, ignore, shares)
    for name, make in {
        "dice_ce": DiceCELoss,
        "weighted": lambda **more: DiceCELoss(class_weights=[0.5, 1, 2, 4], **more),
        "focal": DiceFocalLoss,
        "tversky": TverskyCELoss,
        "dice_bce": lambda **more: DiceBCELoss(REGIONS, **more),
    }.items()
    for batch_dice in (False, True)
    for ignore in (False, True)
    for shares in ((2, 2), (5, 4))
}


def batch(shares):
    """A batch whose samples differ in foreground and in voxels that count, as patches do."""
    generator = torch.Generator().manual_seed(sum(shares))
    count = sum(shares)
    logits = torch.randn(count, CLASSES, 6, 5, 4, dtype=torch.float64, generator=generator)
    labels = torch.randint(0, CLASSES, (count, 6, 5, 4), generator=generator)
    labels[0] = 0
    return logits, labels


def with_ignored(labels):
    """The first slices of each sample, a different number of each, are not annotated."""
    labels = labels.clone()
    for sample in range(len(labels)):
        labels[sample, : sample % 5] = IGNORE
    return labels


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    results = {}
    for name, (make, batch_dice, ignore, shares) in CASES.items():
        logits, labels = batch(shares)
        mine = slice(0, shares[0]) if rank == 0 else slice(shares[0], None)
        labels = with_ignored(labels) if ignore else labels
        results[name] = evaluate(make, batch_dice, ignore, logits[mine], labels[mine])
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def evaluate(make, batch_dice, ignore, logits, labels):
    loss = make(batch_dice=batch_dice, ignore_label=IGNORE if ignore else None)
    channels = len(REGIONS) if isinstance(loss, DiceBCELoss) else CLASSES
    logits = logits[:, :channels].clone().requires_grad_()
    value = loss(logits, labels)
    value.backward()
    return value.detach(), logits.grad


def test_loss_and_gradient_of_two_ranks_are_those_of_the_whole_batch(tmp_path):
    mp.start_processes(one_rank, args=(tmp_path,), nprocs=2, start_method="fork")
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, (make, batch_dice, ignore, shares) in CASES.items():
        logits, labels = batch(shares)
        labels = with_ignored(labels) if ignore else labels
        value, gradient = evaluate(make, batch_dice, ignore, logits, labels)
        for rank, (its_value, _) in enumerate((first[name], second[name])):
            torch.testing.assert_close(its_value, value, rtol=0, atol=1e-12, msg=f"{name}: loss of rank {rank}")
        both = torch.cat([first[name][1], second[name][1]]) / 2  # DDP averages the ranks' gradients
        torch.testing.assert_close(both, gradient, rtol=0, atol=1e-12, msg=f"{name}: gradient")
