"""The `segplan` command: `segplan JOB paths … key=value …`; plan, train and predict are the three Hydra scripts."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import segplan
from segplan.errors import SegplanError, StorageError

_HYDRA_JOBS = ("plan", "train", "predict")


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
    flags = []
    for word in given[1:]:
        key, separator, _ = word.partition("=")
        is_option = bool(separator) and key.replace("-", "_") in known and not Path(word).exists()
        flags.append(f"--{key.replace('_', '-')}={word.partition('=')[2]}" if is_option else word)
    return [given[0], *flags]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segplan", description="Medical image segmentation that plans itself from the data."
    )
    parser.add_argument("--version", action="version", version=f"segplan {segplan.__version__}")
    jobs = parser.add_subparsers(metavar="JOB", title="jobs (segplan JOB --help says more)")
    for name, text in (
        ("plan", "look at a dataset, plan, preprocess (plan.py)"),
        ("train", "train and validate one fold (train.py)"),
        ("predict", "segment images (predict.py)"),
    ):
        jobs.add_parser(name, help=text, add_help=False)
    _add_verify(jobs)
    _add_phantom(jobs)
    _add_evaluate(jobs)
    _add_demo(jobs)
    return parser


def _add_job(
    jobs: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, text: str
) -> argparse.ArgumentParser:
    job = jobs.add_parser(name, help=text, description=text)
    job.add_argument("--debug", action="store_true", help="show tracebacks of user errors")
    return job


def _add_verify(jobs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    job = _add_job(jobs, "verify", "report every problem of every case of a raw dataset")
    job.add_argument("dataset", type=Path, help="folder in nnU-Net's raw layout")
    job.add_argument("--num-workers", type=int, default=None, help="processes (default: the cores at hand)")

    def run(options: argparse.Namespace) -> int:
        from segplan.jobs.inspection import verify

        return verify(options.dataset, options.num_workers)

    job.set_defaults(run=run)


def _add_phantom(jobs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    job = _add_job(jobs, "phantom", "make a synthetic dataset in nnU-Net's raw layout")
    job.add_argument("out", type=Path, help="the dataset folder to make, e.g. Dataset900_Phantom")
    job.add_argument("--kind", choices=("ct", "mr", "rgb"), default="ct")
    job.add_argument("--cases", type=int, default=20, help="training cases")
    job.add_argument("--test-cases", type=int, default=0, help="further cases, in imagesTs and labelsTs")
    job.add_argument("--seed", type=int, default=0)

    def run(options: argparse.Namespace) -> int:
        from segplan.jobs.phantom import run as make

        return make(options.out, options.kind, options.cases, options.seed, options.test_cases)

    job.set_defaults(run=run)


def _add_evaluate(jobs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    job = _add_job(jobs, "evaluate", "compare predicted with reference label maps: summary.json and a table")
    job.add_argument("prediction", type=Path, help="folder or file")
    job.add_argument("reference", type=Path, help="folder or file")
    job.add_argument("--output", type=Path, help="where summary.json goes (default: the prediction folder)")
    job.add_argument("--label-map", type=Path, help="YAML file {value in the prediction: value in the reference}")
    job.add_argument(
        "--dataset-json", type=Path, help="label names (default: dataset.json beside the reference folder)"
    )
    job.add_argument("--num-workers", type=int, default=None, help="processes (default: the cores at hand)")

    def run(options: argparse.Namespace) -> int:
        from segplan.jobs.evaluate import run as evaluate

        more = {} if options.num_workers is None else {"num_workers": options.num_workers}
        return evaluate(
            options.prediction, options.reference, options.output, options.label_map, options.dataset_json, **more
        )

    job.set_defaults(run=run)


def _add_demo(jobs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    job = _add_job(jobs, "demo", "the main job end to end on a phantom: plan, train, predict, evaluate")
    job.add_argument("out", type=Path, nargs="?", default=Path("demo"), help="folder for all that it makes")

    def run(options: argparse.Namespace) -> int:
        from segplan.jobs.demo import run as demo

        return demo(options.out)

    job.set_defaults(run=run)


if __name__ == "__main__":
    sys.exit(main())
