import numpy as np


def smooth_case(shape: tuple[int, int, int], channels: int = 1, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A random image (C, Z, Y, X) and a label map (1, Z, Y, X) with labels -1 to 3 in coherent patches."""
    rng = np.random.default_rng(seed)
    image = rng.standard_normal((channels, *shape)).astype(np.float32)
    coarse = rng.integers(-1, 4, [-(-size // 4) for size in shape])
    labels = coarse.repeat(4, 0).repeat(4, 1).repeat(4, 2)[: shape[0], : shape[1], : shape[2]]
    return image, labels[None].astype(np.int16)
