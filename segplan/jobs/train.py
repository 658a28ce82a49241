"""The command that training runs as: read a fold's configuration, train it, and turn errors into exit codes.

    python -m segplan.jobs.train RUN/fold_K/config.yaml [HASH]

With HASH it refuses a file that is not the one that was composed: a job waits in a queue, and ranks start one after
another, while a person may change it. The same command goes on where it stopped, or says that nothing is left to do.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segplan.errors import ConfigError, RunError, SegplanError, StorageError
from segplan.jobs.fold_record import recorded


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the file named on the command line says; returns the exit code.

    0: done. 2: the user's input, the disk or its permissions are at fault. 128 + number: a signal stopped it. Else 1.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) not in (1, 2):
        sys.stderr.write("usage: python -m segplan.jobs.train RUN/fold_K/config.yaml [HASH]\n")
        return 2
    debug = False
    try:
        config = _read_config(Path(given[0]))
        debug = bool(config.debug)
        _check_hash(config, given)
        from segplan.jobs.train_fold import run  # inside, so that Ctrl-C while torch loads ends like any other

        with recorded(Path(given[0]).parent) as attempt:
            return attempt.ends_with(run(config))
    except SegplanError as error:
        if debug:
            raise
        return _report(error)
    except OSError as error:
        trouble = StorageError.from_os_error(error)
        if trouble is None or debug:
            raise
        return _report(trouble)
    except KeyboardInterrupt:
        sys.stderr.write("segplan: interrupted; the same command goes on from what is saved\n")
        return 128 + signal.SIGINT


def _report(error: SegplanError) -> int:
    sys.stderr.write(f"segplan: {error}\n")
    return error.exit_code


def _read_config(path: Path) -> DictConfig:
    if not path.is_file():
        raise ConfigError("there is no such file", path, "Start a run with python train.py plan=DATASET/CONFIGURATION.")
    config = OmegaConf.load(path)
    if not isinstance(config, DictConfig):
        raise ConfigError("is no configuration of a run", path)
    return config


def _check_hash(config: DictConfig, given: Sequence[str]) -> None:
    from segplan.jobs.prepare import config_hash

    if len(given) == 2 and config_hash(config) != given[1]:
        what = "is not the configuration that this job was started with: another command wrote it since"
        raise RunError(what, given[0], "Start this training again; use run=NAME to keep two of them apart.")


def _leave(code: int) -> int:
    dashboards = sys.modules.get("segplan.dashboards")  # not loaded if nothing was trained
    return code if dashboards is None else int(dashboards.leave_threads_behind(code))


if __name__ == "__main__":
    sys.exit(_leave(main()))
