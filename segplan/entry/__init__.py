"""From a command line to a checked configuration: the only part of segplan, with the emitter, that knows Hydra."""

from segplan.entry.main import main

__all__ = ["main"]
