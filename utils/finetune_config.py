"""FinetuneConfig: how a training treats the weights that it starts from; StartConfig: what those weights were."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from utils.schema import require


@dataclass(frozen=True)
class FinetuneConfig:
    """The group `finetune` of a recipe; the rules of 'auto' are in engine/finetune.py.

    Args:
        head_epochs: epochs at the start in which the head and what else is new learn, and nothing else moves; 'auto'
            follows from the length of the training, and is 0 where nothing is new. Fixed when the training starts.
        rate: the learning rate of weights that were loaded, as a share of that of new ones; 'auto' is 1, and a
            tenth of it and less where the first epochs are worse than the start.
    """

    head_epochs: int | Literal["auto"] = "auto"
    rate: float | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        epochs, rate = self.head_epochs, self.rate
        require(epochs == "auto" or epochs >= 0, "head_epochs", "a whole number of at least 0, or auto", epochs)
        require(rate == "auto" or rate > 0, "rate", "a number above 0, or auto", rate)


@dataclass(frozen=True)
class StartConfig:
    """What `--weights` gave a model, as config.yaml of a run says it.

    Args:
        known: classes of the data whose outputs came; the start is evaluated if there are any.
        new: prefixes of the parameters that did not come, or not whole.
        scales: parameters that are many times larger than others of their kind, and how many times.
    """

    known: int = 0
    new: list[str] = field(default_factory=list)
    scales: dict[str, float] = field(default_factory=dict)
