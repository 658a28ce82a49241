"""The command that training runs as: read a fold's configuration, train it, and turn errors into exit codes.

    python -m segplan.jobs.train RUN/fold_K/config.yaml

The same command goes on where it stopped, or says that nothing is left to do.
"""

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from segplan.errors import ConfigError, SegplanError, StorageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Train as the file named on the command line says; returns the exit code.

    0: done. 2: the user's input, the disk or its permissions are at fault. 128 + number: a signal stopped it. Else 1.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        sys.stderr.write("usage: python -m segplan.jobs.train RUN/fold_K/config.yaml\n")
        return 2
    debug = False
    try:
        config = _read_config(Path(given[0]))
        debug = bool(config.debug)
        from segplan.jobs.train_fold import run  # inside, so that Ctrl-C while torch loads ends like any other

        return run(config)
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


if __name__ == "__main__":
    sys.exit(main())
