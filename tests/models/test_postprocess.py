"""Postprocessing against a naive NumPy reference, against torchvision, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models.postprocess import postprocess, top_classes
from utils.choices import NMS_KINDS
from utils.structures import Detections

DEFAULTS = {"conf_thres": 0.1, "iou_thres": 0.5, "max_det": 100}


def test_top_classes_of_nothing_and_of_little() -> None:
    assert top_classes(torch.zeros(0, 4), []) == []
    (found,) = top_classes(torch.tensor([[0.2, 0.5, 0.2, 0.1]]), [(30, 40)], most=3)
    assert found.labels.tolist() == [1, 0, 2]
    assert found.boxes.tolist() == [[0, 0, 40, 30]] * 3
    (found,) = top_classes(torch.tensor([[0.2, 0.5, 0.2, 0.1]]), [(30, 40)], conf_thres=0.15, classes=[3, 2, 0])
    assert (found.labels.tolist(), found.boxes.shape) == ([0, 2], (2, 4))
    (found,) = top_classes(torch.tensor([[0.2, 0.8]]), [(30, 40)], conf_thres=0.9)
    assert (len(found), found.boxes.shape) == (0, (0, 4))


def naive(boxes: np.ndarray, scores: np.ndarray, *, conf: float, iou: float, max_det: int, kind: str, beta: float):
    """One class at a time, one pair at a time, in double precision; rows (score, box index, class) best first."""

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        shared = width * height if width > 0 and height > 0 else 0.0
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
        value = shared / union if union > 0 else 0.0
        if kind == "none":
            return 0.0
        if kind in ("default", "vote"):
            return value
        d = ((a[0] + a[2]) / 2 - (b[0] + b[2]) / 2) ** 2 + ((a[1] + a[3]) / 2 - (b[1] + b[3]) / 2) ** 2
        c = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
        return value - (d / c) ** (0.6 if kind == "greedynms" else beta) if c > 0 else value

    rows = []
    for label in range(scores.shape[1]):
        order = sorted(np.flatnonzero(scores[:, label] > conf), key=lambda i: -scores[i, label])
        kept: list[int] = []
        for i in order:
            if all(overlap(boxes[k].astype(float), boxes[i].astype(float)) <= iou for k in kept):
                kept.append(i)
        rows += [(float(scores[i, label]), int(i), label) for i in kept]
    return sorted(rows, key=lambda row: (-row[0], row[1], row[2]))[:max_det]


def crowded(seed: int, *, count: int = 250, classes: int = 4, size: float = 300) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes that overlap a lot, scores with many ties, about half below the threshold."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.rand(1, count, 2, generator=generator) * size
    sizes = torch.rand(1, count, 2, generator=generator) * size / 3 + 20
    scores = (torch.rand(1, count, classes, generator=generator) * 0.2).mul(100).round().div(100)
    return torch.cat((centres - sizes / 2, centres + sizes / 2), dim=-1), scores


def test_nothing_in_nothing_out() -> None:
    assert postprocess(torch.zeros(0, 5, 4), torch.zeros(0, 5, 3), **DEFAULTS) == []
    for count, score in ((0, 0.0), (5, 0.05), (5, float("nan"))):
        (found,) = postprocess(torch.rand(1, count, 4), torch.full((1, count, 3), score), **DEFAULTS)
        assert found.boxes.shape == (0, 4)
        assert found.scores.shape == found.labels.shape == (0,)
        assert (found.boxes.dtype, found.labels.dtype) == (np.float32, np.int64)


def test_one_box_may_have_several_classes() -> None:
    box, scores = torch.tensor([[[1.0, 2, 3, 4]]]), torch.tensor([[[0.3, 0.05, 0.9]]])
    (found,) = postprocess(box, scores, **DEFAULTS)
    assert found.labels.tolist() == [2, 0]
    assert found.scores.tolist() == pytest.approx([0.9, 0.3])
    assert found.boxes.tolist() == [[1, 2, 3, 4]] * 2


def test_a_score_at_the_threshold_does_not_count() -> None:
    box, scores = torch.tensor([[[1.0, 2, 3, 4]]]), torch.tensor([[[0.5]]])
    assert len(postprocess(box, scores, conf_thres=0.5, iou_thres=0.5, max_det=9)[0]) == 0
    assert len(postprocess(box, scores, conf_thres=0.4999, iou_thres=0.5, max_det=9)[0]) == 1


def test_an_overlap_at_the_threshold_stays() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 5]]])
    scores = torch.tensor([[[0.9], [0.8]]])
    assert len(postprocess(boxes, scores, conf_thres=0.1, iou_thres=0.5, max_det=9)[0]) == 2
    assert len(postprocess(boxes, scores, conf_thres=0.1, iou_thres=0.499, max_det=9)[0]) == 1


@pytest.mark.parametrize("kind", [kind for kind in NMS_KINDS if kind != "vote"])
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("max_det", [10, 1000])
def test_equals_the_naive_reference(kind: str, seed: int, max_det: int) -> None:
    boxes, scores = crowded(seed)
    options = {"conf_thres": 0.1, "iou_thres": 0.45, "max_det": max_det}
    (found,) = postprocess(boxes, scores, nms=kind, beta_nms=0.8, **options)
    image_boxes, image_scores = boxes[0].numpy(), scores[0].numpy()
    rows = naive(image_boxes, image_scores, conf=0.1, iou=0.45, max_det=max_det, kind=kind, beta=0.8)
    above = int((scores > 0.1).sum())
    assert 0 < len(rows) < above or (kind == "none" and len(rows) == above)
    assert found.labels.tolist() == [label for _, _, label in rows]
    assert found.boxes.tolist() == image_boxes[[i for _, i, _ in rows]].tolist()
    assert found.scores.tolist() == [score for score, _, _ in rows]


def iou_of(a: torch.Tensor, b: torch.Tensor) -> float:
    width, height = (float(min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / (float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod()) - shared)


@pytest.mark.parametrize("seed", range(4))
def test_votes_are_those_of_the_naive_reference(seed: int) -> None:
    """The rows of 'default', one at a time, in double precision: place, agreement, and what is near."""
    boxes, scores = crowded(seed, size=120)
    options = {"conf_thres": 0.105, "iou_thres": 0.45, "max_det": 30}
    (found,) = postprocess(boxes, scores, nms="vote", **options)
    (plain,) = postprocess(boxes, scores, **options)
    rows: list[tuple[float, int, torch.Tensor]] = []
    several, disagree, near = 0, 0, 0
    for kept, old, label in zip(torch.from_numpy(plain.boxes).double(), plain.scores, plain.labels, strict=True):
        voters = [(box, float(s)) for box, s in zip(boxes[0].double(), scores[0, :, label], strict=True) if s > 0.01]
        weights = [s * iou_of(kept, box) ** 3 * (iou_of(kept, box) > 0.65) for box, s in voters]
        moved = sum(w * box for w, (box, _) in zip(weights, voters, strict=True)) / sum(weights)
        opinions = [(s, iou_of(moved, box)) for box, s in voters if iou_of(moved, box) > 0.5]
        agreement = sum(s * iou for s, iou in opinions) / sum(s for s, _ in opinions)
        better = max((iou_of(moved, box) for _, other, box in rows if other == label), default=0.0)
        factor = round(agreement * math.exp(-(better**2) / 0.5) * 65536) / 65536
        rows.append((float(old) * factor, int(label), moved))
        several += sum(map(bool, weights)) > 1
        disagree, near = disagree + (agreement < 0.9), near + (better > 0)
    assert min(several, disagree, near) > 3
    rows = sorted((row for row in rows if row[0] > 0.105), key=lambda row: -row[0])
    assert len(rows) > 0
    assert found.labels.tolist() == [label for _, label, _ in rows]
    np.testing.assert_allclose(found.scores, [score for score, _, _ in rows], rtol=0, atol=5e-6)
    np.testing.assert_allclose(found.boxes, torch.stack([box for _, _, box in rows]), rtol=1e-5, atol=1e-3)


def test_a_detection_behind_thousands_of_suppressed_ones_is_found() -> None:
    boxes = torch.tensor([10.0, 10, 20, 20]).repeat(1, 3000, 1)
    boxes[0, -1] += 50
    scores = torch.linspace(0.9, 0.2, 3000)[None, :, None]
    (found,) = postprocess(boxes, scores, conf_thres=0.1, iou_thres=0.5, max_det=5)
    assert found.boxes.tolist() == [[10, 10, 20, 20], [60, 60, 70, 70]]


def test_a_box_without_neighbours_keeps_its_place_and_score_in_a_vote() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [50, 50, 60, 60], [50, 50, 60, 60], [7, 7, 7, 7]]])
    scores = torch.tensor([[[0.9, 0.0], [0.0, 0.8], [0.7, 0.0], [0.6, 0.0]]])
    (found,) = postprocess(boxes, scores, nms="vote", **DEFAULTS)
    np.testing.assert_allclose(found.boxes, boxes[0], rtol=1.3e-6, atol=1e-5)
    np.testing.assert_allclose(found.scores, [0.9, 0.8, 0.7, 0.6], rtol=1e-6)


def test_neither_places_nor_scores_of_a_vote_depend_on_the_threshold() -> None:
    boxes, scores = crowded(7)
    options = {"iou_thres": 0.6, "max_det": 1000, "nms": "vote"}
    (every,) = postprocess(boxes, scores, conf_thres=0.0, **options)
    for conf in (0.005, 0.01, 0.05, 0.15):
        (found,) = postprocess(boxes, scores, conf_thres=conf, **options)
        wanted = every.select(every.scores > np.float32(conf))
        assert 0 < len(found) < len(every)
        for name in ("boxes", "scores", "labels"):
            assert np.array_equal(getattr(found, name), getattr(wanted, name))


def test_votes_keep_to_the_thresholds_of_the_classes() -> None:
    """Two boxes of IoU 0.6 in each class: the second one's score falls by exp(-0.6^2 / 0.5) to 0.39."""
    boxes, scores = torch.tensor([[[0.0, 0, 8, 8], [2, 0, 10, 8]]]), torch.tensor([[[0.9, 0.9], [0.8, 0.8]]])
    options = {"iou_thres": 0.65, "max_det": 9, "nms": "vote"}
    for conf, labels in ((0.2, [0, 1, 0, 1]), (0.5, [0, 1]), (np.array([0.5, 0.2]), [0, 1, 1])):
        for convert in (torch.clone, torch.Tensor.numpy):
            (found,) = postprocess(convert(boxes), convert(scores), conf_thres=conf, **options)
            assert found.labels.tolist() == labels


