"""`segplan completion SHELL`."""

import argparse

HELP = 'print what a shell needs to complete plan=, planner= and the like: eval "$(segplan completion bash)"'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the job's arguments."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"))


def run(options: argparse.Namespace) -> int:
    """Do the job; returns the exit code."""
    import sys

    from segplan.entry.completion import script

    sys.stdout.write(script(options.shell))
    return 0
