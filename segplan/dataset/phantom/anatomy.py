"""The phantom's anatomy: which structures there are, how big, and where they lie in one body.

Organs keep no fixed place: they are packed into the abdominal cavity at random, so that position tells little about
the class, and left and right are as likely as each other. What tells the classes apart is how they are built
(see `paint`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from segplan.dataset.phantom.shapes import Blob, make_blob

LABELS = {"background": 0, "liver": 1, "spleen": 2, "kidney": 3, "stomach": 4, "lesion": 5}

BODY_HALF_AXES = (56.0, 74.0)
"""Half-axes in mm (y, x) of the trunk's cross-section before a case's own scale; the trunk runs through all slices."""
CAVITY = 0.9
"""Share of the body's radius inside the muscle wall."""
HALF_HEIGHT = 52.0
"""Structures are packed within this many mm above and below the middle slice."""
SPINE = (0.0, 40.0, 0.0)
SPINE_RADIUS = 9.0


@dataclass(frozen=True)
class OrganShape:
    """Ranges from which an organ's size and form are drawn: mean radius in mm, elongation, bend and ripple."""

    radius: tuple[float, float]
    elongation: tuple[float, float]
    bend: float
    ripple: float


ORGANS = {
    "liver": OrganShape((31, 34), (1.05, 1.3), 0.2, 0.14),
    "spleen": OrganShape((26, 29), (1.15, 1.45), 0.25, 0.06),
    "kidney": OrganShape((26, 29), (1.15, 1.45), 0.4, 0.0),
    "stomach": OrganShape((26, 29), (1.15, 1.45), 0.3, 0.08),
}
LESION_RADIUS = (12.5, 15.5)
FLAT_SCALE = 0.66
"""A plane has less room than a volume: organs of 2D pictures are smaller by this factor."""


@dataclass(frozen=True)
class Anatomy:
    """One body: its organs by name, the lesions, bowel loops with their brightness, and the bones and vessels."""

    organs: dict[str, Blob]
    lesions: tuple[Blob, ...]
    bowel: tuple[tuple[Blob, float], ...]
    bones: tuple[Blob, ...]
    vessels: tuple[Blob, ...]
    outline: tuple[float, ...]  # phases of the outline's waves, radians


def draw_anatomy(rng: np.random.Generator, flat: bool) -> Anatomy:
    """Draw one body's anatomy.

    Args:
        rng: the case's random stream.
        flat: for a 2D picture: everything is centred in the picture's plane.
    """
    organs = max((_draw_organs(rng, flat) for _ in range(12)), key=_narrowest_gap)
    lesions = _draw_lesions(rng, organs, flat)
    bowel: list[tuple[Blob, float]] = []
    for _ in range(int(rng.integers(8, 12)) if flat else int(rng.integers(13, 18))):
        taken = [*organs.values(), *(loop for loop, _ in bowel)]
        loop = _draw_organ(rng, OrganShape((9, 14), (1.0, 1.8), 0.4, 0.1), taken, flat)
        bowel.append((loop, float(rng.choice((rng.uniform(-0.05, 0.25), rng.uniform(0.75, 1.05))))))
    outline = tuple(rng.uniform(0, 2 * np.pi, 3).tolist())
    return Anatomy(organs, lesions, tuple(bowel), _draw_bones(rng, flat), _draw_vessels(rng, flat), outline)


def _draw_organs(rng: np.random.Generator, flat: bool) -> dict[str, Blob]:
    """The organs, packed one after another: the liver first, the others in random order."""
    organs: dict[str, Blob] = {}
    for name in ("liver", *rng.permutation(["spleen", "kidney", "stomach"]).tolist()):
        organs[name] = _draw_organ(rng, ORGANS[name], list(organs.values()), flat)
    return organs


def _narrowest_gap(organs: Mapping[str, Blob]) -> float:
    """Gap in mm between the two organs that are closest, as if they were balls; negative where they overlap."""
    return min(
        float(np.linalg.norm(np.subtract(one.centre, other.centre))) - one.mean_radius - other.mean_radius
        for one, other in combinations(organs.values(), 2)
    )


