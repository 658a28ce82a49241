"""The `segplan` command: `segplan JOB paths … key=value …`; plan, train and predict are the three Hydra scripts."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import segplan
from segplan.errors import SegplanError, StorageError

_HYDRA_JOBS = {
    "plan": "look at a dataset, plan, preprocess (plan.py)",
    "train": "train and validate one fold (train.py)",
    "predict": "segment images (predict.py)",
}
_JOBS = (  # modules of segplan.commands, in the order of `segplan --help`
    "verify",
    "verify-store",
    "inspect",
    "convert-msd",
    "convert-folder",
    "phantom",
    "explain",
    "show-augmentation",
    "compare-plans",
    "networks",
    "cascade",
    "jobs",
    "report",
    "auto",
    "evaluate",
    "select",
    "ensemble",
    "postprocess",
    "import-nnunet",
    "import-stunet",
    "export-model",
    "reproduce",
    "doctor",
    "demo",
    "completion",
)


def job_names() -> tuple[str, ...]:
    """All jobs, as `segplan --help` lists them."""
    return (*_HYDRA_JOBS, *_JOBS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the `segplan` command; returns its exit code (0 done, 2 the input is wrong, 1 anything else)."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in _HYDRA_JOBS:
        from segplan.entry import main as run_hydra_job

        return run_hydra_job(given[0], given[1:])
    parser = _parser()
    options = parser.parse_args(_flags(given, parser))
    if "run" not in options:
        parser.print_help()
        return 0
    return _guarded(options)


def _guarded(options: argparse.Namespace) -> int:
    from segplan.entry.main import report_error

    try:
        return int(options.run(options))
    except SegplanError as error:
        if options.debug:
            raise
        return report_error(error)
    except BrokenPipeError:  # who reads the output has gone, as `| head` does
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - else Python complains of it once more at its end
        return 141
    except OSError as error:
        translated = StorageError.from_os_error(error)
        if translated is None or options.debug:
            raise
        return report_error(translated)
    except KeyboardInterrupt:
        print("segplan: interrupted", file=sys.stderr)
        return 130


def _flags(given: list[str], parser: argparse.ArgumentParser) -> list[str]:
    """Turn `key=value` into `--key=value` where the job has such an option, so that both spellings work."""
    jobs = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    job = jobs.choices.get(given[0]) if given else None
    if job is None:
        return given
    known = {option.removeprefix("--").replace("-", "_") for option in job._option_string_actions}
    flags, rest = [], []
    for word in given[1:]:
        key, separator, value = word.partition("=")
        if separator and key.replace("-", "_") in known and not Path(word).exists():
            flags.append(f"--{key.replace('_', '-')}={value}")
        elif (option := job._option_string_actions.get(word)) is not None and option.nargs == 0:
            flags.append(word)
        else:
            rest.append(word)
    # Options first: argparse does not go on with a list of positional words after one.
    return [given[0], *flags, *rest]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segplan", description="Medical image segmentation that plans itself from the data."
    )
    parser.add_argument("--version", action="version", version=f"segplan {segplan.__version__}")
    jobs = parser.add_subparsers(metavar="JOB", title="jobs (segplan JOB --help says more)")
    for name, text in _HYDRA_JOBS.items():
        jobs.add_parser(name, help=text, add_help=False)
    for name in _JOBS:
        module = importlib.import_module(f"segplan.commands.{name.replace('-', '_')}")
        job = jobs.add_parser(name, help=module.HELP, description=module.HELP)
        job.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
        module.add_arguments(job)
        job.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
