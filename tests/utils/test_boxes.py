"""utils/boxes.py against plain NumPy loops, and the round trip through the letterbox."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from utils.boxes import (
    aligned_iou,
    box_iou,
    clip,
    cxcywh_to_xyxy,
    least_shape,
    plan_resize,
    shape_iou,
    xywh_to_xyxy,
    xyxy_to_cxcywh,
    xyxy_to_xywh,
)

SIZES = [
    (480, 640, (416, 416)),
    (37, 1000, (320, 320)),
    (1000, 37, (320, 512)),
    (1, 1, (64, 96)),
    (333, 501, (608, 608)),
]


def random_boxes(count: int, height: float, width: float) -> np.ndarray:
    """(N, 4) float64 xyxy inside an image."""
    rng = np.random.default_rng(5)
    x, y = np.sort(rng.uniform(0, width, (count, 2)), axis=1), np.sort(rng.uniform(0, height, (count, 2)), axis=1)
    return np.stack((x[:, 0], y[:, 0], x[:, 1], y[:, 1]), axis=1)


@pytest.mark.parametrize("mode", ["letterbox", "corner", "stretch"])
def test_an_empty_set_of_boxes_keeps_its_shape(mode: str) -> None:
    box = plan_resize(480, 640, (416, 416), mode)
    for empty in (np.zeros((0, 4), np.float32), torch.zeros(0, 4)):
        for result in (box.apply(empty), box.invert(empty), clip(empty, 10, 10), *formats(empty)):
            assert result.shape == (0, 4)
            assert result.dtype == empty.dtype
    assert shape_iou(torch.zeros(0, 2), torch.ones(3, 2)).shape == (0, 3)


def formats(boxes: np.ndarray | torch.Tensor) -> list[np.ndarray | torch.Tensor]:
    return [change(boxes) for change in (xyxy_to_xywh, xywh_to_xyxy, xyxy_to_cxcywh, cxcywh_to_xyxy)]


@pytest.mark.parametrize("mode", ["letterbox", "corner", "stretch"])
@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_invert_undoes_apply(height: int, width: int, size: tuple[int, int], mode: str) -> None:
    boxes = random_boxes(50, height, width)
    box = plan_resize(height, width, size, mode)
    inside = box.apply(boxes)
    assert (inside >= -1e-9).all()
    assert (inside[:, 2] <= size[1] + 1e-9).all()
    assert (inside[:, 3] <= size[0] + 1e-9).all()
    np.testing.assert_allclose(box.invert(inside), boxes, atol=1e-9)
    there = box.invert(box.apply(torch.tensor(boxes, dtype=torch.float32)))
    np.testing.assert_allclose(there.numpy(), boxes, atol=1e-3 * max(height, width) / 100 + 1e-3)


def test_invert_clips_to_the_original_image() -> None:
    box = plan_resize(100, 200, (416, 416), "letterbox")
    found = box.invert(torch.tensor([[-50.0, -50.0, 999.0, 999.0], [500.0, 10.0, 600.0, 20.0]]))
    assert found.tolist() == [[0.0, 0.0, 200.0, 100.0], [200.0, 0.0, 200.0, 0.0]]


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_the_letterbox_keeps_the_aspect_fills_one_side_and_centres_the_image(
    height: int, width: int, size: tuple[int, int]
) -> None:
    box = plan_resize(height, width, size, "letterbox")
    inner = np.array([height * box.scale_y, width * box.scale_x])
    np.testing.assert_allclose(inner, np.round(inner), atol=1e-9)
    assert (np.round(inner) == size).any()
    assert (inner >= 1).all()
    ideal = min(size[0] / height, size[1] / width)
    assert np.abs(inner - np.array([height, width]) * ideal).max() <= 1  # to whole pixels, and at least one
    left_over = np.array(size) - np.round(inner)
    assert np.array([box.pad_y, box.pad_x]).tolist() == (left_over // 2).tolist()


@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_the_corner_is_a_letterbox_at_the_top_left_with_sides_rounded_down(
    height: int, width: int, size: tuple[int, int]
) -> None:
    box = plan_resize(height, width, size, "corner")
    ratio = min(size[0] / height, size[1] / width)  # as yolox/data/data_augment.py has it
    inner = round(height * box.scale_y), round(width * box.scale_x)
    assert inner == (max(int(height * ratio), 1), max(int(width * ratio), 1))
    assert (box.pad_x, box.pad_y) == (0, 0)
    least = least_shape(height, width, size, 32, "corner")
    assert plan_resize(height, width, size, "corner", shape=least) == box
    assert all(inside <= side < inside + 32 for inside, side in zip(inner, least, strict=True))


def test_stretch_fills_the_input() -> None:
    box = plan_resize(50, 200, (100, 100), "stretch")
    assert box.apply(np.array([[0.0, 0.0, 200.0, 50.0]])).tolist() == [[0.0, 0.0, 100.0, 100.0]]


@pytest.mark.parametrize("size", [(64, 64), (32, 96), (333, 100)])
def test_the_crop_keeps_the_aspect_fills_the_input_and_cuts_both_sides_alike(size: tuple[int, int]) -> None:
    for height, width in ((50, 200), (200, 50), (64, 64), (7, 1000), (301, 299)):
        plan = plan_resize(height, width, size, "crop")
        inner = round(height * plan.scale_y), round(width * plan.scale_x)
        assert min(inner[0] - size[0], inner[1] - size[1]) == 0
        assert plan.scale_x == pytest.approx(plan.scale_y, rel=0.51 / min(inner))
        for pad, side, whole in ((plan.pad_y, size[0], inner[0]), (plan.pad_x, size[1], inner[1])):
            assert 0 <= -pad - (whole - side) / 2 <= 0.5


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="'cut' is unknown; expected one of letterbox, corner, stretch, crop"):
        plan_resize(10, 10, (20, 20), "cut")


def test_formats_go_there_and_back() -> None:
    boxes = random_boxes(20, 90, 120)
    for value in (boxes, torch.from_numpy(boxes)):
        np.testing.assert_allclose(xywh_to_xyxy(xyxy_to_xywh(value)), boxes, atol=1e-12)
        np.testing.assert_allclose(cxcywh_to_xyxy(xyxy_to_cxcywh(value)), boxes, atol=1e-12)
    assert xyxy_to_xywh(np.array([[10, 20, 30, 60.0]])).tolist() == [[10, 20, 20, 40]]
    assert xyxy_to_cxcywh(np.array([[10, 20, 30, 60.0]])).tolist() == [[20, 40, 20, 40]]


def test_shape_iou_is_the_iou_of_boxes_with_one_centre() -> None:
    rng = np.random.default_rng(1)
    sizes, others = rng.uniform(1, 300, (30, 2)), rng.uniform(1, 300, (9, 2))
    expected = np.zeros((30, 9))
    for i, (w, h) in enumerate(sizes):
        for j, (v, g) in enumerate(others):
            overlap = min(w, v) * min(h, g)
            expected[i, j] = overlap / (w * h + v * g - overlap)
    found = shape_iou(torch.from_numpy(sizes), torch.from_numpy(others))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    assert shape_iou(torch.tensor([[7.0, 9.0]]), torch.tensor([[7.0, 9.0]])).item() == 1


def test_aligned_iou_broadcasts_to_all_pairs() -> None:
    one, two = torch.from_numpy(random_boxes(50, 60, 80)).split((30, 20))
    pairs = aligned_iou(one[:, None], two[None])
    torch.testing.assert_close(pairs, box_iou(one, two), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(aligned_iou(one[:20], two), pairs[:20].diagonal())


def test_box_iou_is_that_of_torchvision_to_the_bit() -> None:
    for boxes in (random_boxes(50, 60, 80), random_boxes(50, 60, 80).astype(np.float32)):
        one, two = torch.from_numpy(boxes).split((30, 20))
        expected = torchvision.ops.box_iou(one, two)
        assert torch.equal(box_iou(one, two), expected)
        assert np.array_equal(box_iou(one.numpy(), two.numpy()), expected.numpy())
    assert box_iou(boxes[:0], boxes).shape == (0, 50)


@pytest.mark.parametrize("shape", [(432, 768), (768, 432), (1, 5000), (333, 333), (480, 640), (719, 1279)])
@pytest.mark.parametrize("size", [(416, 416), (320, 608)])
def test_least_shape_keeps_the_scale_and_saves_whole_strides(shape: tuple[int, int], size: tuple[int, int]) -> None:
    least = least_shape(*shape, size, 32)
    square, small = plan_resize(*shape, size, "letterbox"), plan_resize(*shape, size, "letterbox", shape=least)
    assert (small.scale_x, small.scale_y) == (square.scale_x, square.scale_y)
    for side, most, inner, pad in (
        (least[0], size[0], round(shape[0] * small.scale_y), small.pad_y),
        (least[1], size[1], round(shape[1] * small.scale_x), small.pad_x),
    ):
        assert side % 32 == 0
        assert inner <= side <= min(most, inner + 31)
        assert 0 <= pad <= side - inner - pad <= pad + 1
