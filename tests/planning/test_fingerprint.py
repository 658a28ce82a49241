"""The fingerprint against direct numpy computations on pooled voxels, its memory, and its file."""

import json
import math
import pickle
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plan_fixtures import fixtures

from segplan.errors import DatasetError, WorkerError
from segplan.planning import (
    CaseFingerprint,
    Fingerprint,
    FingerprintAccumulator,
    combine,
    fingerprint_case,
    fingerprint_from_json,
    read_fingerprint,
    write_fingerprint,
)
from segplan.planning.histogram import Histogram, WeightedHistogram, histogram
from segplan.preprocessing import run_parallel

PERCENTS = (0.5, 50, 99.5)
SHAPE = (6, 9, 8)
FULL = ((0, 6), (0, 9), (0, 8))


def _case(voxels: np.ndarray, shape: tuple[int, int, int] = SHAPE) -> CaseFingerprint:
    """A case whose foreground in one channel is `voxels`."""
    image = np.full((1, *shape), 7777.0, np.float32)
    image.reshape(-1)[: len(voxels)] = voxels
    foreground = np.zeros(shape, bool)
    foreground.reshape(-1)[: len(voxels)] = True
    return fingerprint_case(image, (3.0, 1.0, 1.0), foreground, tuple((0, n) for n in shape))


