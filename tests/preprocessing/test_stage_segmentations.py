import json

import numpy as np
import pytest

from segplan.errors import StoreError
from segplan.preprocessing import Maker, StageSegmentations

MAKER = Maker("Dataset001_A/3d_lowres", "default", "2", "abc")


def written(folder, labels, name="case"):
    segmentations = StageSegmentations(folder / "next")
    segmentations.write(name, labels, MAKER)
    return segmentations


@pytest.mark.parametrize(("highest", "kind"), [(127, np.int8), (128, np.int16)])
def test_a_segmentation_is_read_back_as_it_was_written(tmp_path, highest, kind):
    labels = np.random.default_rng(0).integers(0, highest, (3, 4, 5), endpoint=True).astype(np.uint16)
    labels[0, 0, 0] = highest
    segmentations = written(tmp_path, labels)
    found = segmentations.open("case")
    np.testing.assert_array_equal(found, labels)
    assert found.dtype == kind
    assert not found.flags.writeable
    assert segmentations.maker("case") == MAKER
    np.testing.assert_array_equal(np.load(tmp_path / "next" / "case.npy"), labels)


def test_what_is_not_whole_does_not_count(tmp_path):
    segmentations = written(tmp_path, np.ones((3, 4, 5), np.uint8))
    path = tmp_path / "next" / "case.npy"
    path.write_bytes(path.read_bytes()[:-1])
    assert segmentations.maker("case") is None
    assert segmentations.maker("other") is None
    (tmp_path / "next" / "case.json").write_text("{")
    assert segmentations.maker("case") is None
    with pytest.raises(StoreError, match="missing or damaged"):
        segmentations.open("case")


def test_another_format_is_refused(tmp_path):
    segmentations = written(tmp_path, np.ones((3, 4, 5), np.uint8))
    path = tmp_path / "next" / "case.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 7}))
    with pytest.raises(StoreError, match="format 7"):
        segmentations.open("case")
