"""A small training whose steps can be made to fail, for the tests beside."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.state import TrainState
from engine.step import StepClock, Stepper
from utils.recipe import OptimizerConfig, RecipeConfig, ScheduleConfig
from utils.structures import Batch, Targets

CPU = torch.device("cpu")


class Scale(nn.Module):
    """x times a number that a test may change."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def build_model() -> nn.Sequential:
    """Two convolutions, with all that keeps a state: batch normalisation and dropout."""
    first, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 1)
    return nn.Sequential(first, nn.BatchNorm2d(4), Scale(), nn.ReLU(), nn.Dropout(0.2), last).train()


def criterion(raw: Tensor, targets: Targets) -> dict[str, Tensor]:
    """Something that targets and outputs can make infinite."""
    sizes = (targets.boxes[:, 2:] - targets.boxes[:, :2]).log().sum()
    return {"box": raw.float().mean() ** 2 - 1e-3 * sizes, "class": (raw.float() - 1).abs().mean()}


def make(*, forward: object = None, lr: float = 0.01, **recipe: object) -> tuple[Stepper, TrainState]:
    """A stepper and its state before the first step."""
    optimizer = OptimizerConfig(lr=lr, clip_norm=recipe.pop("clip_norm", None))
    options = {"amp": "off", "channels_last": False, **recipe}
    schedule = ScheduleConfig(warmup_epochs=0, warmup_steps=0)
    config = RecipeConfig(optimizer=optimizer, schedule=schedule, epochs=10, **options)
    model = build_model()
    stepper = Stepper(forward or model, criterion, config, 100, 3, CPU, StepClock(CPU))
    return stepper, TrainState.create(model, config, CPU)


def make_batch(count: int = 4, *, number: int = 0) -> Batch:
    """`count` images of 8 x 8 pixels with a box each; uint8, as from a loader."""
    generator = torch.Generator().manual_seed(number)
    images = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor([[1.0, 1, 5, 6]]).repeat(count, 1)
    zeros = torch.zeros(count, dtype=torch.int64)
    targets = Targets(boxes, zeros, torch.arange(count), zeros.bool())
    ids = tuple(range(count))
    return Batch(images, targets, ids, tuple(f"{number}-{place}.jpg" for place in ids))


def whole_state(state: TrainState) -> dict[str, Tensor]:
    """Everything of a state that is a tensor, copied."""
    parts = {"rng": torch.get_rng_state()}
    parts |= {f"weights.{name}": value.clone() for name, value in state.model.state_dict().items()}
    parts |= {f"ema.{name}": value.clone() for name, value in state.ema.module.state_dict().items()}
    return parts


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    """Equal to the last bit."""
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
