"""The commands of the documentation: blocks of shell that follow the line `<!-- run -->`."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_BLOCK = re.compile(r"<!-- run -->\s*\n```(?:bash|sh)\n(.*?)```", re.DOTALL)
BUDGET = (
    "trainer.max_epochs=1 trainer.limit_train_batches=2 trainer.accelerator=cpu data.batch_size=2 data.num_workers=0 "
    "data.patch_size=[16,16,16] network.features=[4,8] "
    "network.strides=[[1,1,1],[2,2,2]] network.kernel_sizes=[[3,3,3],[3,3,3]]"
)
"""Added to trainings: the tests' data are tiny, and a run is only to show that the command works."""


def pages() -> list[Path]:
    """The pages that have commands to be run, README.md included."""
    return [path for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))] if commands(path)]


def commands(page: Path) -> list[str]:
    """The commands of a page in order, a trailing backslash joining lines."""
    blocks = _BLOCK.findall(page.read_text(encoding="utf-8"))
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [line.split("   #")[0].strip() for line in lines if line.strip() and not line.startswith("#")]


def runnable(command: str) -> str:
    """`command` as it runs from any folder, with the budget where it trains."""
    words = re.sub(r"^python (plan|train|predict)\.py", r"segplan \1", command)
    words = re.sub(r"^segplan ", "python -m segplan.cli ", words)
    return f"{words} {BUDGET}" if re.match(r"python -m segplan\.cli (train|cascade) ", words) else words
