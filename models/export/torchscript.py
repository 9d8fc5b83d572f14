"""TorchScript: one file that PyTorch runs without our code, in Python and in C++."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from models.detector import Detector
from models.export.network import ExportNetwork, ExportSpec
from models.predictor_torch import SCRIPT_METADATA


def write_torchscript(model: Detector, path: Path, spec: ExportSpec) -> None:
    """Write `path`, a trace, with the model's metadata as extra file 'cspdet.json'.

    A trace keeps sizes dynamic: with or without `dynamic` the file takes any batch and size. Scripting would reject
    much of the models' Python, and nothing in them branches on values.
    """
    network = ExportNetwork(model)
    if spec.half:
        _halve_weights_(network)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, (spec.example(),), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={SCRIPT_METADATA: json.dumps(spec.metadata)})


def _halve_weights_(network: nn.Module) -> None:
    """Store the convolutions' weights in fp16; each is converted to fp32 where it is used."""
    for module in list(network.modules()):
        if isinstance(module, nn.Conv2d):
            parametrize.register_parametrization(module, "weight", _ToFloat(), unsafe=True)
            module.parametrizations.half()


class _ToFloat(nn.Module):
    """A parametrization: whatever type is stored, float32 in use."""

    def forward(self, stored: Tensor) -> Tensor:
        """Weights of any shape -> the same in float32."""
        return stored.float()