def test_the_kinds_differ_as_darknet_says() -> None:
    """Two boxes of IoU 0.6 whose centres are apart: the distance term lets the second one stand."""
    boxes, scores = torch.tensor([[[0.0, 0, 8, 8], [2, 0, 10, 8]]]), torch.tensor([[[0.9], [0.8]]])
    distance = (4 / (100 + 64)) ** 0.6
    for kind, threshold, count in (
        ("default", 0.59, 1),
        ("greedynms", 0.59, 2),
        ("greedynms", 0.6 - distance - 1e-6, 1),
        ("greedynms", 0.6 - distance + 1e-6, 2),
    ):
        found = postprocess(boxes, scores, conf_thres=0.1, iou_thres=threshold, max_det=9, nms=kind)
        assert len(found[0]) == count, (kind, threshold)


def test_one_enormous_box_disturbs_no_other_class() -> None:
    boxes, scores = crowded(2)
    with_huge = torch.cat((boxes, torch.tensor([[[-1e30, -1e30, 1e30, 1e30]]])), dim=1)
    lonely = torch.zeros(1, 251, 5)
    lonely[:, :250, :4], lonely[:, 250, 4] = scores, 0.95
    (found,) = postprocess(with_huge, lonely, **DEFAULTS)
    (without,) = postprocess(boxes, scores, **DEFAULTS)
    others = found.select(found.labels < 4)
    assert (found.labels == 4).sum() == 1
    assert len(others) == 99
    assert np.array_equal(others.boxes, without.boxes[:99])


