"""Work that ranks share once they have trained together: where one fails all end, and the first one says why."""

import pickle
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

from torch import distributed

from segplan.errors import RunError, SegplanError

T = TypeVar("T")

_PATIENCE = timedelta(hours=6)  # with another rank's case; one whose process has ended is noticed at once


class ToldByFirstRankError(Exception):
    """Some rank failed, and the first one raises what happened: this one leaves without a word."""


@dataclass(frozen=True)
class _Failure:
    """What another process may be told of an exception: itself, pickled, if it is made for users, and its traceback."""

    pickled: bytes | None
    text: str

    @classmethod
    def of(cls, error: Exception) -> "_Failure":
        text = "".join(traceback.format_exception(error))
        if not isinstance(error, SegplanError | OSError):
            return cls(None, text)
        try:
            pickled = pickle.dumps(error)
            pickle.loads(pickled)  # noqa: S301 our own, to see whether the other side can
        except Exception:  # whatever its own constructor makes of it
            return cls(None, text)
        return cls(pickled, text)

    def restored(self, rank: int) -> Exception:
        """The exception, with its traceback as a note, or one that holds it."""
        where = f"process {rank} of the training failed:\n{self.text}"
        if self.pickled is None:
            return RuntimeError(where)
        error: Exception = pickle.loads(self.pickled)  # noqa: S301 from a process of this training
        error.add_note(where)
        return error


class Ranks:
    """The ranks that share work: this process alone, or all that `joined`."""

    def __init__(self, number: int = 0, count: int = 1, group: Any = None) -> None:
        self.number, self.count, self._group = number, count, group

    @classmethod
    def joined(cls) -> "Ranks":
        """Those that have trained together, all of which must call this.

        They get a group of their own, on the host: it waits longer than the training's for a large case, and works
        where a device does not any more.
        """
        if not (distributed.is_available() and distributed.is_initialized()) or distributed.get_world_size() == 1:
            return cls()
        group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
        return cls(distributed.get_rank(), distributed.get_world_size(), group)

    def gather(self, value: T) -> list[T]:
        """`value` of every rank, in order; every rank must call it.

        Raises:
            RunError: on the first rank, where another has ended.
            ToldByFirstRankError: on others then.
        """
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        try:
            distributed.all_gather_object(values, value, group=self._group)
        except RuntimeError as error:  # the connection is closed
            if self.number:
                sys.stderr.write(f"segplan: process {self.number} of the training lost the others ({error})\n")
                raise ToldByFirstRankError from error
            what = f"another process of the training has ended ({error})"
            raise RunError(what, remedy="The same command does what is left.") from error
        return values

    def do(self, work: Callable[[], T]) -> T:
        """Do `work` on every rank; returns this rank's result when all have done theirs.

        Raises:
            Exception: what it raised, on the first rank, whichever rank it was.
            ToldByFirstRankError: on others then.
        """
        if self.count == 1:
            return work()
        result: list[T] = []
        failure: Exception | None = None
        try:
            result.append(work())
        except Exception as error:  # raised below, when the others know
            failure = error
        told = self.gather(None if failure is None else _Failure.of(failure))
        failed = [(rank, other) for rank, other in enumerate(told) if other is not None]
        if not failed:
            return result[0]
        if self.number:
            raise ToldByFirstRankError from failure
        raise failure or failed[0][1].restored(failed[0][0])
