"""The groups of a recipe that make the training harder: self-adversarial images and DropBlock."""

from __future__ import annotations

from dataclasses import dataclass

from utils.schema import require


@dataclass(frozen=True)
class AdversarialConfig:
    """Self-adversarial training: images changed so that the network overlooks their objects (see adversarial.py).

    Args:
        lr: what the change is multiplied by at the end of the training, darknet's adversarial_lr; it rises from 0 in a
            line. 0 turns it off.
        probability: of a batch to be changed, once warm-up is over.
    """

    lr: float = 0.0
    probability: float = 0.5

    def __post_init__(self) -> None:
        require(self.lr >= 0, "lr", "a number of at least 0", self.lr)
        require(0 <= self.probability <= 1, "probability", "a share in [0, 1]", self.probability)


@dataclass(frozen=True)
class DropBlockConfig:
    """DropBlock between backbone and neck, while training (models/dropblock.py).

    Args:
        probability: share of each map that is dropped at the end of the training; it rises from 0 in a line.
        size: side of the square blocks, in cells of the map.
    """

    probability: float = 0.0
    size: int = 7

    def __post_init__(self) -> None:
        require(0 <= self.probability < 1, "probability", "a share in [0, 1)", self.probability)
        require(self.size >= 1, "size", "a whole number of at least 1", self.size)
