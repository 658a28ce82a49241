"""Memory of one STU-Net training step on the CPU: a patch of 64³, batch 1, 105 classes, activation checkpointing, fp32.

No nnU-Net and no dataset. S and B by default; `--sizes l h` needs 6 and 18 GiB. Every size is a process of its own.
"""

import argparse
import resource
import subprocess
import sys
import time

SIZES = {"s": (16, 1), "b": (32, 1), "l": (64, 2), "h": (96, 3)}  # channels of the first stage, blocks a stage
EDGE, CLASSES = 64, 105


def step(size: str) -> None:
    """One step of forward, backward, clipping and SGD with momentum; prints a table's line."""
    import torch

    from segplan.networks import STUNet, set_deep_supervision
    from segplan.training.deep_supervision import DeepSupervisionLoss
    from segplan.training.losses import DiceCELoss

    torch.manual_seed(0)
    width, depth = SIZES[size]
    features = [width * factor for factor in (1, 2, 4, 8, 16, 16)]
    strides = [[1, 1, 1]] + [[2, 2, 2]] * 5
    network = STUNet(1, CLASSES, features, [depth] * 6, strides, activation_checkpointing=True)
    set_deep_supervision(network, True)
    count = sum(parameter.numel() for parameter in network.parameters())
    loss = DeepSupervisionLoss(DiceCELoss())
    # Parameter by parameter: all at once would need another copy of the gradients.
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.99, nesterov=True, foreach=False)
    image = torch.randn(1, 1, EDGE, EDGE, EDGE)
    labels = torch.randint(0, CLASSES, (1, EDGE, EDGE, EDGE), dtype=torch.uint8)
    start = time.perf_counter()
    value = loss(network(image), labels)
    value.backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 12.0, foreach=False)
    optimizer.step()
    took = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    states = 3 * 4 * count / 2**30
    print(f"| {size.upper()} | {count:,} | {states:.2f} | {peak:.2f} | {took:.0f} | {value.item():.2f} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Peak memory of one STU-Net training step on the CPU.")
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["s", "b"])
    parser.add_argument("--step", choices=list(SIZES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        step(arguments.step)
        return 0
    print("| size | parameters | weights, gradients, momentum, GiB | peak memory, GiB | a step, s | loss |")
    print("|---|---|---|---|---|---|", flush=True)
    codes = [subprocess.call([sys.executable, __file__, "--step", size]) for size in arguments.sizes]
    return 1 if any(codes) else 0


if __name__ == "__main__":
    sys.exit(main())
