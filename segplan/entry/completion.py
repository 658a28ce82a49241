"""Completion of a command line that is being typed: `plan=` lists the plans of the workspace, `planner=` its options.

Hydra's own completion lists neither plans (they stand in nested folders on its search path) nor the `segplan` command.
"""

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from segplan.entry.locations import PACKAGE, configs_folder, planned, workspace_folder

SHELLS = ("bash", "zsh", "fish")
_HYDRA_JOBS = ("plan", "train", "predict")
_TAKE_PLANS = ("explain", "compare-plans")
_OPTION = re.compile(r"^(?:- (?:override )?/?(?P<group>\w+): .*|(?P<key>\w+):.*)$")

_BASH = r"""# segplan completion for bash: eval "$(segplan completion bash)" in ~/.bashrc
_segplan_complete() {
  local line="${COMP_LINE:0:COMP_POINT}" IFS=$'\n'
  local word="${line##*[[:space:]]}"
  # bash takes what stands before the last = or : for another word
  local before="${word%"${word##*[=:]}"}"
  COMPREPLY=($(@COMMAND@ "$line" 2>/dev/null))
  COMPREPLY=("${COMPREPLY[@]#"$before"}")
  [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -o bashdefault -F _segplan_complete segplan plan.py train.py predict.py python python3
"""
_ZSH = r"""# segplan completion for zsh: eval "$(segplan completion zsh)" in ~/.zshrc, after compinit
_segplan_complete() {
  local -a found
  found=("${(@f)$(@COMMAND@ "$LBUFFER" 2>/dev/null)}")
  if [[ -n "${found[1]}" ]]; then compadd -Q -S '' -- $found; else _files; fi
}
compdef _segplan_complete segplan plan.py train.py predict.py
"""
_FISH = r"""# segplan completion for fish: segplan completion fish | source, in ~/.config/fish/config.fish
for command in segplan plan.py train.py predict.py
  complete -c $command -a '(@COMMAND@ (commandline -cp) 2>/dev/null)'
end
"""


def script(shell: str) -> str:
    """What the user's shell reads to complete segplan's commands."""
    # Not the command `segplan`: it need not be on the path, nor the package installed.
    program = (
        f"import sys; sys.path.insert(0, {str(PACKAGE.parent)!r}); from segplan.entry.completion import main; main()"
    )
    command = shlex.join([sys.executable, "-c", program])
    if shell == "fish":
        command = command.replace("\\", "\\\\").replace("'", "\\'")
    return {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[shell].replace("@COMMAND@", command)


def main() -> None:
    """Print the candidates for the line that is the first argument."""
    for candidate in candidates(sys.argv[1]):
        sys.stdout.write(re.sub(r"([^\w@%+=:,./-])", r"\\\1", candidate) + "\n")


def candidates(line: str) -> list[str]:
    """What the last word of `line` may become, whole words; empty where it is no command of segplan's or a path."""
    try:
        words = shlex.split(line)
    except ValueError:  # a quote is still open
        words = line.split()
    current = "" if not words or line[-1].isspace() else words.pop()
    job, arguments = _job(words)
    if job is None:
        return []
    if job == "":
        return _starting(current, _jobs())
    workspace = workspace_folder(arguments)
    if job in _TAKE_PLANS:
        plans = planned(workspace)
        return _starting(current, plans if job == "compare-plans" else [f"plan={name}" for name in plans])
    if job not in _HYDRA_JOBS:
        return []
    key, separator, value = current.partition("=")
    options = _options(job)
    if not separator:
        return _starting(current, [f"{name}=" for name in options])
    # A sweep lists values with commas: the last one is being typed.
    done = value.rpartition(",")[0]
    before = f"{key}={done}," if done else f"{key}="
    known = planned(workspace) if key == "plan" and job != "plan" else options.get(key, [])
    return _starting(current, [before + name for name in known])


def _job(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The job and its arguments; the job is empty where it is being typed, None where the line is not ours."""
    by_python = bool(words) and re.fullmatch(r"python[\d.]*", Path(words[0]).name) is not None
    rest = list(words[1:] if by_python else words)
    name = Path(rest[0]).name if rest else ""
    if name in [f"{job}.py" for job in _HYDRA_JOBS]:
        return name.removesuffix(".py"), rest[1:]
    if by_python or name != "segplan":
        return None, []
    return (rest[1], rest[2:]) if len(rest) > 1 else ("", [])


def _jobs() -> list[str]:
    from segplan.cli import job_names

    return list(job_names())


def _options(job: str) -> dict[str, list[str]]:
    """Groups and keys of a job's primary configuration, each with the group's options."""
    found: dict[str, list[str]] = {}
    for line in (configs_folder() / f"{job}.yaml").read_text(encoding="utf-8").splitlines():
        match = _OPTION.match(line[2:] if line.startswith("  - ") else line)
        name = (match["group"] or match["key"]) if match else None
        if name and name not in ("defaults", "hydra"):
            found[name] = sorted(file.stem for file in (configs_folder() / name).glob("*.yaml"))
    return found


def _starting(current: str, words: Sequence[str]) -> list[str]:
    return [word for word in words if word.startswith(current)]
