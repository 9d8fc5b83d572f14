"""The model that a checkpoint or a .safetensors file describes, built only if the weights beside it fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.module import register_module_module_registration_hook

from models.build import build_model
from models.config import ModelConfig, model_config_from
from models.detector import Detector
from utils.config import ConfigError
from utils.faults import is_out_of_memory
from utils.text import first_line, shown


def build_saved(
    values: Mapping[str, Any], classes: int, weights: Mapping[str, Tensor], *, where: str
) -> tuple[ModelConfig, Detector]:
    """The configuration and the model that a file describes, with the weights beside that description.

    The description is tried without memory first: a file asks for no more than its own weights.

    Raises:
        ConfigError: no model that can be built, or other weights than it has.
    """
    name = values.get("name", "model")
    if classes < 1:
        raise ConfigError(f"{where}: names: expected one or more, found none; the checkpoint was changed")
    try:
        config = model_config_from(values, where=f"{where}: model")
        with torch.device("meta"), at_most_modules(5 * len(weights) + 300):
            planned = build_model(config, classes)
        check_shapes(planned, weights)
        model = build_model(config, classes)
        model.load_state_dict(dict(weights))
    except Misfit as error:
        raise ConfigError(
            f"{where}: the weights do not fit the model {shown(name)} described beside them ({error}); the checkpoint "
            "was changed, or comes from another version of CSPDet"
        ) from None
    except ConfigError:
        raise
    except Exception as error:  # a description that was changed can end in any
        if is_out_of_memory(error):
            raise
        raise ConfigError(
            f"{where}: the model {shown(name)} described in it cannot be built ({type(error).__name__}: "
            f"{first_line(error)}); the checkpoint was changed, or comes from another version of CSPDet"
        ) from None
    return config, model


class Misfit(ConfigError):
    """Weights for another model than described."""


def check_shapes(model: Detector, weights: Mapping[str, Tensor]) -> None:
    """Compare names and shapes.

    Raises:
        Misfit: the first that differs.
    """
    own = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    for name in (*own, *weights):
        in_file = tuple(weights[name].shape) if name in weights else None
        if in_file != own.get(name):
            raise Misfit(f"{shown(name)}: expected {_shape(own.get(name))}, found {_shape(in_file)}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else " x ".join(map(str, shape)) or "a number"


@contextmanager
def at_most_modules(count: int) -> Iterator[None]:
    """Refuse a model of more modules while it is built, before it takes hours.

    Raises:
        ValueError: more than `count`. Of the models in cfg/, none has more than 2 for each tensor of its weights.
    """
    built = 0

    def note(*_: object) -> None:
        nonlocal built
        built += 1
        if built > count:
            raise ValueError(f"the model has more than {count:,} parts, and the file too few weights for so many")

    handle = register_module_module_registration_hook(note)
    try:
        yield
    finally:
        handle.remove()
