"""Several models that predict together, as data: one model with some of its folds, or an ensemble of configurations.

ENSEMBLE/ensemble.json         the members: folder, folds and kind of weights of each
ENSEMBLE/members/0/            the model folder of the first
ENSEMBLE/postprocessing.json   the steps to apply to the ensemble's label maps
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segplan.errors import ModelError
from segplan.model_files import ModelFiles
from segplan.model_folder import POSTPROCESSING_FILE, ModelFolder, read_steps

FORMAT = 1
ENSEMBLE_FILE = "ensemble.json"
MEMBERS = "members"
_SHARED = ("labels", "regions_class_order")


@dataclass(frozen=True)
class Member:
    """A model with the folds that predict.

    Args:
        model: its folder or zip.
        folds: whose logits are averaged.
        checkpoint: the kind of their weights.
    """

    model: ModelFolder
    folds: tuple[str, ...]
    checkpoint: str = "final"

    @property
    def described(self) -> str:
        """Name and folds, for people."""
        return f"{self.model.name} {'folds' if len(self.folds) > 1 else 'fold'} {', '.join(self.folds)}"


@dataclass(frozen=True)
class ModelEnsemble:
    """Models whose probabilities are averaged; most often it is one.

    Args:
        path: where it was read from.
        members: at least one, all with the same labels and number of channels.
        postprocessing: steps for the label maps, in order.

    Raises:
        ModelError: the members do not fit together.
    """

    path: Path
    members: tuple[Member, ...]
    postprocessing: tuple[Mapping[str, Any], ...] = ()

    def __post_init__(self) -> None:
        first = self.members[0].model
        for other in (member.model for member in self.members[1:]):
            if any(first.plan.get(key) != other.plan.get(key) for key in _SHARED):
                raise ModelError(f"its labels are not those of {first.name}", other.path, "Models of one dataset fit.")
            if len(first.plan["normalization"]) != len(other.plan["normalization"]):
                raise ModelError(
                    f"its channels are not those of {first.name}", other.path, "Models of one dataset fit."
                )

    @classmethod
    def open(
        cls,
        path: Path | str,
        folds: Sequence[int | str] | int | str | None = None,
        checkpoint: str = "final",
    ) -> "ModelEnsemble":
        """Read a model folder, a model's zip, or an ensemble's.

        Args:
            path: of it.
            folds: of a model those to average; None: all that have weights. An ensemble's stand in it.
            checkpoint: of a model "final" or "best" weights.

        Raises:
            ModelError: it is none, or lacks a fold that is asked for.
        """
        files = ModelFiles.open(path)
        if not files.has(ENSEMBLE_FILE):
            model = ModelFolder.open(files)
            return cls(
                model.path, (Member(model, model.select_folds(folds, checkpoint), checkpoint),), model.postprocessing
            )
        if folds is not None:
            raise ModelError("it is an ensemble, whose folds are chosen already", path, "Leave out folds=.")
        steps = read_steps(files) if files.has(POSTPROCESSING_FILE) else ()
        return cls(files.path, tuple(_members(files)), steps)

    @property
    def name(self) -> str:
        """The member's name, or that of all."""
        return " + ".join(member.model.name for member in self.members)

    @property
    def first(self) -> ModelFolder:
        """A model whose plan says what all share: labels, channels, file ending."""
        return self.members[0].model

    def without_postprocessing(self) -> "ModelEnsemble":
        """The same, whose label maps are left as the networks give them."""
        return replace(self, postprocessing=())

    def identity(self, *, with_previous: bool = True) -> str:
        """Hash of all that decides a prediction, postprocessing aside; of a single model, the model's own."""
        each = [
            member.model.identity(member.folds, member.checkpoint, with_previous=with_previous)
            for member in self.members
        ]
        return each[0] if len(each) == 1 else hashlib.blake2b(" ".join(each).encode(), digest_size=16).hexdigest()


def _members(files: ModelFiles) -> list[Member]:
    data, place = files.read_json(ENSEMBLE_FILE), files.place(ENSEMBLE_FILE)
    try:
        listed = [
            (str(each["folder"]), tuple(map(str, each["folds"])), str(each["checkpoint"])) for each in data["members"]
        ]
        known = data["format"]
    except (KeyError, TypeError) as error:
        raise ModelError(f"does not describe an ensemble ({error!r})", place, "Export it again.") from error
    if known != FORMAT or not listed:
        raise ModelError(
            f"has format {known}, this segplan reads format {FORMAT}", place, "Use the segplan that wrote it."
        )
    members = []
    for folder, folds, checkpoint in listed:
        if not files.has(f"{folder}/model.json"):
            raise ModelError(f"lacks its member {folder}", files.path, "Copy or download it again.")
        model = ModelFolder.open(files.within(folder))
        members.append(Member(model, model.select_folds(folds, checkpoint), checkpoint))
    return members
