"""TrainState: everything that changes during training, saved and loaded whole."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from utils.config import ConfigError
from utils.training.config import RecipeConfig
from utils.training.ema import build_ema
from utils.training.memory import is_out_of_memory
from utils.training.optim import build_optimizer
from utils.training.snapshot import random_state, set_random_state


@dataclass(eq=False)
class TrainState:
    """Model, average, optimizer, scaler, position and records of one run.

    Args:
        step: optimizer updates done.
        epoch: epochs finished.
        batch: batches of the current epoch that are done; the sampler goes on from here.
        best: best AP so far; best_epoch: after which epoch.
        sums: totals of the current epoch for the log (losses, seconds, images).
    """

    model: nn.Module
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    sums: dict[str, float] = field(default_factory=dict)

    @classmethod
    def create(cls, model: nn.Module, recipe: RecipeConfig, device: torch.device) -> TrainState:
        """The state before the first step; `model` is on its device and frozen where the recipe says so."""
        scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(recipe, device) is torch.float16)
        return cls(model, build_ema(model, recipe.ema), build_optimizer(model, recipe.optimizer), scaler)

    def count(self, values: dict[str, float]) -> None:
        """Add to the epoch's totals."""
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def is_out_of_patience(self, recipe: RecipeConfig) -> bool:
        """Whether too many epochs have gone by without a better result; asked after evaluations only."""
        evaluated = self.epoch % recipe.evaluation.interval == 0
        return bool(recipe.patience) and evaluated and self.epoch - self.best_epoch >= recipe.patience

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "weights": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "ema_updates": int(self.ema.n_averaged),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "sums": dict(self.sums),
            "rng": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.model.load_state_dict(state["weights"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.n_averaged.fill_(state["ema_updates"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"]:  # empty where another device needed no scale
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.best, self.best_epoch, self.sums = state["best"], state["best_epoch"], dict(state["sums"])
        set_random_state(state["rng"])

    def resume(self, state: dict[str, Any], *, where: str) -> None:
        """`load_state_dict` of what a checkpoint holds; `where` is its name.

        Raises:
            ConfigError: it is of another model or optimizer than the run's configuration now says.
        """
        saved, own = (each["param_groups"][0].keys() for each in (state["optimizer"], self.optimizer.state_dict()))
        try:
            if any((key in saved) != (key in own) for key in ("betas", "orthogonal")):
                raise ValueError("another type of optimizer")
            self.load_state_dict(state)
        except (RuntimeError, ValueError) as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[-1].strip()
            raise ConfigError(
                f"{where}: does not fit the config.yaml of its run ({reason}); put back what was changed there, or "
                f"start a new run from its weights: --weights {where}"
            ) from None


def amp_dtype(recipe: RecipeConfig, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision, None for full precision.

    'auto' takes what the device is fast at: bf16 on newer GPUs and CPUs with instructions for it, fp16 on older GPUs.
    """
    if recipe.amp == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else None
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.amp]


def _cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 (AVX512-BF16 or AMX); emulation would be slower than fp32."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)