def _pooled(cases: list[np.ndarray]) -> np.ndarray:
    """The equal-weight mixture: each case repeated until all have the same number of voxels."""
    common = math.lcm(*(len(case) for case in cases))
    return np.concatenate([np.repeat(case, common // len(case)) for case in cases]).astype(np.float64)


@pytest.mark.parametrize("low", [0, -1024])
def test_integer_intensities_give_numpys_statistics_of_the_pooled_cases(low: int) -> None:
    rng = np.random.default_rng(0)
    cases = [rng.integers(low, 16384 if low == 0 else 3071, size).astype(np.float32) for size in (50, 400, 100, 320)]
    entry = combine(_case(case) for case in cases).intensities[0]
    pooled = _pooled(cases)
    assert [entry.min, entry.max] == [pooled.min(), pooled.max()]
    assert [entry.mean, entry.std] == pytest.approx([pooled.mean(), pooled.std()], rel=1e-12)
    found = [entry.percentile_00_5, entry.median, entry.percentile_99_5]
    assert found == pytest.approx(np.percentile(pooled, PERCENTS).tolist(), rel=1e-12)


def test_real_intensities_are_within_the_bins_resolution_of_numpys_percentiles() -> None:
    rng = np.random.default_rng(1)
    cases = [rng.normal(-5, 100, size).astype(np.float32) for size in (30_000, 60_000)]
    entry = combine(_case(case, (40, 40, 40)) for case in cases).intensities[0]
    expected = np.percentile(_pooled(cases), PERCENTS)
    assert [entry.percentile_00_5, entry.median, entry.percentile_99_5] == pytest.approx(expected.tolist(), rel=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_percentiles_lie_in_the_bins_of_the_order_statistics(values: list[float]) -> None:
    data = np.array(values, np.float32)
    mixture = WeightedHistogram()
    mixture.add(histogram(data))
    for percent in PERCENTS:
        found = mixture.percentiles([percent], float(data.min()), float(data.max()))[0]
        below = np.percentile(data.astype(np.float64), percent, method="inverted_cdf")
        above = np.percentile(data.astype(np.float64), percent, method="higher")
        tolerance = 2.0**-12 * max(abs(below), abs(above)) + 1e-40
        assert below - tolerance <= found <= above + tolerance


def test_large_cases_are_counted_piece_by_piece_with_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(2).integers(-50, 50, 1000).astype(np.float32)
    whole = histogram(values)
    monkeypatch.setattr("segplan.planning.histogram._CHUNK", 64)
    pieces = histogram(values)
    assert np.array_equal(whole.keys, pieces.keys)
    assert np.array_equal(whole.counts, pieces.counts)
    assert whole.counts.sum() == 1000


def test_each_case_weighs_the_same_whatever_its_foreground() -> None:
    entry = combine([_case(np.full(400, 10.0)), _case(np.full(4, 20.0)), _case(np.full(40, 30.0))]).intensities[0]
    assert entry.mean == pytest.approx(20)
    assert entry.median == 20
    assert entry.std == pytest.approx(np.std([10, 20, 30]))


def test_voxels_outside_the_box_count_neither_as_size_nor_as_foreground() -> None:
    image = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(1, *SHAPE)
    box = ((1, 5), (2, 9), (0, 4))
    case = fingerprint_case(image, (1, 1, 1), np.ones(SHAPE, bool), box, "a")
    inside = image[0, 1:5, 2:9, 0:4]
    assert case.shape_after_crop == inside.shape
    assert case.relative_size == pytest.approx(inside.size / image.size)
    assert (case.channels[0].min, case.channels[0].max) == (inside.min(), inside.max())
    assert case.channels[0].mean == pytest.approx(inside.mean())


def test_case_without_foreground_counts_for_the_sizes_only() -> None:
    empty = fingerprint_case(
        np.ones((1, 2, 3, 4), np.float32), (9, 1, 1), np.zeros((2, 3, 4), bool), ((0, 2), (0, 3), (0, 4))
    )
    with_it = combine([_case(np.arange(5.0)), empty])
    assert with_it.intensities == combine([_case(np.arange(5.0))]).intensities
    assert with_it.shapes_after_crop == (SHAPE, (2, 3, 4))


def test_dataset_without_any_foreground_is_refused() -> None:
    with pytest.raises(DatasetError, match="none of the 1 label maps has foreground"):
        combine([_case(np.empty(0))])
    with pytest.raises(DatasetError, match="no training case"):
        combine([])


def test_cases_with_other_channels_are_refused() -> None:
    two = fingerprint_case(np.ones((2, *SHAPE), np.float32), (1, 1, 1), np.ones(SHAPE, bool), FULL, "case_b")
    with pytest.raises(DatasetError, match="case_b"):
        combine([_case(np.arange(5.0)), two])


def test_record_of_a_case_is_small() -> None:
    rng = np.random.default_rng(3)
    image = rng.normal(300, 100, (1, 36, 50, 35)).astype(np.float32)
    foreground = np.zeros(image.shape[1:], bool)
    foreground[10:25, 15:35, 8:25] = True
    case = fingerprint_case(image, (1, 1, 1), foreground, ((0, 36), (0, 50), (0, 35)))
    assert len(pickle.dumps(case)) < 64_000


def _synthetic(count: int) -> Iterator[CaseFingerprint]:
    rng = np.random.default_rng(4)
    for _ in range(count):
        yield _case(rng.integers(-1000, 1000, 300).astype(np.float32))


def test_ten_thousand_cases_take_no_more_than_a_few_numbers_each() -> None:
    template = _case(np.random.default_rng(5).integers(-1000, 1000, 300).astype(np.float32))
    records = template.channels[0]
    held = {}
    for count in (5000, 10_000):
        tracemalloc.start()
        accumulator = FingerprintAccumulator()
        for index in range(count):
            # Arrays of its own for each, as a worker would send them: only the accumulator could keep them alive.
            counted = Histogram(records.histogram.keys.copy(), records.histogram.counts.copy(), True)
            record = replace(records, histogram=counted)
            accumulator.add(replace(template, identifier=f"case_{index:05d}", labels=(1, 2), channels=(record,)))
        result = accumulator.result()
        held[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(result.spacings) == len(result.case_labels) == count
    per_case = (held[10_000] - held[5000]) / 5000
    assert per_case < 700 < records.histogram.keys.nbytes, "a kept histogram would show"


def test_the_order_in_which_workers_finish_does_not_change_a_bit() -> None:
    rng = np.random.default_rng(6)
    cases = [_case(rng.normal(rng.uniform(-50, 50), 30, rng.integers(1, 400)).astype(np.float32)) for _ in range(60)]
    named = [replace(case, identifier=f"c{index}", labels=(index + 1,)) for index, case in enumerate(cases)]
    expected = combine(named)
    for seed in range(3):
        accumulator = FingerprintAccumulator()
        for index in np.random.default_rng(seed).permutation(len(named)):
            accumulator.add(named[index], int(index))
        assert accumulator.result() == expected


def test_workers_send_records_that_combine_to_the_same_whatever_their_number() -> None:
    single, several = (
        [result for _, result in sorted(run_parallel(_measured, range(40), workers), key=lambda pair: pair[0])]
        for workers in (0, 2)
    )
    assert all(isinstance(result, CaseFingerprint) for result in several if not isinstance(result, WorkerError))
    bad = [index for index, result in enumerate(several) if isinstance(result, WorkerError)]
    assert bad == [17]
    good = [index for index in range(40) if index not in bad]
    assert combine(several[index] for index in good) == combine(single[index] for index in good)


def _measured(index: int) -> CaseFingerprint:
    if index == 17:
        raise ValueError("this case cannot be read")
    return _case(np.random.default_rng(index).integers(0, 500, 50 + index).astype(np.float32))


def test_memory_does_not_grow_with_the_number_of_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    # A low limit makes the merging happen in this small test as it does in a large dataset.
    monkeypatch.setattr("segplan.planning.histogram._PENDING_LIMIT", 20_000)
    peaks = {}
    for count in (200, 2000):
        tracemalloc.start()
        combine(_synthetic(count))
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    per_case = 500  # spacing, shape and name, in bytes
    assert peaks[2000] < peaks[200] * 1.2 + 1800 * per_case


def test_file_has_nnunets_keys_and_reads_back(tmp_path: Path) -> None:
    cases = [_case(np.arange(1.0, 9.0)), _case(np.arange(3.0, 300.0))]
    named = [
        CaseFingerprint(c.spacing, c.shape_after_crop, c.relative_size, c.channels, f"fall_ü{i}", (1, 3)[: i + 1])
        for i, c in enumerate(cases)
    ]
    fingerprint = combine(named, source_hash="abc")
    path = tmp_path / "new folder" / "dataset_fingerprint.json"
    write_fingerprint(path, fingerprint)
    data = json.loads(path.read_text(encoding="utf-8"))
    assert set(data) == {*fixtures()["Prostate"]["fingerprint"], "segplan"}
    assert set(data["foreground_intensity_properties_per_channel"]["0"]) == set(
        fixtures()["Prostate"]["fingerprint"]["foreground_intensity_properties_per_channel"]["0"]
    )
    assert data["segplan"]["case_ids"] == ["fall_ü0", "fall_ü1"]
    assert data["segplan"]["case_labels"] == [[1], [1, 3]]
    assert read_fingerprint(path) == fingerprint
    assert read_fingerprint(path).hash() == fingerprint.hash()


def test_nnunets_own_file_is_read(tmp_path: Path) -> None:
    theirs = fixtures()["BraTS"]["fingerprint"]
    path = tmp_path / "dataset_fingerprint.json"
    path.write_text(json.dumps(theirs), encoding="utf-8")
    fingerprint = read_fingerprint(path)
    assert fingerprint.to_nnunet() == theirs
    assert fingerprint.source_hash is None


def test_hash_changes_with_any_value() -> None:
    fingerprint = combine([_case(np.arange(5.0))])
    other = combine([_case(np.arange(6.0))])
    assert fingerprint.hash() != other.hash()
    assert len(fingerprint.hash()) == 16


def _without(key: str) -> dict:
    return {name: value for name, value in fixtures()["Prostate"]["fingerprint"].items() if name != key}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (_without("spacings"), "lacks the key 'spacings'"),
        (_without("spacings") | {"spacings": [[1, 1]]}, "no fingerprint"),
        (_without("spacings") | {"spacings": [[1, 1, 1]]}, "1 spacings and 32 shapes"),
        (_without("spacings") | {"spacings": [[0, 1, 1]] * 32}, "not positive"),
        (_without("shapes_after_crop") | {"shapes_after_crop": [[0, 1, 1]] * 32}, "without voxels"),
        ([], "no fingerprint"),
    ],
)
def test_broken_fingerprint_is_refused_with_its_path(tmp_path: Path, data: object, message: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(DatasetError, match=message) as error:
        read_fingerprint(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [None, "{"])
def test_missing_or_truncated_file_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "broken.json"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"broken\.json"):
        read_fingerprint(path)


def test_fingerprint_without_intensities_serves_to_plan() -> None:
    data = _without("foreground_intensity_properties_per_channel")
    assert isinstance(fingerprint_from_json(data), Fingerprint)
    assert fingerprint_from_json(data).intensities == ()