def _draw_organ(rng: np.random.Generator, shape: OrganShape, taken: Sequence[Blob], flat: bool) -> Blob:
    """An organ of the given shape where it overlaps least with what is there already."""
    radius, stretch = rng.uniform(*shape.radius) * (FLAT_SCALE if flat else 1.0), rng.uniform(*shape.elongation)
    short = radius / np.sqrt(stretch)
    axes = (float(short * rng.uniform(0.9, 1.1)), float(short), float(radius * stretch))
    centre = _free_place(rng, radius * (1 + 0.3 * (stretch - 1)), taken, flat)
    return make_blob(rng, centre, axes, flat, bend=float(rng.uniform(-1, 1)) * shape.bend, ripple=shape.ripple)


def _free_place(
    rng: np.random.Generator, radius: float, taken: Sequence[Blob], flat: bool, tries: int = 200
) -> tuple[float, float, float]:
    """The first of `tries` random places in the cavity that is free, else the one with the least overlap."""
    limits = np.array([0.0 if flat else HALF_HEIGHT, BODY_HALF_AXES[0] * CAVITY, BODY_HALF_AXES[1] * CAVITY])
    room = np.maximum(limits - radius, [0.0 if flat else 2.0, 2.0, 2.0])
    places = rng.uniform(-1, 1, (tries, 3))
    if not taken:  # the first organ is the largest: always central, it would be found by its place alone
        places = np.sign(places) * (0.6 + 0.4 * np.abs(places))
    places *= room
    gaps = np.hypot(places[:, 1] - SPINE[1], places[:, 2] - SPINE[2]) - SPINE_RADIUS - radius
    wall = 1 - np.hypot(places[:, 1] / limits[1], places[:, 2] / limits[2])
    gaps = np.minimum(gaps, wall * limits[1:].mean() - radius)
    for blob in taken:
        distance = np.linalg.norm(places - np.asarray(blob.centre), axis=1)
        gaps = np.minimum(gaps, distance - radius - blob.thickness * 1.05)
    free = np.flatnonzero(gaps > 0)
    z, y, x = places[free[0] if free.size else int(np.argmax(gaps))].tolist()
    return (z, y, x)


def _draw_lesions(rng: np.random.Generator, organs: Mapping[str, Blob], flat: bool) -> tuple[Blob, ...]:
    """Nearly round lesions off their hosts' centres: two in the liver, on opposite sides, and one in the spleen."""
    side = rng.normal(size=3)
    lesions = []
    for host, direction in ((organs["liver"], side), (organs["liver"], -side), (organs["spleen"], rng.normal(size=3))):
        offset = direction * (0.0 if flat else 1.0, 1.0, 1.0)
        offset *= rng.uniform(0.5, 0.65) / np.linalg.norm(offset) * np.asarray(host.axes)
        z, y, x = (host.centre + host.rotation.T @ offset).tolist()
        radius = rng.uniform(*LESION_RADIUS) * (0.75 * FLAT_SCALE if flat else 1.0)
        axes = tuple((radius * rng.uniform(0.9, 1.1, 3)).tolist())
        lesions.append(make_blob(rng, (z, y, x), (axes[0], axes[1], axes[2]), flat))
    return tuple(lesions)


def _draw_bones(rng: np.random.Generator, flat: bool) -> tuple[Blob, ...]:
    """The spine, a column through all slices, and ribs in the body wall."""
    upright = np.eye(3, dtype=np.float32)
    spine = Blob(SPINE, (400.0, SPINE_RADIUS * 0.9, SPINE_RADIUS), upright)
    ribs = []
    for angle in rng.uniform(0, 2 * np.pi, 5 if flat else 12):
        y, x = 0.93 * BODY_HALF_AXES[0] * np.sin(angle), 0.93 * BODY_HALF_AXES[1] * np.cos(angle)
        z = 0.0 if flat else float(rng.uniform(-60, 60))
        ribs.append(make_blob(rng, (z, float(y), float(x)), (4.0, 4.0, 11.0), flat))
    return (spine, *ribs)


def _draw_vessels(rng: np.random.Generator, flat: bool) -> tuple[Blob, ...]:
    """Tubes: two great vessels before the spine, along it, and smaller ones across the cavity."""
    upright = np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0]], np.float32)
    great = [Blob((0.0, 20.0, side * rng.uniform(7, 13)), (5.0, 5.0, 400.0), upright) for side in (-1, 1)]
    small = []
    for _ in range(3 if flat else 6):
        z, y, x = (rng.uniform(-0.6, 0.6, 3) * (0.0 if flat else 70.0, *BODY_HALF_AXES)).tolist()
        small.append(make_blob(rng, (z, y, x), (3.2, 3.2, 30.0), flat, bend=float(rng.uniform(-3, 3))))
    return (*great, *small)