def test_boxes_that_are_not_finite_are_left_out() -> None:
    boxes = torch.tensor([[[0.0, 0, 5, float("inf")], [0, 0, float("nan"), 5], [0, 0, 5, 5]]])
    (found,) = postprocess(boxes, torch.full((1, 3, 1), 0.9), **DEFAULTS)
    assert found.boxes.tolist() == [[0, 0, 5, 5]]


def test_empty_boxes_in_one_place_do_not_suppress_each_other() -> None:
    boxes = torch.tensor([[[3.0, 3, 3, 3], [3, 3, 3, 3]]])
    for kind in NMS_KINDS:
        assert len(postprocess(boxes, torch.full((1, 2, 1), 0.9), nms=kind, **DEFAULTS)[0]) == 2


def test_classes_are_chosen_before_the_best_are() -> None:
    boxes, scores = crowded(3)
    (every,) = postprocess(boxes, scores, conf_thres=0.1, iou_thres=0.5, max_det=1000)
    (some,) = postprocess(boxes, scores, conf_thres=0.1, iou_thres=0.5, max_det=5, classes=[3, 1, 3])
    expected = every.select((every.labels == 1) | (every.labels == 3))
    assert np.array_equal(some.boxes, expected.boxes[:5])
    assert np.array_equal(some.labels, expected.labels[:5])
    (none,) = postprocess(boxes, scores, **DEFAULTS, classes=[])
    assert len(none) == 0


