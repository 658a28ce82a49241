"""The documentation builds without a warning, and its commands do what they say."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from doc_commands import ROOT, commands, pages, runnable
from small_dataset import make_dataset

NAME = "Dataset042_Liver"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    here = Path(sys.executable).parent
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
    }
    environment.pop("SEGPLAN_WORKSPACE", None)
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_some_pages_have_commands_to_run():
    names = {page.name for page in pages()}
    assert {"dashboards.md", "search.md", "overrides.md", "experiments.md", "reproducibility.md"} <= names


def test_a_command_gets_a_budget_only_where_it_trains():
    assert runnable("segplan doctor") == "python -m segplan.cli doctor"
    assert "trainer.max_epochs=1" in runnable("python train.py plan=A/2d")
    assert "max_epochs" not in runnable("python plan.py dataset=A")


def test_every_command_of_the_migration_guide_exists():
    """The right column names jobs and scripts that there are."""
    from segplan.cli import job_names

    text = (ROOT / "docs" / "from_nnunet.md").read_text()
    named = set(re.findall(r"`segplan ([a-z-]+)", text))
    assert named
    assert named <= set(job_names())


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_links_to_other_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([a-z_]+\.md)[#)]", page.read_text()):
        assert (page.parent / target).is_file(), target


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path):
    pytest.importorskip("mkdocs", reason="needs segplan[docs]")
    done = shell(
        f"{shlex.quote(sys.executable)} -m mkdocs build --strict -q -f {ROOT / 'mkdocs.yml'} -d {tmp_path}", ROOT
    )
    assert done.returncode == 0, done.stderr
    assert "GuardedLogger" in (tmp_path / "reference" / "dashboards" / "index.html").read_text()
    assert "segplan doctor" in (tmp_path / "reference" / "commands" / "index.html").read_text()


@pytest.fixture(scope="module")
def user(tmp_path_factory):
    """A folder with a dataset that is planned, and a fold that is trained: what tutorials assume."""
    folder = tmp_path_factory.mktemp("user")
    make_dataset(folder / NAME, cases=6, shape=(18, 20, 22))
    for part in ("images", "labels"):
        shutil.copytree(folder / NAME / f"{part}Tr", folder / f"{part}Ts")
    for command in (f"python plan.py dataset={NAME} num_workers=0", f"python train.py plan={NAME}/3d_fullres fold=0"):
        done = shell(runnable(command), folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_the_commands_of_a_page_run(user, page):
    for command in commands(page):
        done = shell(runnable(command), user)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
