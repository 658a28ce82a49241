from pathlib import Path

import numpy as np
import pytest
import torch

DATA = Path(__file__).parents[1] / "data" / "transforms"


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def recorded() -> dict[str, np.ndarray]:
    """Inputs and outputs of the transforms of batchgeneratorsv2 0.3.6, by key."""
    with np.load(DATA / "transforms.npz") as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """Where the recorded data of the reference lie."""
    return DATA
