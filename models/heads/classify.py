"""ClassifyHead: one score for the whole image and each class; a backbone is trained on ImageNet with it."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from models.layers import make_activation
from models.parts import Head
from utils.structures import Features


class ClassifyHead(Head):
    """Global average pool and a 1x1 convolution with bias, as the darknet classifiers end (docs/networks.md).

    It reads only the coarsest map. `forward` returns a list of one tensor, logits (B, num_classes), because raw maps
    are a list for every task; `decode` returns probabilities.

    Args:
        features: what the backbone gives.
        num_classes: classes; an image has exactly one.
        pool: 'first' averages the map before the convolution; 'last' classifies every cell and averages the logits, as
            resnet50.cfg and resnext50.cfg do: the same values, at the cost of one convolution per cell.
        activation: after the convolution; 'leaky' and 'relu' as in some older darknet cfgs (extraction.cfg).
        dropout: share of the pooled channels (or, with pool 'last', of the cells' values) dropped in training.
    Raises:
        ValueError: no class, or a dropout outside 0 to 1.
    """

    task: Literal["detect", "classify"] = "classify"

    def __init__(
        self,
        *,
        features: Features,
        num_classes: int,
        pool: Literal["first", "last"] = "first",
        activation: Literal["linear", "leaky", "relu"] = "linear",
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes)
        if num_classes < 1:
            raise ValueError(f"num_classes: expected at least 1, found {num_classes}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a share from 0 up to 1 (exclusive), found {dropout}")
        self.pool_first = pool == "first"
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.conv = nn.Conv2d(features.channels[-1], num_classes, 1)
        self.act = make_activation(activation)
        nn.init.normal_(self.conv.weight, std=0.01)
        assert self.conv.bias is not None
        nn.init.zeros_(self.conv.bias)

    def class_layers(self) -> dict[str, tuple[int, int]]:
        """See Head."""
        return {"conv": (1, 0)}

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps (B, Ci, Hi, Wi), finest first -> [logits (B, num_classes)]."""
        x = maps[-1]
        x = self.dropout(self.pool(x)) if self.pool_first else self.dropout(x)
        x = self.act(self.conv(x))
        x = x if self.pool_first else self.pool(x)
        return [x.flatten(1)]

    def decode(self, raw_maps: list[Tensor]) -> Tensor:
        """Raw maps -> probabilities (B, num_classes), each row summing to 1; in float32 or finer."""
        (logits,) = raw_maps
        return logits.softmax(dim=1) if logits.dtype.itemsize >= 4 else logits.float().softmax(dim=1)
