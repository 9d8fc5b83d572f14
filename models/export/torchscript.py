"""TorchScript: one file that PyTorch runs without our code, in Python and in C++."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import torch

from models.export.network import ExportNetwork, ExportSpec
from models.runtimes import SCRIPT_METADATA

def write_torchscript(network: ExportNetwork, path: Path, spec: ExportSpec) -> None:
    """Write `path`, traced; a trace keeps its sizes open, so the file takes any batch and size with or without --dynamic.

    Scripting would refuse much of the Python in the models; a network here has no branch that depends on values.
    """
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(network, (spec.example(),), check_trace=False)
        torch.jit.save(traced, str(path), _extra_files={SCRIPT_METADATA: json.dumps(spec.metadata)})
