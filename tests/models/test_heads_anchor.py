"""AnchorHead against a plain NumPy loop over the formulas of docs/networks.md, Layout and decoding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.heads.anchor import AnchorHead
from utils.config import ConfigError
from utils.schema import build
from utils.structures import Features

ANCHORS = [[10, 13, 16, 30, 33, 23], [30, 61, 62, 45], [116, 90]]
FEATURES = Features((6, 4, 5), (8, 16, 32))
SCALES = [1.2, 1.1, 1.05]


def make_head(*, num_classes: int = 3, scale_xy: float | list[float] = 1.0, size: str = "exp") -> AnchorHead:
    return AnchorHead(features=FEATURES, num_classes=num_classes, anchors=ANCHORS, scale_xy=scale_xy, size=size)


def raw_maps(head: AnchorHead, sizes: list[tuple[int, int]], batch: int = 2) -> list[torch.Tensor]:
    channels = [count * (5 + head.num_classes) for count in head.anchor_counts]
    return [2 * torch.randn(batch, c, h, w) for c, (h, w) in zip(channels, sizes, strict=True)]


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def decode_by_hand(raw: list[np.ndarray], classes: int, scales: list[float], size: str) -> tuple[np.ndarray, ...]:
    """Boxes (B, N, 4) and scores (B, N, C) in float64, prediction by prediction."""
    boxes, scores = [], []
    for image in range(len(raw[0])):
        image_boxes, image_scores = [], []
        for level, values in enumerate(raw):
            stride, s = FEATURES.strides[level], scales[level]
            pairs = np.reshape(ANCHORS[level], (-1, 2))
            for a, (aw, ah) in enumerate(pairs):
                for j in range(values.shape[2]):
                    for i in range(values.shape[3]):
                        tx, ty, tw, th, to, *tc = values[image, a * (5 + classes) : (a + 1) * (5 + classes), j, i]
                        x = (i + s * logistic(tx) - 0.5 * (s - 1)) * stride
                        y = (j + s * logistic(ty) - 0.5 * (s - 1)) * stride
                        if size == "exp":
                            w, h = aw * math.exp(tw), ah * math.exp(th)
                        else:
                            w, h = aw * (2 * logistic(tw)) ** 2, ah * (2 * logistic(th)) ** 2
                        image_boxes.append((x - w / 2, y - h / 2, x + w / 2, y + h / 2))
                        image_scores.append([logistic(to) * logistic(t) for t in tc])
        boxes.append(image_boxes)
        scores.append(image_scores)
    return np.array(boxes), np.array(scores)


@pytest.mark.parametrize("size", ["exp", "square"])
@pytest.mark.parametrize("scale_xy", [1.0, 2.0, SCALES])
@pytest.mark.parametrize("sizes", [[(8, 8), (4, 4), (2, 2)], [(5, 3), (3, 2), (2, 1)], [(1, 7), (1, 4), (1, 2)]])
def test_decode_follows_the_formula_in_the_order_of_levels_anchors_rows_columns(
    sizes: list[tuple[int, int]], scale_xy: float | list[float], size: str
) -> None:
    head = make_head(scale_xy=scale_xy, size=size)
    maps = raw_maps(head, sizes)
    scales = scale_xy if isinstance(scale_xy, list) else [scale_xy] * 3
    expected_boxes, expected_scores = decode_by_hand([m.double().numpy() for m in maps], 3, scales, size)
    boxes, scores = head.decode(maps)
    assert boxes.shape == (2, sum(c * h * w for c, (h, w) in zip(head.anchor_counts, sizes, strict=True)), 4)
    np.testing.assert_allclose(boxes.numpy(), expected_boxes, rtol=2e-5, atol=2e-3)
    np.testing.assert_allclose(scores.numpy(), expected_scores, rtol=1e-5, atol=1e-7)


def test_decode_takes_maps_in_channels_last_and_no_image_at_all() -> None:
    head = make_head()
    maps = raw_maps(head, [(4, 6), (2, 3), (1, 2)])
    boxes, scores = head.decode(maps)
    other_boxes, other_scores = head.decode([m.to(memory_format=torch.channels_last) for m in maps])
    torch.testing.assert_close(boxes, other_boxes)
    torch.testing.assert_close(scores, other_scores)
    boxes, scores = head.decode([m[:0] for m in maps])
    assert boxes.shape == (0, 3 * 24 + 2 * 6 + 2, 4)
    assert scores.shape == (0, 3 * 24 + 2 * 6 + 2, 3)


def test_huge_raw_values_give_finite_boxes() -> None:
    for size in ("exp", "square"):
        head = make_head(size=size)
        maps = [torch.full_like(m, 1e4) for m in raw_maps(head, [(2, 2), (1, 1), (1, 1)])]
        boxes, scores = head.decode(maps)
        assert boxes.isfinite().all()
        assert scores.isfinite().all()


def test_decode_boxes_gives_some_of_what_decode_level_gives() -> None:
    head = make_head(scale_xy=SCALES)
    raw = raw_maps(head, [(6, 4), (3, 2), (2, 1)])[1]
    whole = head.decode_level(raw, 1)
    image, anchor, row, column = (torch.tensor(v) for v in ([0, 1, 1], [1, 0, 1], [2, 0, 1], [1, 1, 0]))
    values = head.split(raw, 1)[image, anchor, row, column]
    some = head.decode_boxes(values[:, :4], torch.stack((column, row), 1).float(), head.anchors[1][anchor], 1)
    torch.testing.assert_close(some, whole[image, anchor, row, column])


def test_forward_gives_one_map_a_level() -> None:
    head = make_head()
    maps = head([torch.randn(2, c, 32 // s, 64 // s) for c, s in zip(FEATURES.channels, FEATURES.strides, strict=True)])
    assert [tuple(m.shape) for m in maps] == [(2, 24, 4, 8), (2, 16, 2, 4), (2, 8, 1, 2)]


@pytest.mark.parametrize("num_classes", [1, 2, 80])
def test_a_fresh_head_expects_few_objects_and_no_favourite_class(num_classes: int) -> None:
    head = make_head(num_classes=num_classes)
    for conv, stride, count in zip(head.convs, head.strides, head.anchor_counts, strict=True):
        bias = conv.bias.detach().view(count, -1).double().numpy()
        probability = 1 / (1 + np.exp(-bias))
        assert (bias[:, :4] == 0).all()
        np.testing.assert_allclose(probability[:, 4] * count * (640 / stride) ** 2, 8, rtol=1e-4)
        np.testing.assert_allclose(probability[:, 5:], min(0.5, 1 / num_classes), atol=0.01)


def test_anchors_travel_with_the_weights() -> None:
    head, other = make_head(), make_head()
    head.anchors_0.mul_(2)
    other.load_state_dict(head.state_dict())
    assert torch.equal(other.anchors[0], torch.tensor([[20.0, 26.0], [32.0, 60.0], [66.0, 46.0]]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchors": ANCHORS[:2]}, r"head: anchors: 2 lists for 3 levels \(strides \(8, 16, 32\)\)"),
        ({"anchors": [[1, 2], [3], [4, 5]]}, "head: anchors: expected width, height pairs above 0"),
        ({"anchors": [[1, 2], [], [4, 5]]}, "head: anchors: expected width, height pairs above 0"),
        ({"anchors": [[1, 2], [3, -4], [4, 5]]}, "head: anchors: expected width, height pairs above 0"),
        ({"anchors": "many"}, "head.anchors: expected a list"),
        ({"scale_xy": [1.2, 1.1]}, r"head: scale_xy: expected one number, or one a level \(3\)"),
        ({"scale_xy": 0.9}, "head: scale_xy: .* at least 1, found 0.9"),
        ({"scale_xy": True}, "head.scale_xy: expected a number"),
        ({"size": "cube"}, "head.size: expected one of exp, square, found 'cube'"),
        ({"ancors": 3}, r"head.ancors: unknown key for type 'anchor'. Did you mean 'anchors'\?"),
    ],
)
def test_wrong_arguments_are_named(change: dict, message: str) -> None:
    spec = {"type": "anchor", "anchors": ANCHORS, **change}
    with pytest.raises(ConfigError, match=message):
        build({"anchor": AnchorHead}, spec, where="head", features=FEATURES, num_classes=3)
