"""`segplan convert-msd`: a task of the Medical Segmentation Decathlon to nnU-Net's raw layout."""

from pathlib import Path

from segplan.dataset.decathlon import dataset_folder, read_decathlon
from segplan.errors import VerificationError
from segplan.jobs.conversion import convert


def run(source: Path, out: Path, num_workers: int | None = None) -> int:
    """Convert the task in `source`; returns the exit code, 0.

    Args:
        source: the task's folder, such as Task04_Hippocampus.
        out: the new dataset's folder where it is named like one (Dataset004_Hippocampus), else the folder in which it
            is made.
        num_workers: processes; None: the cores at hand.

    Raises:
        DatasetError: the source is no task, or the target holds something else.
        VerificationError: files that are missing or do not fit, all at once.
        StorageError: the target cannot be written.
    """
    source = source.absolute()
    target = dataset_folder(source, out.absolute())
    task = read_decathlon(source)
    if task.problems:
        raise VerificationError(task.problems, source)
    origin = {"command": "convert-msd", "source": str(source)}
    return convert(target, origin, task.cases, task.description, num_workers=num_workers)
