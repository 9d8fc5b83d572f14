"""Safetensors: the averaged weights of a checkpoint with what must be known beside them, in a format that is pure data.

The metadata of such a file holds texts alone: each value of the checkpoint as JSON, under its own key.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from utils.config import ConfigError
from utils.training.checkpoint import FORMAT, ForeignFile, load_checkpoint
from utils.training.whole_file import put_in_place, write_temporary

SUFFIX = ".safetensors"
_MARK = "cspdet"
"""Key of the metadata that tells our files from others; its value is the format."""
_TRAINING = ("weights", "ema", "ema_updates", "optimizer", "scaler", "rng", "batch", "sums", "is_best", "format")
"""What only going on with a training needs, or is stored otherwise."""
_KINDS = {"model": dict, "names": list, "category_ids": list, "image_size": list, "resize": str}


def write_safetensors(path: Path, state: dict[str, Any]) -> None:
    """Write the averaged weights of a checkpoint, and its values as metadata; whole or not at all.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save

    metadata = {key: json.dumps(value, ensure_ascii=False) for key, value in state.items() if key not in _TRAINING}
    # Copies, because safetensors takes neither channels_last nor two names for one memory.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state["ema"].items()}
    content = save(tensors, {"format": "pt", _MARK: FORMAT, **metadata})
    put_in_place(write_temporary(path, lambda file: file.write(content), needed=len(content)), path)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and metadata of any safetensors file.

    Raises:
        ConfigError: no such file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ConfigError(f"{path}: no such file; check the path")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        size, reason = path.stat().st_size, str(error).splitlines()[0]
        raise ConfigError(
            f"{path}: cannot be read as safetensors ({size:,} bytes; {reason}): the file is cut off, damaged or of "
            "another kind; write it again with 'python -m utils.info CHECKPOINT --safetensors OUT'"
        ) from None


def load_saved_model(path: Path) -> dict[str, Any]:
    """A model that we saved: a checkpoint (.pt), or a .safetensors file as a checkpoint without the training.

    Raises:
        ForeignFile: a file of another program.
        ConfigError: no such file, or a damaged one.
    """
    if path.suffix.lower() != SUFFIX:
        return load_checkpoint(path)
    tensors, metadata = read_safetensors(path)
    return _with_values(path, tensors, metadata)


def _with_values(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    if metadata.get(_MARK) != FORMAT:
        raise ForeignFile(
            f"{path}: the weights of another program: its metadata has no model of CSPDet; start a training from it "
            "with train.py --weights"
        )
    try:
        state = {key: json.loads(value) for key, value in metadata.items() if key not in ("format", _MARK)}
    except ValueError as error:
        raise ConfigError(f"{path}: its metadata is damaged ({error}); write the file again") from None
    wrong = [key for key, kind in _KINDS.items() if key in state and not isinstance(state[key], kind)]
    if wrong:
        raise ConfigError(f"{path}: its metadata is damaged ({wrong[0]}: {state[wrong[0]]!r}); write the file again")
    return {**state, "format": FORMAT, "ema": tensors}
