"""The classification loss against PyTorch's cross-entropy, over mixed labels, smoothing and ranks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from models.build import CRITERIA
from models.heads.classify import ClassifyHead
from models.losses import classification
from models.losses.classification import ClassificationLoss
from utils.config import ConfigError
from utils.schema import build
from utils.structures import Features, Targets

CLASSES = 5


def head(num_classes: int = CLASSES) -> ClassifyHead:
    return ClassifyHead(features=Features((8,), (32,)), num_classes=num_classes)


def targets(shares: list[dict[int, float]]) -> Targets:
    """Of each image its labels and their shares."""
    rows = [(image, label, share) for image, parts in enumerate(shares) for label, share in parts.items()]
    images, labels, weights = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
    count = len(rows)
    boxes, crowd = torch.zeros(count, 4), torch.zeros(count, dtype=torch.bool)
    whole = torch.tensor(labels, dtype=torch.int64), torch.tensor(images, dtype=torch.int64)
    return Targets(boxes, *whole, crowd, torch.tensor(weights, dtype=torch.float32))


def dense(shares: list[dict[int, float]], eps: float = 0.0) -> Tensor:
    """(B, C) targets, smoothed as darknet does: 1 - eps for the true class, eps / (C - 1) for the others."""
    rows = torch.zeros(len(shares), CLASSES)
    for image, parts in enumerate(shares):
        for label, share in parts.items():
            one = torch.full((CLASSES,), eps / (CLASSES - 1))
            one[label] = 1 - eps
            rows[image] += share * one
    return rows


SHARES = [{0: 1.0}, {1: 0.5, 3: 0.5}, {2: 0.25, 4: 0.75}, {3: 1.0}]


def test_no_images_cost_nothing() -> None:
    logits = torch.zeros(0, CLASSES, requires_grad=True)
    terms = ClassificationLoss(head=head())([logits], targets([]))
    assert terms["class"].item() == 0
    terms["class"].backward()


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_it_is_the_cross_entropy_of_mixed_and_smoothed_labels(eps: float) -> None:
    logits = torch.randn(len(SHARES), CLASSES, requires_grad=True)
    loss = ClassificationLoss(head=head(), label_smoothing=eps)([logits], targets(SHARES))["class"]
    expected = cross_entropy(logits, dense(SHARES, eps))
    torch.testing.assert_close(loss, expected)
    (mine,), (other,) = (torch.autograd.grad(value, logits, retain_graph=True) for value in (loss, expected))
    torch.testing.assert_close(mine, other)


def test_labels_without_weights_are_whole() -> None:
    logits = torch.randn(3, CLASSES)
    labels = torch.tensor([4, 0, 2])
    plain = Targets(torch.zeros(3, 4), labels, torch.arange(3), torch.zeros(3, dtype=torch.bool))
    torch.testing.assert_close(ClassificationLoss(head=head())([logits], plain)["class"], cross_entropy(logits, labels))


def test_smoothed_loss_of_a_perfect_answer_is_its_entropy() -> None:
    eps, true, other = 0.1, 0.9, 0.1 / (CLASSES - 1)
    logits = torch.full((1, CLASSES), other).log()
    logits[0, 2] = math.log(true)
    loss = ClassificationLoss(head=head(), label_smoothing=eps)([logits], targets([{2: 1.0}]))["class"]
    assert loss.item() == pytest.approx(-true * math.log(true) - (CLASSES - 1) * other * math.log(other), rel=1e-5)


def test_two_ranks_add_up_to_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = torch.randn(4, CLASSES)
    criterion = ClassificationLoss(head=head(), label_smoothing=0.1)
    whole = criterion([logits], targets(SHARES))["class"]
    monkeypatch.setattr(classification, "sum_over_ranks", lambda _: torch.tensor(4.0))
    parts = [criterion([logits[k:n]], targets(SHARES[k:n]))["class"] for k, n in ((0, 1), (1, 4))]
    torch.testing.assert_close(sum(parts), whole)


def test_half_precision_and_one_class() -> None:
    logits = torch.randn(2, CLASSES, dtype=torch.bfloat16)
    assert ClassificationLoss(head=head())([logits], targets(SHARES[:2]))["class"].dtype == torch.float32
    single = ClassificationLoss(head=head(1), label_smoothing=0.1)
    assert single([torch.randn(2, 1)], targets([{0: 1.0}, {0: 1.0}]))["class"].item() == 0


def test_it_belongs_to_the_head_and_its_keys_are_checked() -> None:
    assert CRITERIA[ClassifyHead] is ClassificationLoss
    kinds = {"loss": ClassificationLoss}
    with pytest.raises(ConfigError, match="label_smoothing: expected a share in"):
        build(kinds, {"type": "loss", "label_smoothing": 1.5}, where="loss", head=head())
    with pytest.raises(ConfigError, match="box_gain: unknown key"):
        build(kinds, {"type": "loss", "box_gain": 1.0}, where="loss", head=head())
