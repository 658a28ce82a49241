"""What the jobs print: progress bars on a terminal, `key=value` lines elsewhere, tables that stay readable in a log."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from segplan.errors import Problem

_LOG_EVERY_SECONDS = 30.0


def is_terminal() -> bool:
    """Whether a person watches standard output."""
    return sys.stdout.isatty()


@contextmanager
def progress(stage: str, total: int) -> Iterator[Callable[[], None]]:
    """Show how far `stage` is; yields the function to call after each of `total` items.

    Without a terminal a line `stage=… done=… total=…` is printed every half minute.
    """
    if is_terminal():
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description:12}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as bar:
            task = bar.add_task(stage, total=total)
            yield lambda: bar.advance(task)
        return
    done, last = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, last
        done += 1
        if time.monotonic() - last > _LOG_EVERY_SECONDS:
            last = time.monotonic()
            print(f"stage={stage} done={done} total={total}", flush=True)

    yield advance


def workspace_word(workspace: Path) -> list[str]:
    """What a command that is printed needs to find `workspace`: nothing where it is the default."""
    default = Path(os.environ.get("SEGPLAN_WORKSPACE") or "workspace").expanduser().absolute()
    return [] if workspace == default else [f"workspace={workspace}"]


def seconds(duration: float) -> str:
    """`0.4 s`, `12 s` or `2 m 11 s`."""
    if duration < 10:
        return f"{duration:.1f} s"
    if duration < 60:
        return f"{duration:.0f} s"
    return f"{duration // 60:.0f} m {duration % 60:02.0f} s"


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Print aligned columns: the first to the left, the others too, separated by two spaces."""
    lines = [list(header), *[list(row) for row in rows]] if header else [list(row) for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        print(indent + "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_problems(problems: Sequence[Problem], limit: int = 200) -> None:
    """Print findings as a table of case, what is wrong and what to do; the fatal ones first."""
    ordered = sorted(problems, key=lambda problem: not problem.fatal)
    if is_terminal():
        _print_rich(ordered[:limit])
    else:
        for problem in ordered[:limit]:
            kind = "problem" if problem.fatal else "note"
            print(f"{kind}: {problem.case or 'dataset'}: {problem.what} -> {problem.remedy}")
    if len(ordered) > limit:
        print(f"… and {len(ordered) - limit} more")


def _print_rich(problems: Sequence[Problem]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("case", "what", "what to do", show_lines=True)
    for problem in problems:
        table.add_row(
            problem.case or "dataset", problem.what if problem.fatal else f"note: {problem.what}", problem.remedy
        )
    Console().print(table)
