"""The configs are found from another folder in a checkout, an editable install and a wheel."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def plan_config(python_path: Path, cwd: Path, script: list[str]) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "SEGPLAN_WORKSPACE"}
    environment["PYTHONPATH"] = str(python_path)
    command = [sys.executable, *script, "dataset=x y", "--cfg", "job"]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_checkout_works_from_another_folder(tmp_path):
    text = plan_config(tmp_path, tmp_path, [str(ROOT / "plan.py")])
    assert "dataset: x y" in text
    assert f"workspace: {tmp_path}/workspace" in text


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "-w",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return next(out.glob("*.whl"))


def test_wheel_works_from_another_folder(wheel, tmp_path):
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "segplan" / "configs" / "train.yaml").is_file()
    assert (site / "segplan" / "py.typed").is_file()
    text = plan_config(
        site, tmp_path, ["-c", "import sys; from segplan.cli import main; sys.exit(main(['plan', *sys.argv[1:]]))"]
    )
    assert "dataset: x y" in text
    found = subprocess.run(
        [sys.executable, "-c", "from segplan.entry.locations import configs_folder; print(configs_folder())"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert Path(found.stdout.strip()) == site / "segplan" / "configs"


def test_editable_install_works_from_another_folder(tmp_path):
    target = tmp_path / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-build-isolation",
        "--quiet",
        "--target",
        str(target),
        "-e",
        str(ROOT),
    ]
    subprocess.run(command, check=True, capture_output=True)
    # The package can only come from the .pth file that the installation wrote.
    start = "import site, sys; site.addsitedir(sys.argv.pop(1)); from segplan.cli import main; "
    start += "sys.exit(main(['plan', *sys.argv[1:]]))"
    text = plan_config(tmp_path, tmp_path, ["-c", start, str(target)])
    assert "dataset: x y" in text
