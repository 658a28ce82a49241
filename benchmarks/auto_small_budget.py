"""One command from a raw dataset to a selected, exported model and a report; killed twice on the way.

    python benchmarks/auto_small_budget.py [--dataset FOLDER] [--workspace FOLDER] [--cases N] [KEY=VALUE …]

`segplan auto` is started on the first cases of the dataset (0: all), asked to stop (SIGTERM) once a first fold trains,
started again, killed (SIGKILL) in a later fold, and started again. Then every number of the report is compared with
scores counted here from the label maps, with SimpleITK and numpy alone. The budget is small: Dice is not the point.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from benchmark_data import add_dataset_argument, raw_dataset
from measure import REPOSITORY, print_machine

CONFIGURATIONS = ("2d", "3d_fullres")
SMALL = ("data.num_workers=0", "inference.mirror=false", "trainer.accelerator=cpu")
DEFAULTS = ("data.batch_size=2", "network.features=[4,8,8,8]")
POLL_SECONDS = 1.0


class Tables(HTMLParser):
    """The rows of the sortable tables by the heading above them: (heading of the run, values of the cells)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[tuple[str, list[str]]] = []
        self._title, self._in_title = "", False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note titles, rows and cells."""
        values = dict(attrs)
        if tag in ("summary", "h2"):
            self._title, self._in_title = "", True
        elif tag == "tr":
            self.rows.append((self._title, []))
        elif tag == "td" and "data-value" in values:
            self.rows[-1][1].append(values["data-value"] or "")

    def handle_endtag(self, tag: str) -> None:
        """A title ends."""
        if tag in ("summary", "h2"):
            self._in_title = False

    def handle_data(self, data: str) -> None:
        """A title's words."""
        if self._in_title:
            self._title += data


def body(arguments: argparse.Namespace, workspace: Path) -> int:
    """Run and compare; returns 0 if all numbers agree."""
    source = raw_dataset(arguments.dataset, workspace, phantom_cases=10)
    dataset = take_cases(source, workspace / "raw", arguments.cases)
    command = [sys.executable, "-m", "segplan.cli", "auto", str(dataset), f"budget={arguments.budget}", *SMALL]
    command += [f"configurations=[{','.join(CONFIGURATIONS)}]", f"workspace={workspace}", *arguments.overrides]
    print(" ".join(command), flush=True)
    runs = workspace / "runs" / dataset.name
    begun = time.monotonic()
    stop_in(command, runs / CONFIGURATIONS[0] / "default" / "fold_0", signal.SIGTERM)
    stop_in(command, runs / CONFIGURATIONS[0] / "default" / "fold_2", signal.SIGKILL)
    code = subprocess.call(command, env=environment())
    print(f"exit code {code}, {time.monotonic() - begun:.0f} s in all", flush=True)
    return code or compare(workspace, dataset)


def environment() -> dict[str, str]:
    """segplan of this checkout, whatever the working folder."""
    return os.environ | {"PYTHONPATH": str(REPOSITORY)}


def take_cases(source: Path, folder: Path, count: int) -> Path:
    """A dataset of links to the first cases."""
    target = folder / source.name
    if target.exists():
        return target
    cases = sorted(path.name.split(".")[0] for path in (source / "labelsTr").glob("*.nii.gz"))[: count or None]
    for name in ("imagesTr", "labelsTr"):
        (target / name).mkdir(parents=True)
    for case in cases:
        for path in (*(source / "imagesTr").glob(f"{case}_0*"), source / "labelsTr" / f"{case}.nii.gz"):
            (target / path.parent.name / path.name).symlink_to(path.resolve())
    description = json.loads((source / "dataset.json").read_text()) | {"numTraining": len(cases)}
    (target / "dataset.json").write_text(json.dumps(description))
    return target


def stop_in(command: list[str], fold: Path, number: signal.Signals) -> None:
    """Start the command and end it with a signal once `fold` trains."""
    process = subprocess.Popen(command, env=environment())
    while process.poll() is None and not (fold / "metrics.csv").is_file():
        time.sleep(POLL_SECONDS)
    if process.poll() is None:
        process.send_signal(number)
        print(f"\n{number.name} to segplan auto while {fold.name} trains", flush=True)
    print(f"it ended with {process.wait()}", flush=True)


def compare(workspace: Path, dataset: Path) -> int:
    """Compare the report's cases with counts made here; returns 0 if they agree to the last bit."""
    page = (workspace / "models" / f"{dataset.name}_report.html").read_text(encoding="utf-8")
    labels = json.loads((dataset / "dataset.json").read_text())["labels"]
    values = sorted(value for value in labels.values() if value)
    cases = {path.name.removesuffix(".nii.gz") for path in (dataset / "labelsTr").iterdir()}
    compared, wrong, titles = 0, 0, set()
    for title, row in Tables(page).rows:
        if len(row) < 3 + 3 * len(values) or row[0] not in cases:
            continue
        titles.add(title)
        runs = workspace / "runs" / dataset.name
        folder = runs / title / "default" / f"fold_{row[1]}" / "validation"
        if " + " in title:  # an ensemble
            folder = runs / "ensembles" / f"{title.replace(' ', '')}_default"
        dice = dice_of(folder / f"{row[0]}.nii.gz", dataset / "labelsTr" / f"{row[0]}.nii.gz", values)
        shown = [float(cell) if cell else math.nan for cell in row[3 : 3 + 3 * len(values) : 3]]
        compared += len(values)
        wrong += sum(a != b and not (math.isnan(a) and math.isnan(b)) for a, b in zip(shown, dice, strict=True))
    expected = len(cases) * len(values) * len(titles)
    model = workspace / "models" / f"{dataset.name}.zip"
    print(
        f"{compared} of {expected} Dice values of {sorted(titles)} compared, {wrong} differ; "
        f"{model} has {model.stat().st_size} bytes"
    )
    return 0 if compared == expected and titles >= set(CONFIGURATIONS) and not wrong else 1


def dice_of(prediction: Path, reference: Path, values: list[int]) -> list[float]:
    """2 |A ∩ B| / (|A| + |B|) of each label value; NaN where both are empty."""
    found, expected = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (prediction, reference))
    scores = []
    for value in values:
        both = int(np.logical_and(found == value, expected == value).sum())
        total = int((found == value).sum()) + int((expected == value).sum())
        scores.append(2 * both / total if total else math.nan)
    return scores


def main() -> int:
    """Parse the command line and run, in a temporary workspace unless one is named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset_argument(parser)
    parser.add_argument("--workspace", type=Path, help="kept folder")
    parser.add_argument("--cases", type=int, default=20, help="how many of the dataset's; 0: all")
    parser.add_argument("--budget", default="2x3", help="epochs x batches of each of the ten trainings")
    parser.add_argument("overrides", nargs="*", default=DEFAULTS, help="key=value of every training")
    arguments = parser.parse_args()
    print_machine()
    if arguments.workspace is not None:
        return body(arguments, arguments.workspace.absolute())
    with tempfile.TemporaryDirectory(prefix="segplan-auto-") as scratch:
        return body(arguments, Path(scratch))


if __name__ == "__main__":
    sys.exit(main())
