"""TrainState: everything that changes during training, saved and loaded whole."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from engine.finetune import parts_of
from engine.optim import build_optimizer
from utils.config import ConfigError
from utils.faults import is_out_of_memory
from utils.finetune_config import StartConfig
from utils.recipe import EmaConfig, RecipeConfig

NOISE = 0.01
"""AP that val must have for certain before best.pt is chosen by it: what lies below may be an image or two by luck."""


class Average(nn.Module):
    """An average of a model's weights that starts as a copy and forgets ever more slowly (see EmaConfig).

    Buffers are averaged like weights; whole-number buffers (counts) are copied.

    Args:
        module: the averaged model, in evaluation mode.
        n_averaged: updates so far; a number of the host, which no device is asked for.
    """

    def __init__(self, model: nn.Module, config: EmaConfig) -> None:
        super().__init__()
        self.module = copy.deepcopy(model)
        self.config = config
        self.n_averaged = 0
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take in what `model` has now."""
        pairs = list(zip(_tensors(self.module), _tensors(model), strict=True))
        followed = [pair for pair in pairs if pair[0].is_floating_point() and self.n_averaged]
        copied = [pair for pair in pairs if not (pair[0].is_floating_point() and self.n_averaged)]
        share = 1 - decay_at(self.n_averaged, self.config)
        for averaged, current in _by_type(followed):
            torch._foreach_lerp_(averaged, current, share)
        for averaged, current in _by_type(copied):
            torch._foreach_copy_(averaged, current)
        self.n_averaged += 1