@pytest.mark.parametrize("limit", [1, 17, 300, 5000])
def test_candidates_are_the_best_and_ties_keep_their_order(limit: int) -> None:
    boxes, scores = crowded(4)
    boxes = boxes + torch.arange(250)[None, :, None] * 1000  # nothing overlaps: what comes out is what went in
    options = {"conf_thres": 0.1, "iou_thres": 0.5, "max_det": 10_000}
    (found,) = postprocess(boxes, scores, max_candidates=limit, **options)
    (every,) = postprocess(boxes, scores, max_candidates=100_000, **options)
    assert len(found) == min(limit, len(every))
    assert np.array_equal(found.boxes, every.boxes[:limit])
    assert np.array_equal(found.labels, every.labels[:limit])


def test_images_of_a_batch_do_not_touch() -> None:
    parts = [crowded(seed) for seed in range(3)]
    together = postprocess(*(torch.cat(p) for p in zip(*parts, strict=True)), **DEFAULTS)
    for found, (boxes, scores) in zip(together, parts, strict=True):
        (alone,) = postprocess(boxes, scores, **DEFAULTS)
        assert isinstance(alone, Detections)
        assert np.array_equal(found.boxes, alone.boxes)
        assert np.array_equal(found.scores, alone.scores)


def test_wrong_options_are_refused() -> None:
    boxes, scores = crowded(0)
    with pytest.raises(ValueError, match="nms: 'softnms' is unknown; expected one of default, greedynms, diounms"):
        postprocess(boxes, scores, nms="softnms", **DEFAULTS)
    with pytest.raises(ValueError, match="expected numbers from 0 to 1"):
        postprocess(boxes, scores, conf_thres=25, iou_thres=0.5, max_det=1)
    with pytest.raises(ValueError, match="expected whole numbers from 1"):
        postprocess(boxes, scores, conf_thres=0.1, iou_thres=0.5, max_det=0)
