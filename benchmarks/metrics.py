"""HD95, ASSD and NSD against other libraries: how far apart, how fast; 200 random anisotropic shapes.

    python benchmarks/metrics.py [--shapes 200] [--sizes 20 56] [--libraries SITE_PACKAGES]
        [--record tests/data/metrics/surfaces.npz]

Needs monai; surface-distance, MedPy and panoptica are looked for in SITE_PACKAGES too (a virtual environment of their
own, so that they do not decide the versions of segplan's). Everything runs on one thread.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from scipy import ndimage

from segplan.evaluation.surfaces import assd, boundary_distances, hd95, hd95_max, surface_dice


def random_shapes(count, sizes, seed=0):
    """Pairs of masks (a shape and a distorted copy), a spacing and a tolerance."""
    rng = np.random.default_rng(seed)
    while count:
        shape, spacing = rng.integers(*sizes, 3), tuple(float(value) for value in np.round(rng.uniform(0.4, 4, 3), 3))
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), rng.uniform(1.5, 3.5))
        other = (
            smooth / smooth.std()
            + rng.uniform(0.1, 0.8) * rng.normal() * ndimage.gaussian_filter(rng.normal(size=shape), 2) / 0.1
        )
        level = rng.uniform(0.2, 1.2)
        masks = smooth / smooth.std() > level, other > level
        if all(mask.any() for mask in masks):
            count -= 1
            yield *masks, spacing, float(np.round(rng.uniform(0.5, 4), 2))


def segplan_surfaces(prediction, reference, spacing, tolerance):
    forth, back = boundary_distances(prediction, reference, spacing)
    return {"HD95": hd95(forth, back), "HD95Max": hd95_max(forth, back), "ASSD": assd(forth, back)}


def segplan_nsd(prediction, reference, spacing, tolerance):
    return {"NSD": surface_dice(prediction, reference, spacing, tolerance)}


def monai_hd95(prediction, reference, spacing, tolerance):
    from monai.metrics import compute_hausdorff_distance

    p, r = tensors(prediction, reference)
    value = compute_hausdorff_distance(p, r, include_background=True, percentile=95, spacing=spacing)
    return {"HD95Max": float(value)}


def monai_nsd(prediction, reference, spacing, tolerance):
    from monai.metrics import compute_surface_dice

    p, r = tensors(prediction, reference)
    value = compute_surface_dice(p, r, [tolerance], include_background=True, spacing=spacing, use_subvoxels=True)
    return {"NSD": float(value)}


def monai_assd(prediction, reference, spacing, tolerance):
    from monai.metrics import compute_average_surface_distance

    p, r = tensors(prediction, reference)
    value = compute_average_surface_distance(p, r, include_background=True, symmetric=True, spacing=spacing)
    return {"ASSD": float(value)}


def monai_voxel_nsd(prediction, reference, spacing, tolerance):
    from monai.metrics import compute_surface_dice

    p, r = tensors(prediction, reference)
    return {"NSD": float(compute_surface_dice(p, r, [tolerance], include_background=True, spacing=spacing))}


def deepmind_nsd(prediction, reference, spacing, tolerance):
    import surface_distance

    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return {"NSD": surface_distance.compute_surface_dice_at_tolerance(distances, tolerance)}


def deepmind_hd95(prediction, reference, spacing, tolerance):
    import surface_distance

    distances = surface_distance.compute_surface_distances(reference, prediction, spacing)
    return {"HD95Max": surface_distance.compute_robust_hausdorff(distances, 95)}


def medpy_hd95(prediction, reference, spacing, tolerance):
    from medpy.metric.binary import hd95 as medpy

    return {"HD95": medpy(prediction, reference, spacing)}


def medpy_assd(prediction, reference, spacing, tolerance):
    from medpy.metric.binary import assd as medpy

    return {"ASSD": medpy(prediction, reference, spacing)}


def panoptica_hd95(prediction, reference, spacing, tolerance):
    from panoptica.metrics.hausdorff_distance import _compute_hausdorff_distance95

    return {"HD95": _compute_hausdorff_distance95(reference, prediction, spacing)}


def tensors(*masks):
    import torch

    return tuple(torch.from_numpy(mask)[None, None] for mask in masks)


SHARED = {  # of the same definition
    "HD95": (medpy_hd95, panoptica_hd95),
    "HD95Max": (monai_hd95,),
    "ASSD": (monai_assd, medpy_assd),
    "NSD": (deepmind_nsd, monai_nsd),
}
OTHER = {"HD95Max": (deepmind_hd95,), "NSD": (monai_voxel_nsd,)}  # of another one


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs=2, default=(20, 56), help="voxels an axis, from and to")
    parser.add_argument("--libraries", type=Path)
    parser.add_argument("--record", type=Path, help="write small shapes and the libraries' values, for the tests")
    options = parser.parse_args()
    if options.libraries:
        sys.path.append(str(options.libraries))  # last: segplan's own versions come first
    import torch

    torch.set_num_threads(1)
    if options.record:
        record(options.record)
        return
    seconds, differences = defaultdict(float), defaultdict(float)
    for case in random_shapes(options.shapes, (options.sizes[0], options.sizes[1] + 1)):
        ours = {}
        for function in (segplan_surfaces, segplan_nsd):
            ours |= timed(function, case, seconds)
        for group in (SHARED, OTHER):
            for name, functions in group.items():
                for function in functions:
                    value = timed(function, case, seconds)[name]
                    key = name, function.__name__
                    differences[key] = max(differences[key], abs(value - ours[name]))
    low, high = options.sizes
    print(f"{options.shapes} shapes of {low} to {high} voxels an axis, spacing 0.4 to 4 mm")
    for (name, function), difference in differences.items():
        kind = "same definition" if any(f.__name__ == function for f in SHARED[name]) else "other definition"
        print(f"{name:8} {function:18} {kind:17} differs by at most {difference:.2g}")
    for function, value in seconds.items():
        print(f"{function:18} {1000 * value / options.shapes:8.1f} ms a shape")


def timed(function, case, seconds):
    start = time.perf_counter()
    found = function(*case)
    seconds[function.__name__] += time.perf_counter() - start
    return found


def record(path, count=12):
    arrays, rows = {}, []
    for index, case in enumerate(random_shapes(count, (10, 19), seed=1)):
        prediction, reference, spacing, tolerance = case
        arrays[f"masks_{index}"] = np.packbits(np.stack([prediction, reference]))
        values = [function(*case)[name] for name, functions in SHARED.items() for function in functions]
        rows.append([*prediction.shape, *spacing, tolerance, *values])
    columns = ["z", "y", "x", "spacing_z", "spacing_y", "spacing_x", "tolerance"]
    columns += [f"{name} {function.__name__}" for name, functions in SHARED.items() for function in functions]
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, values=np.array(rows), columns=np.array(columns), **arrays)


if __name__ == "__main__":
    main()
