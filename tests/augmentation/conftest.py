from pathlib import Path

import numpy as np
import pytest
import torch

DATA = Path(__file__).parents[1] / "data" / "transforms" / "transforms.npz"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def recorded() -> dict[str, np.ndarray]:
    """Inputs and outputs of the transforms of batchgeneratorsv2 0.3.6, by key."""
    with np.load(DATA) as archive:
        return {key: archive[key] for key in archive.files}
