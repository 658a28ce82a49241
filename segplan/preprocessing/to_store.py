"""The unit of work of preprocessing: one case from its files into the store."""

from pathlib import Path

from segplan.dataset import Case, Labels
from segplan.errors import DatasetError, ImageError
from segplan.imaging import read_image, read_label_map
from segplan.preprocessing.case import preprocess
from segplan.preprocessing.locations import foreground_locations
from segplan.preprocessing.plan import PreprocessingPlan
from segplan.preprocessing.store import CaseStore


def preprocess_to_store(
    case: Case, labels: Labels, plan: PreprocessingPlan, store_folder: Path, source_hash: str
) -> str:
    """Read, preprocess and store a training case. Picklable with its arguments: a pool can run it.

    On the network's grid a label is its index (`Labels.indexed`); the reference keeps the values of its file.

    Args:
        case: with its label map.
        labels: the dataset's labels.
        plan: the preprocessing.
        store_folder: see `CaseStore`.
        source_hash: of the case's files and whatever else should lead to doing it again.

    Returns:
        The case's identifier.

    Raises:
        SegplanError: the case's files cannot be used, or the store cannot be written.
    """
    if case.label is None:
        raise DatasetError(
            "a training case needs a label map", case.identifier, "Add it to labelsTr or remove the case"
        )
    image = read_image(case.images)
    reference = read_label_map(case.label).array[0]
    try:
        on_file, ignore = labels.to_indices(reference), labels.indexed.ignore
        preprocessed = preprocess(image, on_file, plan, ignore_label=ignore, overwrite=True)
    except DatasetError as error:
        raise DatasetError(error.what, case.identifier, error.remedy) from error
    except ImageError as error:
        raise ImageError(error.what, error.where or case.identifier, error.remedy) from error
    del image  # several hundred megabytes that writing does not need
    on_grid = preprocessed.labels
    locations = {} if on_grid is None else foreground_locations(on_grid, labels.indexed)
    CaseStore(store_folder).write(case.identifier, preprocessed, locations, reference, source_hash)
    return case.identifier
