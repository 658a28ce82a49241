"""A network exported to ONNX, run by onnxruntime in place of torch."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from segplan.errors import ModelError


class OnnxNetwork(nn.Module):
    """Logits (B, K, *patch) of images (B, C, *patch) by onnxruntime; in float32, on the CPU.

    Args:
        path: the exported network, as messages name it.
        content: of it, where `path` is no file that could be opened.

    Raises:
        ModelError: onnxruntime is not installed, or cannot read the file.
    """

    deep_supervision = False

    def __init__(self, path: Path, content: bytes | None = None) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            what = "the model is an ONNX export, and onnxruntime is not installed"
            raise ModelError(what, path, "Install it: pip install 'segplan[onnx]'.") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        try:
            source = content or str(path)
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own kinds, which derive from no common one
            raise ModelError(f"onnxruntime cannot read it ({error})", path, "Export the model again.") from error
        self._input = self._session.get_inputs()[0].name
        # Says where the network is, as other networks' parameters do.
        self.anchor = nn.Parameter(torch.zeros(1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map an image (B, C, *patch) to logits (B, K, *patch)."""
        image = np.ascontiguousarray(x.detach().float().cpu().numpy())
        return torch.from_numpy(self._session.run(None, {self._input: image})[0]).to(x.device)
