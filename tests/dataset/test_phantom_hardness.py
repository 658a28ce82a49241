"""The phantom must not be solvable voxel by voxel: neither by a histogram nor by gradient-boosted trees."""

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from segplan.dataset.phantom import KINDS, LABELS, PhantomCase, draw_case
from segplan.evaluation.voxel_classifier import best_weights, find_body, fit_voxel_classifier, relative_position

K = len(LABELS)
MOST_FOREGROUND_DICE = 0.50
MOST_LESION_DICE = 0.20
TRAINING, UNSEEN = range(40), range(1000, 1010)


def features(case: PhantomCase) -> np.ndarray:
    """Intensities, raw and by the body's mean and spread, and positions in image, body and mm: (voxels, features)."""
    body = find_body(case.image)
    columns = []
    for channel in case.image:
        inside = channel[body]
        columns += [channel, (channel - inside.mean()) / inside.std()]
    for axis in range(3):
        shape = [1, 1, 1]
        shape[axis] = -1
        extent = case.labels.shape[axis]
        positions = [relative_position(body, axis, frame) for frame in ("image", "body")]
        positions.append((np.arange(extent) - extent / 2) * case.spacing[axis])
        columns += [np.broadcast_to(position.reshape(shape), case.labels.shape) for position in positions]
    return np.stack([column.ravel() for column in columns], axis=1)


def sample(case: PhantomCase, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    chosen = rng.choice(case.labels.size, count, replace=False)
    return features(case)[chosen], case.labels.ravel()[chosen]


def dice(prediction: np.ndarray, reference: np.ndarray) -> list[float]:
    scores = []
    for label in range(1, K):
        p, r = prediction == label, reference == label
        scores.append(2 * np.sum(p & r) / (np.sum(p) + np.sum(r)) if r.any() else np.nan)
    return scores


@pytest.fixture(scope="module", params=KINDS)
def phantom(request):
    kind = request.param
    return [draw_case(kind, 0, index) for index in TRAINING], [draw_case(kind, 0, index) for index in UNSEEN]


def check(scores: list[list[float]]) -> None:
    means = np.nanmean(scores, axis=0)
    assert np.mean(means) < MOST_FOREGROUND_DICE, means
    assert means[LABELS["lesion"] - 1] < MOST_LESION_DICE, means
    assert np.mean(means) > 0.05, "a classifier that finds nothing proves nothing"


def test_histogram_of_intensity_and_position_stays_below_the_limits(phantom):
    training, unseen = phantom
    classifier = fit_voxel_classifier([(case.image, case.labels) for case in training], K)
    check([dice(classifier.predict(case.image), case.labels) for case in unseen])


@pytest.mark.parametrize(
    "phantom", [pytest.param(k, marks=[] if k == "ct" else pytest.mark.slow) for k in KINDS], indirect=True
)
def test_boosted_trees_on_intensity_and_position_stay_below_the_limits(phantom):
    training, unseen = phantom
    rng = np.random.default_rng(0)
    fit = [sample(case, 2000, rng) for case in training[:28]]
    tune = [sample(case, 4000, rng) for case in training[28:]]
    trees = HistGradientBoostingClassifier(max_iter=40, random_state=0)
    trees.fit(*map(np.concatenate, zip(*fit, strict=True)))
    x, y = map(np.concatenate, zip(*tune, strict=True))
    tuned, _ = best_weights(trees.predict_proba(x), np.eye(K)[y])
    balanced = 1 / np.bincount(y, minlength=K)
    unseen_samples = [sample(case, 12000, rng) for case in unseen]
    probabilities = [(trees.predict_proba(x), y) for x, y in unseen_samples]
    for weights in (np.ones(K), balanced, np.sqrt(balanced), tuned):
        scores = [dice(np.argmax(p * weights, axis=1), y) for p, y in probabilities]
        means = np.nanmean(scores, axis=0)
        assert np.mean(means) < MOST_FOREGROUND_DICE, means
        assert means[LABELS["lesion"] - 1] < MOST_LESION_DICE, means
    check(scores)
