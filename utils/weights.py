"""Weights without a training: our own .safetensors files, which are pure data, and the files of other programs.

A .safetensors file holds the averaged weights of a checkpoint. Its metadata holds texts alone: each value of the
checkpoint as JSON, under its own key.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.checkpoint import FORMAT, TRAINING, ForeignFile, load_checkpoint, read_torch_file
from utils.config import ConfigError
from utils.files import write_atomically
from utils.pickles import imported_names
from utils.saved import check_state, check_weights, wrong_value
from utils.text import first_line, from_json, listed, to_json

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"
CONTAINERS = ("ema", "model_ema", "state_dict_ema", "model", "state_dict", "model_state_dict", "net", "weights")
"""Keys under which training programs keep the weights; averaged ones first."""

_MARK = "cspdet"
"""Key of the metadata that tells our files from others; its value is the format."""
_LEFT_OUT = (*TRAINING, "ema", "batch", "is_best", "format")
"""What only going on with a training needs, or is stored otherwise."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


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


def write_safetensors(path: Path, state: dict[str, Any]) -> None:
    """Write the averaged weights of a checkpoint, and its values as metadata; whole or not at all.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save

    metadata = {key: to_json(value, allow_nan=True) for key, value in state.items() if key not in _LEFT_OUT}
    # Copies, because safetensors takes neither channels_last nor two names for one memory.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in state["ema"].items()}
    content = save(tensors, {"format": "pt", _MARK: FORMAT, **metadata})
    write_atomically(path, content)


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors on the CPU and metadata of any safetensors file.

    Raises:
        ConfigError: no such file, or a damaged one.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise ConfigError(f"{path}: no such file; check the path")
    try:
        with safe_open(str(path), framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except Exception as error:  # those of the package, and of torch for types of numbers that it has not
        size, reason = path.stat().st_size, first_line(error)
        raise ConfigError(
            f"{path}: cannot be read as safetensors ({size:,} bytes; {reason}): the file is cut off, damaged or of "
            "another kind; write it again with 'python -m utils.info CHECKPOINT --safetensors OUT'"
        ) from None


def load_foreign(path: Path, *, trust: bool = False) -> dict[str, Tensor]:
    """The weights in a file of another program, by name; floats as float32.

    Args:
        path: .safetensors, or what torch.save wrote: a state_dict, or a dict that holds one under a usual key.
        trust: let a pickle make objects of the classes that it names. THAT RUNS CODE FROM THE FILE: only for files
            whose origin is trusted. Without it, placeholders that do nothing stand for them, and a file whose weights
            lie within such objects is refused.
    Raises:
        ConfigError: no such file, a damaged one, one without weights, or one that would run code without `trust`.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; check the path")
    if path.suffix.lower() == SUFFIX:
        content: Any = read_safetensors(path)[0]
    else:
        try:
            content = read_torch_file(path) if trust else _read_inert(path)
        except pickle.UnpicklingError as error:
            if not trust:
                raise ConfigError(_refusal(path, error)) from None
            content = _load_trusted(path)
    weights = _find_weights(content)
    if not weights:
        keys = isinstance(content, Mapping) and listed(list(content)[:8])
        kind = f"the keys {keys}" if keys else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: expected the weights of a network (a state_dict), found {kind}")
    check_weights(weights, where=str(path), finite=False)  # of those that are used, whoever uses them
    return {_bare(name): value.float() if value.is_floating_point() else value for name, value in weights.items()}


def _with_values(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> dict[str, Any]:
    if metadata.get(_MARK) != FORMAT:
        raise ForeignFile(
            f"{path}: the weights of another program: its metadata has no model of CSPDet; start a training from it "
            "with train.py --weights"
        )
    try:
        state = {key: from_json(value) for key, value in metadata.items() if key not in ("format", _MARK)}
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: its metadata is damaged ({first_line(error)}); write the file again") from None
    state = {**state, "format": FORMAT, "ema": tensors}
    wrong = wrong_value(state)
    if wrong is not None:
        raise ConfigError(f"{path}: its metadata is damaged ({wrong}); write the file again")
    check_state(state, where=str(path))
    return state


class _Inert:
    """Stands for whatever an unknown class or function of a file would give; nothing of the file is called."""

    def __new__(cls, *_: object) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _read_inert(path: Path) -> Any:
    """Content of a file of torch.save without running its code; unknown objects beside its weights are placeholders.

    Raises:
        pickle.UnpicklingError: no weights can be had so.
        ConfigError: cut off, damaged, or of another kind.
    """
    try:
        return read_torch_file(path)
    except pickle.UnpicklingError as error:
        names = imported_names(path)
        parts = [name.rpartition(".") for name in names]
        placeholders: list[Any] = [type(name, (_Inert,), {"__module__": module}) for module, _, name in parts]
        try:
            with torch.serialization.safe_globals(placeholders):
                content = read_torch_file(path) if names else None
        except ConfigError:  # what placeholders cannot do is no damage of the file
            raise error from None
        if not _find_weights(content):
            raise
    logger.info("%s: left out what it holds of %s; no code of the file was run", path, listed(names[:5]))
    return content


def _load_trusted(path: Path) -> Any:
    """The one place of the project that lets a file run code: the user said --trust."""
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{path}: needs the package '{error.name}' of the program that wrote it; run this where that is installed, "
            "or save the state_dict alone there"
        ) from None
    except Exception as error:  # the file's own code may raise anything
        raise ConfigError(f"{path}: cannot be loaded ({type(error).__name__}: {first_line(error)})") from None


def _find_weights(content: Any, depth: int = 0) -> Mapping[str, Tensor]:
    """The first state_dict in a module or in usual containers; empty if there is none."""
    if isinstance(content, nn.Module):
        return content.float().state_dict()
    if not isinstance(content, Mapping) or depth > 3:
        return {}
    for key in CONTAINERS:
        weights = _find_weights(content[key], depth + 1) if key in content else {}
        if weights:
            return weights
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _refusal(path: Path, error: pickle.UnpicklingError) -> str:
    names = imported_names(path) or str(error).partition("Unsupported global: GLOBAL ")[2].split()[:1]
    wanted = f" ({', '.join([*names[:5], '...'] if len(names) > 5 else names)})" if names else ""
    return (
        f"{path}: not loaded, because it is a pickle that may run code from the file{wanted}. Save the weights alone "
        "with the program that made it: torch.save(model.state_dict(), 'weights.pth'), and start from that file; or, "
        "if you trust where it comes from, add --trust"
    )


def _bare(name: str) -> str:
    for wrapper in (*_WRAPPERS, *_WRAPPERS):
        name = name.removeprefix(wrapper)
    return name
