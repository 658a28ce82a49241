"""nnU-Net 2.8.1 in a virtual environment of its own, made on first use, and the folders that its commands want.

Run as a program it only makes or mends the environment: `python benchmarks/reference_environment.py`.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measure import REPOSITORY, BenchmarkFailed, core_count, neutral_environment

EXIT_NO_REFERENCE = 3

TORCH = "torch==2.13.0"
NNUNET = "nnunetv2==2.8.1"

# nnU-Net needs timm, timm needs torchvision, and torchvision brings a torch of its own. The last line puts the wanted
# torch back; torchvision then lacks its compiled operators, which `mend_torchvision` makes bearable.
INSTALLATION = (
    (TORCH,),
    (NNUNET,),
    ("--no-deps", "--force-reinstall", TORCH),
)

MEND_MARK = "# disabled by segplan's benchmarks: the compiled operators are not there"


class ReferenceUnavailable(Exception):
    """nnU-Net cannot be installed or does not run here."""


@dataclass(frozen=True)
class Reference:
    """An environment in which nnU-Net runs."""

    venv: Path

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    def command(self, name: str) -> Path:
        """Path of one of nnU-Net's console commands."""
        return self.venv / "bin" / name


@dataclass(frozen=True)
class ReferenceFolders:
    """The three folders of nnU-Net's environment variables, in one root."""

    root: Path

    @property
    def preprocessed(self) -> Path:
        return self.root / "preprocessed"

    @property
    def results(self) -> Path:
        return self.root / "results"

    def hold(self, dataset: Path) -> None:
        """Make the folders and show nnU-Net a raw dataset, which stays where it is."""
        for name in ("raw", "preprocessed", "results"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        link = self.root / "raw" / dataset.name
        if not link.exists():
            link.symlink_to(dataset.resolve(), target_is_directory=True)

    def environment(self, **extra: str) -> dict[str, str]:
        """Environment of a command, with as many processes as cores wherever nnU-Net asks for a number."""
        return neutral_environment(
            nnUNet_raw=str(self.root / "raw"),
            nnUNet_preprocessed=str(self.preprocessed),
            nnUNet_results=str(self.results),
            nnUNet_def_n_proc=str(core_count()),
            **extra,
        )


def planning_command(reference: Reference, dataset: Path, configurations: list[str]) -> list[str]:
    """nnU-Net's verification, fingerprint, planning and preprocessing of one dataset, with a process a core."""
    number = dataset.name.removeprefix("Dataset")[:3]
    cores = str(core_count())
    command = [str(reference.command("nnUNetv2_plan_and_preprocess")), "-d", str(int(number))]
    command += ["--verify_dataset_integrity", "-c", *configurations, "-npfp", cores, "-np", cores]
    return command


def add_reference_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of every benchmark that runs nnU-Net."""
    parser.add_argument(
        "--reference", type=Path, default=REPOSITORY / ".venv-reference", help="nnU-Net's virtual environment"
    )
    parser.add_argument(
        "--no-install", action="store_true", help="leave with 3 where that environment is not there, do not make it"
    )


def ensure_reference(venv: Path, install: bool) -> Reference:
    """The environment, made or mended where needed; done in seconds where nothing is to do.

    Raises:
        ReferenceUnavailable: it cannot be made, or nnU-Net does not start in it.
    """
    reference = Reference(venv.absolute())
    if not _has_versions(reference):
        if not install:
            raise ReferenceUnavailable(f"{venv} does not hold {NNUNET} with {TORCH}")
        _install(reference)
    if not _starts(reference, "import timm"):
        mend_torchvision(reference)
    if not _starts(reference, "import nnunetv2.run.run_training"):
        raise ReferenceUnavailable(f"nnU-Net is installed in {venv} but its import fails")
    return reference


def run_benchmark(body: Callable[[argparse.Namespace], int], arguments: argparse.Namespace) -> int:
    """Run a benchmark's body and turn what may go wrong into an exit code: 3 without nnU-Net, 1 for a failed run."""
    try:
        return body(arguments)
    except ReferenceUnavailable as error:
        print(f"nnU-Net is not available, so nothing is compared: {error}", file=sys.stderr)
        return EXIT_NO_REFERENCE
    except BenchmarkFailed as error:
        print(error, file=sys.stderr)
        return 1


def mend_torchvision(reference: Reference) -> None:
    """Let torchvision be imported without its compiled operators, which nnU-Net never calls.

    Its file of operator shapes registers each operator while it is imported; the registrations are taken out.
    """
    for path in reference.venv.glob("lib*/python*/site-packages/torchvision/_meta_registrations.py"):
        lines = path.read_text().splitlines()
        if any(MEND_MARK in line for line in lines):
            continue
        mended: list[str] = []
        for line in lines:
            if line.startswith("@torch.library.register_fake("):
                mended.append(f"# {line}  {MEND_MARK}")
                continue
            mended.append(line)
            if line.startswith("def register_meta("):
                mended.append(f"    return lambda function: function  {MEND_MARK}")
        temporary = path.with_suffix(".mended")
        temporary.write_text("\n".join(mended) + "\n")
        temporary.replace(path)


def _has_versions(reference: Reference) -> bool:
    wanted = [requirement.split("==") for requirement in (TORCH, NNUNET)]
    tests = " and ".join(f"version({name!r}).split('+')[0] == {number!r}" for name, number in wanted)
    return _starts(reference, f"from importlib.metadata import version; assert {tests}")


def _starts(reference: Reference, statement: str) -> bool:
    """Whether a statement runs without error in the environment."""
    if not reference.python.exists():
        return False
    done = subprocess.run(
        [reference.python, "-c", statement], check=False, capture_output=True, env=neutral_environment()
    )
    return done.returncode == 0


def _install(reference: Reference) -> None:
    print(f"installing {NNUNET} into {reference.venv}: several minutes and some gigabytes, once", flush=True)
    _call([sys.executable, "-m", "venv", str(reference.venv)])
    for requirements in INSTALLATION:
        _call([str(reference.python), "-m", "pip", "install", "--quiet", *requirements])


def _call(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    except OSError as error:
        raise ReferenceUnavailable(f"{command[0]}: {error.strerror}") from error
    if done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise ReferenceUnavailable(f"{' '.join(command[1:])}: {last[0]}")


def _body(arguments: argparse.Namespace) -> int:
    reference = ensure_reference(arguments.reference, install=not arguments.no_install)
    print(f"{NNUNET} is ready in {reference.venv}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Make or mend the virtual environment that nnU-Net runs in.")
    add_reference_arguments(parser)
    return run_benchmark(_body, parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