@dataclass(eq=False)
class TrainState:
    """Model, average, optimizer, scaler, position and records of one run.

    Args:
        step: optimizer updates done.
        epoch: epochs finished.
        batch: batches of the current epoch that are done; the sampler goes on from here.
        best: best AP so far; best_epoch: after which epoch; of several with the same AP, the last.
        better_epoch: after which epoch AP last rose; 0 while it is 0 or there is none. Patience counts from it.
        start: AP of the weights that the training starts from, or began anew from; None where they were not evaluated.
        told_apart: val can tell epochs apart; until then each epoch that is evaluated becomes best.pt.
        verdict: on the run so far, as plain values (engine/verdict.py); None while there is none.
        sums: totals of the current epoch for the log (losses, seconds, images).
    """

    model: nn.Module
    ema: Average
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0
    epoch: int = 0
    batch: int = 0
    best: float = -math.inf
    best_epoch: int = 0
    better_epoch: int = 0
    start: float | None = None
    told_apart: bool = False
    verdict: dict[str, Any] | None = None
    sums: dict[str, float] = field(default_factory=dict)

    @classmethod
    def create(
        cls, model: nn.Module, recipe: RecipeConfig, device: torch.device, *, start: StartConfig | None = None
    ) -> TrainState:
        """The state before the first step; `model` is on its device and frozen where the recipe says so.

        Args:
            start: what the weights of a start gave, which fine-tuning treats by parts.
        """
        scaler = torch.amp.GradScaler(device.type, enabled=amp_dtype(recipe, device) is torch.float16)
        parts = None if recipe.finetune is None or start is None else parts_of(model, start)
        return cls(model, Average(model, recipe.ema), build_optimizer(model, recipe.optimizer, parts=parts), scaler)

    def count(self, values: dict[str, float]) -> None:
        """Add to the epoch's totals."""
        for key, value in values.items():
            self.sums[key] = self.sums.get(key, 0.0) + value

    def begin_epoch_again(self, *, accumulate: int) -> None:
        """Count the steps of the current epoch, of so many batches each, as not done; the weights stay as they are."""
        self.step -= min(self.batch // accumulate, self.step)
        self.batch, self.sums = 0, {}

    def begin_again(self, average: dict[str, Tensor]) -> None:
        """Be before the first step again, with averaged weights of this run, which were the best so far."""
        self.model.load_state_dict(average)
        self.ema.module.load_state_dict(average)
        self.optimizer.state.clear()
        self.step = self.epoch = self.batch = self.best_epoch = self.better_epoch = 0
        self.start, self.verdict, self.sums = self.best, None, {}

    def is_out_of_patience(self, recipe: RecipeConfig) -> bool:
        """Whether too many epochs have gone by since the result last rose, above 0; asked after evaluations only."""
        if recipe.patience is None or self.epoch % recipe.evaluation.interval:
            return False
        has_risen = self.better_epoch > 0 or (self.start or 0) > 0
        return has_risen and self.epoch - self.better_epoch >= recipe.patience

    def note_result(self, figure: float | None, *, certain: float = math.inf) -> bool:
        """Note the main figure of the epoch that has just ended; returns whether its weights are the best so far.

        Of equal figures the later one is the best, and so it is where there is no figure: it has been trained longer.
        For the same reason it is so as long as no figure was more than noise; from the first one on that is, all
        choices are those of the figures.

        Args:
            certain: the lower end of the figure's interval; see `NOISE`.
        """
        value = -math.inf if figure is None else figure
        if value < self.best:
            return not self.told_apart
        self.told_apart |= certain > NOISE
        if value > max(self.best, 0.0):
            self.better_epoch = self.epoch
        self.best, self.best_epoch = value, self.epoch
        return True

    def note_start(self, figure: float | None) -> None:
        """Note the main figure of the weights that the training starts from: they are the best until others are."""
        if figure is not None:
            self.start = self.best = figure
            self.told_apart |= figure > 0  # no later epoch may be worse

    def progress_note(self) -> str:
        """Mean losses and speed of the epoch so far."""
        sums = self.sums
        terms = (f"{key[5:]} {value / sums['steps']:.3f}" for key, value in sums.items() if key.startswith("loss/"))
        return f"{' '.join(terms)}, {sums['images'] / sums['seconds']:.1f} images/s"

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "weights": self.model.state_dict(),
            "ema": self.ema.module.state_dict(),
            "ema_updates": self.ema.n_averaged,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "best": self.best,
            "best_epoch": self.best_epoch,
            "better_epoch": self.better_epoch,
            "start_figure": self.start,
            "told_apart": self.told_apart,
            "verdict": self.verdict,
            "sums": dict(self.sums),
            "rng": random_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` gave."""
        self.model.load_state_dict(state["weights"])
        self.ema.module.load_state_dict(state["ema"])
        self.ema.n_averaged = state["ema_updates"]
        self.optimizer.load_state_dict(_with_own_kernels(state["optimizer"], self.optimizer))
        if state["scaler"]:  # empty where another device needed no scale
            self.scaler.load_state_dict(state["scaler"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        best = state["best"]
        self.best = best if best >= 0 else -math.inf  # older releases noted -1 where there was no figure
        self.best_epoch, self.sums = state["best_epoch"], dict(state["sums"])
        self.better_epoch = state.get("better_epoch", self.best_epoch if best > 0 else 0)
        self.start = state.get("start_figure")
        # Runs of older releases go on choosing by AP alone.
        self.told_apart, self.verdict = state.get("told_apart", True), state.get("verdict")
        set_random_state(state["rng"])

    def resume(self, state: dict[str, Any], *, where: str) -> None:
        """`load_state_dict` of what a checkpoint holds; `where` is its name.

        Raises:
            ConfigError: it is of another model or optimizer than the run's configuration now says.
        """
        own = self.optimizer.state_dict()["param_groups"][0]
        try:
            saved = state["optimizer"]["param_groups"][0]
            if any((key in saved) != (key in own) for key in ("betas", "orthogonal")):
                raise ValueError("another type of optimizer")
            self.load_state_dict(state)
        except KeyError as error:
            raise ConfigError(f"{where}: {error} is missing in it, so no training can go on from it") from None
        except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            reason = str(error).splitlines()[-1].strip()
            raise ConfigError(
                f"{where}: does not fit the config.yaml of its run ({reason}); put back what was changed there, or "
                f"start a new run from its weights: --weights {where}"
            ) from None


def _with_own_kernels(saved: dict[str, Any], own: torch.optim.Optimizer) -> dict[str, Any]:
    """The saved state of an optimizer, to go on with the kernels that are this release's and device's choice."""
    groups = [
        {**group, **{key: mine[key] for key in ("fused", "foreach") if key in group and key in mine}}
        for group, mine in zip(saved["param_groups"], own.param_groups, strict=True)
    ]
    return {**saved, "param_groups": groups}


def decay_at(updates: int, config: EmaConfig) -> float:
    """Share of the old average that is kept after `updates` steps."""
    return min(config.decay, (1 + updates) / (config.ramp + updates))


class Snapshot:
    """The buffers of a model (statistics of batch normalisation) and the random numbers, as before a step."""

    def __init__(self) -> None:
        self.saved: list[Tensor] = []
        self.rng: dict[str, Tensor] = {}

    def take_(self, model: nn.Module) -> None:
        """Note the state of now; the memory of the last time is used again."""
        self.rng = random_state()
        buffers = list(model.buffers())
        if len(self.saved) != len(buffers):
            self.saved = [buffer.detach().clone() for buffer in buffers]
        else:
            _copy_(self.saved, buffers)

    def restore_(self, model: nn.Module) -> None:
        """Put back what was noted; nothing happens where nothing was."""
        if self.rng:
            set_random_state(self.rng)
        self.restore_buffers_(model)

    def restore_buffers_(self, model: nn.Module) -> None:
        """`restore_` without the random numbers; `model` may be a copy."""
        if self.saved:
            _copy_(list(model.buffers()), self.saved)


def random_state() -> dict[str, Tensor]:
    """Torch's generators; augmentation needs none, its draws are functions of (seed, epoch, index)."""
    state = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Tensor]) -> None:
    """Continue from what `random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


@torch.no_grad()
def _copy_(targets: list[Tensor], sources: list[Tensor]) -> None:
    """Copy each source into its target."""
    for some_targets, some_sources in _by_type(list(zip(targets, sources, strict=True))):
        torch._foreach_copy_(some_targets, some_sources)


def _by_type(pairs: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Pairs as two lists for each type of number, which a GPU computes in one go."""
    for kind in dict.fromkeys(first.dtype for first, _ in pairs):
        alike = [pair for pair in pairs if pair[0].dtype == kind]
        yield [first for first, _ in alike], [second for _, second in alike]


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(model.parameters(), model.buffers())


def amp_dtype(recipe: RecipeConfig, device: torch.device) -> torch.dtype | None:
    """The type of mixed precision, None for full precision.

    'auto' takes what the device is fast at: bf16 on newer GPUs and CPUs with instructions for it, fp16 on older GPUs.
    """
    if recipe.amp == "auto":
        if device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
        return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else None
    return {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}[recipe.amp]


def check_precision(recipe: RecipeConfig, device: torch.device) -> None:
    """Refuse a precision that PyTorch cannot train in on a device.

    Raises:
        ConfigError: fp16 on an Apple GPU before PyTorch 2.8, whose loss scaling computes in float64 there.
    """
    before = tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 8)
    if device.type == "mps" and amp_dtype(recipe, device) is torch.float16 and before:
        raise ConfigError(
            f"amp: fp16: PyTorch {torch.__version__} cannot scale losses on Apple GPUs; use --set amp=off, or "
            "PyTorch 2.8 or newer"
        )


def _cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 (AVX512-BF16 or AMX); emulation would be slower than fp32."""
    checks = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(check() for check in checks if check is not None)
