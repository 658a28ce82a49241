"""The one family of errors that a user can mend.

Each says what is wrong, where, and what to do. The entry points print them as one line without a
traceback and leave with the error's exit code; every other exception is a defect of segplan.
"""

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self


class SegplanError(Exception):
    """Something the user can mend.

    Args:
        what: what is wrong, in the user's terms.
        where: the file, case or configuration key that it is about.
        remedy: what to do about it.
    """

    exit_code = 2

    def __init__(self, what: str, where: str | Path | None = None, remedy: str | None = None) -> None:
        self.what = what
        self.where = str(where) if where is not None else None
        self.remedy = remedy
        super().__init__(what, where, remedy)

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        if not self.remedy:
            return text
        return f"{text} {self.remedy}" if text.endswith("?") else f"{text.rstrip('.')}. {self.remedy}"


class ConfigError(SegplanError):
    """A key, value or combination of values that cannot work."""


class DatasetError(SegplanError):
    """The raw dataset is not what it should be (layout, dataset.json, splits)."""


class ImageError(SegplanError):
    """An image or label file cannot be read, written or used."""


class PlanError(SegplanError):
    """A plan is missing, unreadable, or cannot run."""


class StoreError(SegplanError):
    """A case store is missing, incomplete or damaged."""


class RunError(SegplanError):
    """A run folder or checkpoint does not fit what is asked of it."""


class ModelError(SegplanError):
    """A model folder is missing, incomplete or of another kind."""


class StorageError(SegplanError):
    """The disk is full or a folder cannot be written."""

    @classmethod
    def from_os_error(cls, error: OSError, where: str | Path | None = None) -> Self | None:
        """The `StorageError` for an operating-system error about space or permission; None for any other."""
        remedies = {
            errno.ENOSPC: "Free some space and run the same command again.",
            errno.EDQUOT: "Free some of your quota and run the same command again.",
            errno.ENOTDIR: "Choose another folder (workspace=, output=): a part of this path is a file.",
            errno.EROFS: "Choose a folder that can be written (workspace=, output=).",
            errno.EACCES: "Choose a folder that you may write (workspace=, output=), or mend its permissions.",
            errno.EPERM: "Choose a folder that you may write (workspace=, output=), or mend its permissions.",
        }
        if error.errno not in remedies:
            return None
        place = where if where is not None else error.filename
        return cls(os.strerror(error.errno), where=place, remedy=remedies[error.errno])


class WorkerError(SegplanError):
    """A worker process died; the message names what it was doing and how it ended."""

    exit_code = 1


@dataclass(frozen=True)
class Problem:
    """One finding about one case (or about the dataset, where `case` is None).

    `fatal` problems stop the job; the others are notes that the user should know of.
    """

    case: str | None
    what: str
    remedy: str
    fatal: bool = True


class VerificationError(SegplanError):
    """All problems that verification found, to be shown as one table."""

    def __init__(self, problems: Sequence[Problem], where: str | Path | None = None) -> None:
        self.problems = tuple(problems)
        fatal = [problem for problem in self.problems if problem.fatal]
        cases = {problem.case for problem in fatal if problem.case is not None}
        noun = "problem" if len(fatal) == 1 else "problems"
        scope = f" in {len(cases)} case{'s' if len(cases) != 1 else ''}" if cases else ""
        super().__init__(
            f"verification found {len(fatal)} {noun}{scope}",
            where,
            "Mend what the table lists and run the same command again.",
        )
