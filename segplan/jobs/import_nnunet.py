"""Turn trained nnU-Net v2 models into model folders."""

import contextlib
import shlex
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from segplan.errors import ModelError
from segplan.interop.nnunet import find_models, import_model
from segplan.model_files import check_members, unsafe_name

_WANTED = ("plans.json", "dataset.json", "checkpoint_final.pth", "checkpoint_best.pth")


def run(source: Path, target: Path, configuration: str | None, previous: Path | None) -> int:
    """Import the model in `source` into `target`.

    Args:
        source: a trained model's folder, a results folder that holds it, or a zip that nnU-Net exported.
        target: the model folder to make.
        configuration: which, where `source` holds several.
        previous: a cascade's first stage, where it is not beside it.

    Returns:
        The exit code, 0.

    Raises:
        ModelError: see `import_model`; or there is no model, or more than one to choose from.
    """
    with contextlib.ExitStack() as stack:
        chosen = _choose(stack.enter_context(_opened(source)), source, configuration)
        own = None if configuration in (chosen.name, chosen.name.rpartition("__")[2]) else configuration
        earlier = None
        if previous is not None:
            earlier = _first_stage(stack.enter_context(_opened(previous)), previous)
        model = import_model(chosen, target, configuration=own, previous=earlier)
    print(f"imported {model.name} · folds {', '.join(model.folds() or model.folds('best'))} · {model.network['name']}")
    if model.plan.get("previous_stage"):
        print(f"with its first stage {model.plan['previous_stage']}, which prediction runs by itself")
    print(f"Next: python predict.py model={shlex.quote(str(target))} input=FOLDER output=FOLDER")
    return 0


def _choose(folder: Path, source: Path, configuration: str | None) -> Path:
    models = find_models(folder)
    if not models:
        raise ModelError("there is no trained model of nnU-Net v2 in it", source, "It has plans.json and fold_0 in it.")
    if len(models) == 1:
        return models[0]
    fitting = [path for path in models if configuration in (path.name, path.name.rpartition("__")[2])]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(path.name for path in fitting or models)
    what = f"it holds {len(models)} models" if configuration is None else f"{len(fitting)} models are {configuration}"
    raise ModelError(what, source, f"Choose one: configuration=NAME or the folder itself ({listed}).")


def _first_stage(folder: Path, given: Path) -> Path:
    if (folder / "model.json").is_file():
        return folder
    return _choose(folder, given, "3d_lowres")


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[Path]:
    """The folder itself; for a zip, one with its plans, dataset descriptions and checkpoints, removed afterwards."""
    if source.is_dir():
        yield source
        return
    if not source.exists():
        raise ModelError("there is no such folder or zip", source)
    with tempfile.TemporaryDirectory(prefix="segplan-import-") as temporary:
        try:
            with zipfile.ZipFile(source) as archive:
                names = (member for member in archive.infolist() if not unsafe_name(member.orig_filename))
                wanted = [member for member in names if PurePosixPath(member.filename).name in _WANTED]
                check_members(wanted, source)
                for member in wanted:
                    archive.extract(member, temporary)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ModelError(f"it is no whole zip file ({error})", source, "Name a folder or a zip.") from error
        except RuntimeError as error:  # encrypted, or of a compression that Python does not know
            raise ModelError(f"the zip cannot be unpacked ({error})", source, "Unpack it, name the folder.") from error
        yield Path(temporary)
