"""Makes a phantom dataset, once."""

from pathlib import Path
from typing import cast

from segplan.dataset.phantom import Kind, holds_phantom, make_phantom


def run(out: Path, kind: str, cases: int, seed: int, test_cases: int = 0) -> int:
    """Make the dataset, or say that it is there already.

    Args:
        out: the dataset's folder; its name becomes the dataset's name.
        kind: ct, mr or rgb.
        cases: number of training cases.
        seed: of the whole dataset.
        test_cases: number of further cases for testing.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: an argument cannot work, or the folder holds something else.
        StorageError: the disk is full or the folder cannot be written.
    """
    wanted = cast(Kind, kind)
    done = holds_phantom(out, wanted, cases, seed, test_cases)
    if not done:
        make_phantom(out, wanted, cases, seed, test_cases)
    tests = f" and {test_cases} test" if test_cases else ""
    state = "is there already" if done else "made"
    line = f"{out.name} · {kind} phantom · {cases} training{tests} cases · seed {seed} · {state}: {out}"
    print(line)
    return 0
