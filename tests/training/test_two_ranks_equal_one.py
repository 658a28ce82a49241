"""Five steps of two gloo processes under DDP against one process with the whole batch: the same weights in float64."""

import contextlib

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from segplan.networks import PlainUNet
from segplan.patches.oversampling import rank_share
from segplan.training import DeepSupervisionLoss, DiceBCELoss, DiceCELoss

IGNORE = 3
CASES = {
    "labels": (DiceCELoss, 4, 1),
    "an uneven batch": (lambda: DiceCELoss(batch_dice=True), 9, 1),
    "ignore label": (lambda: DiceCELoss(ignore_label=IGNORE), 9, 1),
    "regions": (lambda: DiceBCELoss([[1, 2, 3], [2], [3]], batch_dice=True), 5, 1),
    "regions with ignore label": (lambda: DiceBCELoss([[1, 2], [2], [1]], ignore_label=IGNORE), 4, 1),
    "accumulation": (lambda: DiceCELoss(batch_dice=True, ignore_label=IGNORE), 5, 2),
}
STEPS = 5


def batches(size, count):
    generator = torch.Generator().manual_seed(size)
    for _ in range(count):
        image = torch.randn(size, 1, 8, 8, 8, dtype=torch.float64, generator=generator)
        labels = torch.randint(0, 3, (size, 8, 8, 8), generator=generator)
        for sample in range(size):
            labels[sample, : sample % 4] = IGNORE
        yield image, labels


def train(case, share=None):
    """Train a small network; `share` picks a rank's samples. Returns its weights."""
    make_loss, size, accumulate = CASES[case]
    torch.manual_seed(0)
    network = PlainUNet(
        1, 3, features=(4, 6, 8), strides=[(1, 1, 1), (2, 2, 2), (2, 2, 2)], kernel_sizes=[(3, 3, 3)] * 3
    )
    network = network.double()
    wrapped = network if share is None else DistributedDataParallel(network, find_unused_parameters=True)
    loss = DeepSupervisionLoss(make_loss())
    known = IGNORE + (loss.loss.ignore_label is not None)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True, weight_decay=3e-5)
    for number, (images, annotations) in enumerate(batches(size, STEPS * accumulate)):
        mine = range(size) if share is None else share(size)
        # What is not annotated is background to a loss that knows no such label.
        image, labels = images[list(mine)], annotations[list(mine)] % known
        last = (number + 1) % accumulate == 0
        held_back = contextlib.nullcontext() if last or share is None else wrapped.no_sync()
        with held_back:
            (loss(wrapped(image), labels) / accumulate).backward()
        if last:
            torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
            optimizer.step()
            optimizer.zero_grad()
    return network.state_dict()


def one_rank(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save({case: train(case, lambda size: rank_share(size, rank, 2)) for case in CASES}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    mp.start_processes(one_rank, args=(folder,), nprocs=2, start_method="fork")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_reach_the_weights_of_one(two_ranks, case):
    expected = train(case)
    for weights in (two_ranks[0][case], two_ranks[1][case]):
        for key, value in expected.items():
            torch.testing.assert_close(weights[key], value, rtol=0, atol=1e-10, msg=f"{case}: {key}")
