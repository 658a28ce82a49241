import locale
import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real datasets; tests that need it skip with a reason where there is none."""
    folder = os.environ.get("SEGPLAN_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("SEGPLAN_TEST_DATA names no folder of real datasets")
    return Path(folder)


@pytest.fixture(autouse=True)
def _locale_kept():
    """Writing DICOM with ITK, as some tests do, sets the process's locale to C; others must not see that."""
    before = locale.setlocale(locale.LC_CTYPE)
    yield
    locale.setlocale(locale.LC_CTYPE, before)
