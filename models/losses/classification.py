"""ClassificationLoss: logits and targets -> cross-entropy."""

from __future__ import annotations

from torch import Tensor, nn

from models.heads.classify import ClassifyHead
from utils.dist import sum_over_ranks
from utils.structures import Targets


class ClassificationLoss(nn.Module):
    """Cross-entropy of images whose labels may be shares of several classes (mixup, cutmix, mosaic).

    It is the mean over the images of the whole batch on all ranks, so splitting the batch over processes changes
    nothing.

    Args:
        head: the head whose logits are scored.
        label_smoothing: eps; the true class has the target 1 - eps, every other eps / (classes - 1)
            (docs/networks.md, Mixing images).
    """

    def __init__(self, *, head: ClassifyHead, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing: expected a share in [0, 1), found {label_smoothing}")
        self.num_classes = head.num_classes
        self.label_smoothing = label_smoothing

    def forward(self, raw_maps: list[Tensor], targets: Targets) -> dict[str, Tensor]:
        """The term 'class'.

        Args:
            raw_maps: one tensor, logits (B, C).
            targets: labels of each image, with weights that sum to 1; on the host.
        """
        (logits,) = raw_maps
        targets = targets.to(logits.device)
        log_shares = logits.float().log_softmax(dim=1)
        picked = log_shares[targets.image_index, targets.labels]
        true = (picked if targets.weights is None else picked * targets.weights).sum()
        other = self.label_smoothing / max(self.num_classes - 1, 1)
        loss = -(1 - self.label_smoothing - other) * true - other * log_shares.sum()
        count = sum_over_ranks(log_shares.new_full((), len(logits))).clamp(min=1)
        return {"class": loss / count}
