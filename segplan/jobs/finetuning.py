"""Give a network the weights of another model, and show what became of each."""

from torch import nn

from segplan.errors import ModelError
from segplan.interop.pretrained import read_pretrained
from segplan.interop.source_file import pretrained_file
from segplan.jobs.console import print_table
from segplan.jobs.finetune_settings import FinetuneSettings
from segplan.training.finetune import summary_rows, transfer


def start_from(network: nn.Module, settings: FinetuneSettings, *, show: bool = True) -> None:
    """Copy the weights of `settings.source` into `network`.

    Args:
        network: with its initial weights.
        settings: says from where, and how.
        show: print what was copied, adapted, skipped or starts anew, and why.

    Raises:
        ModelError: they cannot be read, or do not fit.
    """
    if settings.source is None:
        return
    path = pretrained_file(settings.source)
    source = read_pretrained(path)
    try:
        fates = transfer(
            network, source.weights, heads=settings.heads, channels=settings.channels, strict=settings.strict
        )
    except ModelError as error:
        raise ModelError(error.what, path, error.remedy) from error
    if show:
        print(f"starting from {path} ({source.origin})", flush=True)
        print_table(["part", "what", "tensors", "values", "why"], summary_rows(fates))
