"""What the tests of saved models share: the content of a checkpoint, and values that nobody here wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from models.build import build_model
from models.config import ModelConfig, load_model_config, model_config_from
from utils.checkpoint import FORMAT
from utils.config import ConfigError, to_plain
from utils.text import LONGEST_MESSAGE, printable_lines


def saved_state(tiny_model: Path) -> dict[str, Any]:
    """What a checkpoint holds, for a tiny model."""
    torch.manual_seed(0)
    config = load_model_config(tiny_model)
    model = build_model(config, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return {
        "format": FORMAT,
        "model": to_plain(config),
        "recipe": {"epochs": 2, "optimizer": {"type": "sgd"}, "schedule": {"type": "cosine"}},
        "names": ["cat", "dog"],
        "category_ids": [1, 7],
        "image_size": [64, 64],
        "resize": "letterbox",
        "data": "shapes",
        "fingerprint": {"train": "ab" * 32, "val": "cd" * 32},
        "metrics": {"AP": 0.25},
        "versions": {"python": "3.11"},
        "weights": model.state_dict(),
        "ema": model.state_dict(),
        "ema_updates": 3,
        "optimizer": optimizer.state_dict(),
        "scaler": {},
        "rng": {"cpu": torch.get_rng_state()},
        "step": 3,
        "epoch": 1,
        "batch": 0,
        "best": 0.25,
        "best_epoch": 1,
        "is_best": True,
        "sums": {"steps": 3.0},
        "seed": 0,
    }


def written(folder: Path, state: dict[str, Any]) -> Path:
    """A checkpoint with any content."""
    torch.save(state, folder / "x.pt")
    return folder / "x.pt"


def with_first_weight(state: dict[str, Any], value: object) -> dict[str, Any]:
    name = next(name for name in state["ema"] if name.endswith("conv.weight"))
    return {**state, "ema": {**state["ema"], name: value}}


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def bomb() -> list:
    """Lists of lists of one list: 10**30 values in a few bytes."""
    value: list = [0]
    for _ in range(30):
        value = [value] * 10
    return value


def model_of(state: dict[str, Any]) -> ModelConfig:
    """The configuration in a checkpoint."""
    return model_config_from(state["model"], where="x")


def refused_or_fine(read: Callable[[], Any]) -> Any:
    """What `read` gives; None where it ends in a ConfigError, which is short and steers no terminal."""
    try:
        return read()
    except ConfigError as error:
        message = str(error)
        assert 0 < len(message) < LONGEST_MESSAGE + 100
        assert printable_lines(message) == message
        return None
