"""Temporary files of killed writers are cleared away, those of writers at work are not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from segplan.imaging import atomic_write, remove_leftovers

FILE_WRITER = """
import sys, time
from pathlib import Path
from segplan.imaging import atomic_write
with atomic_write(Path(sys.argv[1]) / "a.json") as temporary:
    temporary.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""

FOLDER_WRITER = """
import sys, time
from pathlib import Path
from segplan.imaging import atomic_folder
with atomic_folder(Path(sys.argv[1]) / "model") as temporary:
    (temporary / "a.json").write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def names(folder):
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("program", [FILE_WRITER, FOLDER_WRITER], ids=["file", "folder"])
def test_what_a_killed_writer_left_goes_at_once_and_a_living_ones_stays(tmp_path, program):
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    assert remove_leftovers(tmp_path) == 0
    assert len(names(tmp_path)) == 1
    os.kill(writer.pid, signal.SIGKILL)
    give_up_at = time.monotonic() + 10
    while len(names(tmp_path)) and time.monotonic() < give_up_at:  # a zombie, until it is waited for, is dead too
        remove_leftovers(tmp_path)
    assert names(tmp_path) == []
    writer.communicate()


def test_a_file_of_another_machine_goes_only_when_it_is_old(tmp_path):
    foreign = tmp_path / ".tmp-00000000.1.abcdef-a.json"
    foreign.write_text("half")
    assert remove_leftovers(tmp_path) == 0
    hour_ago = time.time() - 3601
    os.utime(foreign, (hour_ago, hour_ago))
    assert remove_leftovers(tmp_path) == 1
    assert names(tmp_path) == []


def test_other_files_stay_and_no_folder_is_no_error(tmp_path):
    with atomic_write(tmp_path / "a.json") as temporary:
        temporary.write_text("{}")
    assert remove_leftovers(tmp_path, older_than_s=-1) == 0
    assert names(tmp_path) == ["a.json"]
    assert remove_leftovers(tmp_path / "none") == 0
