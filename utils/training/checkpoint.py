"""Checkpoints: plain tensors and plain values in one file that appears whole or not at all."""

from __future__ import annotations

import os
import pickle
import platform
import shutil
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import Tensor, nn

from utils.config import ROOT, ConfigError

FORMAT = "cspdet-1"


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint to a temporary file beside `path`, flush it to disk, and rename it.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was at `path` is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint of ours, on the CPU; nothing in the file can run code.

    Raises:
        ConfigError: no such file, a cut-off file, or a file of another program, with what to do.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such checkpoint; train one with 'python train.py', or check the path")
    try:
        with warnings.catch_warnings():  # of files of other kinds; the errors below say it
            warnings.simplefilter("ignore")
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ConfigError(
            f"{path}: not a checkpoint of CSPDet: loading it would run code from the file, which is refused. "
            "Save the state_dict of that model with the program that made it, and start from that with --weights"
        ) from None
    except Exception as error:  # a damaged file can end in any exception, as the documentation of pickle says
        size = path.stat().st_size
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(
            f"{path}: cannot be read as a checkpoint ({size:,} bytes; {reason}). "
            "The file is cut off or of another kind; use another checkpoint of the run (last.pt, best.pt)"
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise ConfigError(f"{path}: expected a checkpoint with format '{FORMAT}', found {found!r}")
    return state


def load_matching_(model: nn.Module, weights: dict[str, Tensor]) -> tuple[list[str], list[str], list[str]]:
    """Copy the tensors whose name and shape agree.

    Returns:
        Names of those loaded, of those left out for another shape, and of the model's own that `weights` lacks.
    """
    own = model.state_dict()
    loaded = [name for name, value in weights.items() if name in own and own[name].shape == value.shape]
    other_shape = [name for name, value in weights.items() if name in own and own[name].shape != value.shape]
    model.load_state_dict({name: weights[name] for name in loaded}, strict=False)
    absent = [name for name in own if name not in weights]
    return loaded, other_shape, absent


def versions() -> dict[str, str]:
    """What made a checkpoint: Python, libraries, and the project's git commit when there is one."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
        "numpy": str(np.__version__),
        "platform": platform.platform(),
        "commit": _git_commit(),
    }


def _git_commit() -> str:
    try:
        command = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
        return subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def replace_with_link(path: Path, source: Path) -> None:
    """Make `path` the same file as `source` now is (a hard link, or a copy where the disk has none), in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, path)
    temporary.unlink(missing_ok=True)  # renaming a link to the same file leaves both
