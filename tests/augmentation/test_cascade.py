import numpy as np
import pytest
import torch
from scipy import ndimage

from segplan.augmentation import CascadeMorphology, CascadeRemoveComponent, Context
from segplan.augmentation.cascade import ComponentParams, MorphologyParams, morphology

CONTEXT = Context(1, (16, 16, 16), previous_labels=(1, 2, 3))


def two_label_maps(shape=(16, 17, 15)):
    rng = np.random.default_rng(0)
    previous = ndimage.zoom(rng.integers(0, 4, (4, 4, 4)), [size / 4 for size in shape], order=0)
    target = rng.integers(-1, 4, shape)
    return torch.tensor(np.stack([target, previous]), dtype=torch.int16)


def ball(radius, dimensions=3):
    reach = int(radius)
    grid = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * dimensions, indexing="ij"))
    return (grid**2).sum(0) <= radius**2


@pytest.mark.parametrize("radius", [1.0, 2.3, 5.0])
@pytest.mark.parametrize("shape", [(14, 12, 16), (20, 18)])
@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        ("dilate", ndimage.binary_dilation),
        ("erode", lambda mask, element: ndimage.binary_erosion(mask, element, border_value=1)),
        (
            "close",
            lambda mask, element: ndimage.binary_erosion(
                ndimage.binary_dilation(mask, element), element, border_value=1
            ),
        ),
        (
            "open",
            lambda mask, element: ndimage.binary_dilation(
                ndimage.binary_erosion(mask, element, border_value=1), element
            ),
        ),
    ],
)
def test_morphology_equals_scipys_with_a_ball(operation, expected, shape, radius):
    mask = ndimage.gaussian_filter(np.random.default_rng(1).standard_normal(shape), 2) > 0.02
    result = morphology(torch.from_numpy(mask), operation, radius).numpy()
    np.testing.assert_array_equal(result, expected(mask, ball(radius, len(shape))))
    assert not np.array_equal(result, mask)


def one_hot(previous):
    return torch.stack([previous == label for label in (1, 2, 3)])


def test_label_map_changes_as_one_mask_a_label_would():
    labels = two_label_maps()
    steps = ((2, "dilate", 2.0), (1, "erode", 1.5), (3, "dilate", 1.0), (1, "close", 3.0))
    masks = one_hot(labels[1])
    for label, operation, radius in steps:
        before = masks[label - 1].clone()
        masks[label - 1] = morphology(before, operation, radius)
        added = masks[label - 1] & ~before
        masks[[other for other in range(3) if other != label - 1]] &= ~added
    image = torch.zeros(1, 16, 17, 15)
    _, damaged = CascadeMorphology().apply(image, labels.clone(), MorphologyParams(steps))
    assert torch.equal(one_hot(damaged[1]), masks)
    assert torch.equal(damaged[0], labels[0])


def test_one_small_component_goes_and_large_ones_stay():
    labels = torch.zeros(2, 20, 20, 20, dtype=torch.int16)
    labels[1, :12, :12, :12] = 1  # 21.6 % of the patch
    labels[1, 15:17, 15:17, 15:17] = 1
    labels[1, 17, 17, 17] = 1  # touches at the corner: the same component
    labels[1, 15, 0, 0] = 2
    _, left = CascadeRemoveComponent().apply(labels[:1].float(), labels.clone(), ComponentParams((1, 3), seed=0))
    assert int((left[1] == 1).sum()) == 12**3
    assert int((left[1] == 2).sum()) == 1
    assert torch.equal(left[0], labels[0])


def test_components_are_removed_one_at_a_time_and_each_may_be_the_one():
    labels = torch.zeros(2, 9, 9, 9, dtype=torch.int16)
    labels[1, ::4, ::4, ::4] = 1
    lost = set()
    for seed in range(60):
        params = ComponentParams((1,), seed)
        _, left = CascadeRemoveComponent().apply(labels[:1].float(), labels.clone(), params)
        again = CascadeRemoveComponent().apply(labels[:1].float(), labels.clone(), params)[1]
        assert torch.equal(left, again)
        gone = (labels[1] - left[1]).nonzero().tolist()
        assert len(gone) == 1
        lost.add(tuple(gone[0]))
    assert len(lost) > 15


@pytest.mark.parametrize(("transform", "share"), [(CascadeMorphology(), 0.4), (CascadeRemoveComponent(), 0.2)])
def test_transform_acts_only_in_cascades_and_with_its_probability(transform, share):
    rng = np.random.default_rng(0)
    assert not any(transform.sample(rng, Context(1, (16, 16, 16))) for _ in range(50))
    drawn = [transform.sample(rng, CONTEXT) for _ in range(3000)]
    chosen = share * (1 - 0.5**3)  # some label
    assert sum(params is not None for params in drawn) / 3000 == pytest.approx(chosen, abs=0.03)


def test_operations_and_radii_are_drawn_over_their_range_and_labels_in_any_order():
    rng = np.random.default_rng(0)
    drawn = [CascadeMorphology(1, 1).sample(rng, CONTEXT).steps for _ in range(400)]
    operations = [operation for steps in drawn for _, operation, _ in steps]
    assert {name: operations.count(name) / 1200 for name in set(operations)} == pytest.approx(
        dict.fromkeys(("dilate", "erode", "close", "open"), 0.25), abs=0.05
    )
    radii = [radius for steps in drawn for _, _, radius in steps]
    assert (min(radii), max(radii)) == (pytest.approx(1, abs=0.05), pytest.approx(8, abs=0.05))
    assert len({tuple(label for label, _, _ in steps) for steps in drawn}) == 6
