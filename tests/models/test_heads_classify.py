"""ClassifyHead: logits of an image, in both orders of pool and convolution, and its place in a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models.build import build_model
from models.config import ModelConfig
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.heads.classify import ClassifyHead
from utils.config import ConfigError
from utils.structures import Features

FEATURES = Features((8, 12, 16), (8, 16, 32))
BACKBONE = {"type": "darknet", "stem_channels": 8, "depths": [0, 1, 1], "channels": [8, 12, 16]}


def make_maps(batch: int = 2, height: int = 3, width: int = 5) -> list[torch.Tensor]:
    return [torch.randn(batch, c, height * 32 // s, width * 32 // s) for c, s in zip(*vars_of(FEATURES), strict=True)]


def vars_of(features: Features) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return features.channels, features.strides


def make_model(**changes: object) -> Detector:
    values = {"backbone": BACKBONE, "head": {"type": "classify"}, "image_size": 64, **changes}
    return build_model(ModelConfig(**values), 4)


@pytest.mark.parametrize("pool", ["first", "last"])
def test_no_images_give_no_logits(pool: str) -> None:
    head = ClassifyHead(features=FEATURES, num_classes=4, pool=pool)
    raw_maps = head(make_maps(0))
    assert [raw.shape for raw in raw_maps] == [(0, 4)]
    assert head.decode(raw_maps).shape == (0, 4)


@pytest.mark.parametrize("pool", ["first", "last"])
def test_logits_are_those_of_the_mean_cell(pool: str) -> None:
    """Convolution and mean commute: both orders give the linear map of the mean, whatever the map's size."""
    head = ClassifyHead(features=FEATURES, num_classes=4, pool=pool)
    maps = make_maps()
    expected = maps[-1].mean(dim=(2, 3)) @ head.conv.weight[:, :, 0, 0].T + head.conv.bias
    torch.testing.assert_close(head(maps), [expected])


def test_probabilities_sum_to_one_in_full_precision() -> None:
    head = ClassifyHead(features=FEATURES, num_classes=4)
    logits = torch.tensor([[3.0, 1.0, 0.0, -2.0], [1e4, 0.0, 0.0, 0.0]])
    probabilities = head.decode([logits])
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2))
    torch.testing.assert_close(probabilities[0], logits[0].exp() / logits[0].exp().sum())
    assert probabilities[1, 0] == 1
    assert head.decode([logits.to(torch.bfloat16)]).dtype == torch.float32
    assert head.decode([logits.double()]).dtype == torch.float64


def test_only_the_coarsest_map_is_read() -> None:
    head = ClassifyHead(features=FEATURES, num_classes=4)
    maps = make_maps()
    others = [torch.full_like(maps[0], torch.nan), torch.full_like(maps[1], torch.nan), maps[2]]
    torch.testing.assert_close(head(others), head(maps[-1:]))


@pytest.mark.parametrize("pool", ["first", "last"])
def test_dropout_is_for_training(pool: str) -> None:
    head = ClassifyHead(features=FEATURES, num_classes=4, pool=pool, dropout=0.5)
    maps = make_maps()
    assert not torch.equal(head(maps)[0], head(maps)[0])
    head.eval()
    assert torch.equal(head(maps)[0], head(maps)[0])


def test_heads_say_what_they_do() -> None:
    assert ClassifyHead.task == "classify"
    assert AnchorHead.task == "detect"
    assert make_model().task == "classify"
    anchors = {"type": "anchor", "anchors": [[8, 8], [16, 16], [32, 32]]}
    assert make_model(head=anchors, image_size=32).task == "detect"


def test_a_model_of_backbone_and_head() -> None:
    model = make_model()
    images = torch.rand(3, 3, 50, 71)  # no multiple of anything
    (logits,) = model(images)
    assert logits.shape == (3, 4)
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    with torch.no_grad():
        torch.testing.assert_close(model.eval().predict(images), model(images)[0].softmax(dim=1))


def test_the_last_layer_starts_small() -> None:
    """Fresh logits are near zero, so that training starts from equal probabilities."""
    head = ClassifyHead(features=Features((512,), (32,)), num_classes=10)
    assert head([torch.rand(8, 512, 7, 7)])[0].abs().max() < 1
    assert isinstance(head.conv, nn.Conv2d)


def test_stride_is_what_the_backbone_cannot_do_without() -> None:
    assert make_model(image_size=70).stride == 1
    elastic = {**BACKBONE, "elastic": True}
    assert make_model(backbone=elastic).stride == 16
    with pytest.raises(ConfigError, match="image_size: expected multiples of 16"):
        make_model(backbone=elastic, image_size=72)
    anchors = {"type": "anchor", "anchors": [[8, 8], [16, 16], [32, 32]]}
    assert make_model(backbone=elastic, head=anchors).stride == 16
    assert make_model(head=anchors).stride == 8


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ({"type": "classify", "dropout": 1.0}, "dropout: expected a share from 0 up to 1"),
        ({"type": "classify", "pool": "middle"}, "head.pool: expected one of first, last"),
        ({"type": "classify", "pools": "first"}, "Did you mean 'pool'"),
    ],
)
def test_wrong_heads_are_refused(head: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_model(head=head)


def test_no_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="num_classes: expected at least 1"):
        ClassifyHead(features=FEATURES, num_classes=0)
