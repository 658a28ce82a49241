"""Start training from the weights of another model; the heads, which depend on the labels, stay random."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from segplan.errors import ModelError

HEAD = ".seg_layers."


def load_pretrained(network: nn.Module, path: Path) -> None:
    """Copy every weight but the heads' from a safetensors file into `network` (nnU-Net's rule).

    Raises:
        ModelError: the file cannot be read, or lacks a weight or holds one of another shape.
    """
    try:
        source: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        remedy = "Name the weights.safetensors of a run folder."
        raise ModelError(f"cannot be read ({error})", path, remedy) from error
    wanted = {key: value for key, value in network.state_dict().items() if HEAD not in key}
    unfit = [key for key, value in wanted.items() if key not in source or source[key].shape != value.shape]
    if unfit:
        raise ModelError(
            f"{len(unfit)} of {len(wanted)} weights are missing or of another shape ({unfit[0]})",
            path,
            "Train with the plan of that model: the network must be the same up to its heads.",
        )
    network.load_state_dict({key: source[key] for key in wanted}, strict=False)
