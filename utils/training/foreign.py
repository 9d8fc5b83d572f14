"""Weights that other programs saved: read as data; only `trust` runs what such a file would run."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from utils.config import ConfigError
from utils.training.checkpoint import read_torch_file
from utils.training.safetensors_file import SUFFIX, read_safetensors

CONTAINERS = ("ema", "model_ema", "state_dict_ema", "model", "state_dict", "model_state_dict", "net", "weights")
"""Keys under which training programs keep the weights; averaged ones first."""
_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and torch.compile put before every name."""


def load_foreign(path: Path, *, trust: bool = False) -> dict[str, Tensor]:
    """The weights in a file of another program, by name; floats as float32.

    Args:
        path: .safetensors, or what torch.save wrote: a state_dict, or a dict that holds one under a usual key.
        trust: load a pickle that names classes of its own too. THAT RUNS CODE FROM THE FILE: only for files whose
            origin is trusted.
    Raises:
        ConfigError: no such file, a damaged one, one without weights, or one that would run code without `trust`.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such file; check the path")
    if path.suffix.lower() == SUFFIX:
        content: Any = read_safetensors(path)[0]
    else:
        try:
            content = read_torch_file(path)
        except pickle.UnpicklingError as error:
            if not trust:
                raise ConfigError(_refusal(path, error)) from None
            content = _load_trusted(path)
    weights = _find_weights(content)
    if not weights:
        keys = isinstance(content, Mapping) and ", ".join(map(str, list(content)[:8]))
        found = f"the keys {keys}" if keys else f"a {type(content).__name__}"
        raise ConfigError(f"{path}: expected the weights of a network (a state_dict), found {found}")
    return {_bare(name): value.float() if value.is_floating_point() else value for name, value in weights.items()}


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
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise ConfigError(f"{path}: cannot be loaded ({type(error).__name__}: {reason})") from None


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
    wanted = f" ({', '.join(names)})" if (names := _unsafe_names(path, error)) else ""
    return (
        f"{path}: not loaded, because it is a pickle that may run code from the file{wanted}. Save the weights alone "
        "with the program that made it: torch.save(model.state_dict(), 'weights.pth'), and start from that file; or, "
        "if you trust where it comes from, add --trust"
    )


def _unsafe_names(path: Path, error: pickle.UnpicklingError) -> list[str]:
    """What the pickle would import, as far as torch can tell without doing so."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # files of the old format, and pickles that are not torch's, in any exception
        _, found, rest = str(error).partition("Unsupported global: GLOBAL ")
        return rest.split()[:1] if found else []
    return [*names[:5], "..."] if len(names) > 5 else list(names)


def _bare(name: str) -> str:
    for wrapper in (*_WRAPPERS, *_WRAPPERS):
        name = name.removeprefix(wrapper)
    return name
