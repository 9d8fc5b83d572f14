"""models/assigners/points.py against loops in NumPy that follow the papers' text."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models.assigners import points as points_module
from models.assigners.points import PointAssignment, SimOTAAssigner, TaskAlignedAssigner
from utils.structures import Targets

STRIDES = (8.0, 16.0)


def grid(size: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    points, strides = [], []
    for stride in STRIDES:
        side = int(size / stride)
        for row in range(side):
            for column in range(side):
                points.append(((column + 0.5) * stride, (row + 0.5) * stride))
                strides.append(stride)
    return torch.tensor(points), torch.tensor(strides)


def scene(seed: int, *, objects: int = 7, images: int = 3, classes: int = 4) -> tuple:
    """Targets, predicted boxes near them or anywhere, probabilities, points and strides."""
    rng = np.random.default_rng(seed)
    points, strides = grid()
    low = rng.uniform(0, 40, (objects, 2))
    boxes = np.concatenate((low, low + rng.uniform(3, 24, (objects, 2))), axis=1)
    image = np.sort(rng.integers(0, images, objects))
    targets = Targets(
        torch.tensor(boxes, dtype=torch.float32),
        torch.tensor(rng.integers(0, classes, objects)),
        torch.tensor(image),
        torch.zeros(objects, dtype=torch.bool),
    )
    reach = rng.uniform(0.3, 3, (images, len(points), 2, 2)) * strides.numpy()[:, None, None]
    predicted = np.concatenate((points.numpy() - reach[:, :, 0], points.numpy() + reach[:, :, 1]), axis=2)
    scores = rng.uniform(0.01, 0.99, (images, len(points), classes))
    return targets, torch.tensor(predicted).float(), torch.tensor(scores).float(), points, strides


def positives_of(found: PointAssignment) -> PointAssignment:
    """Without the candidates that are not positive."""
    assert not found.score[~found.positive].any()
    return PointAssignment(*(part[found.positive] for part in found))


def as_dict(found: PointAssignment) -> dict[tuple[int, int], tuple[int, float]]:
    found = positives_of(found)
    rows = zip(*(part.tolist() for part in found[:4]), strict=True)
    result = {(image, point): (target, score) for image, point, target, score in rows}
    assert len(result) == len(found.image), "a point answers for one object"
    return result


def iou(a: np.ndarray, b: np.ndarray) -> float:
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])
    overlap = np.prod(np.clip(high - low, 0, None))
    return float(overlap / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - overlap))


@pytest.mark.parametrize("assigner", [TaskAlignedAssigner(), SimOTAAssigner()])
def test_nothing_to_find_gives_nothing(assigner: TaskAlignedAssigner | SimOTAAssigner) -> None:
    _, boxes, scores, points, strides = scene(0)
    found = assigner(Targets.empty(), boxes, torch.logit(scores), points, strides)
    assert [len(part) for part in found] == [0, 0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_task_alignment_follows_the_paper(seed: int) -> None:
    targets, boxes, scores, points, strides = scene(seed)
    count, top = len(targets), 4
    overlap, merit = np.zeros((count, len(points))), np.zeros((count, len(points)))
    for k in range(count):
        truth, image = targets.boxes[k].double().numpy(), int(targets.image_index[k])
        middle, half = (truth[:2] + truth[2:]) / 2, np.maximum((truth[2:] - truth[:2]) / 2, 4)
        for n, point in enumerate(points.double().numpy()):
            overlap[k, n] = iou(truth, boxes[image, n].double().numpy())
            if (abs(point - middle) <= half).all():
                merit[k, n] = float(scores[image, n, targets.labels[k]]) ** 0.5 * overlap[k, n] ** 6
    chosen = {k: [n for n in np.argsort(-merit[k], kind="stable")[:top] if merit[k, n] > 0] for k in range(count)}
    owner: dict[tuple[int, int], int] = {}
    for k, places in chosen.items():
        for n in places:
            key = (int(targets.image_index[k]), int(n))
            if key not in owner or overlap[k, n] > overlap[owner[key], n]:
                owner[key] = k
    expected = {}
    for (image, n), k in owner.items():
        mine = [m for (i, m), o in owner.items() if o == k]
        best_merit, best_iou = max(merit[k, m] for m in mine), max(overlap[k, m] for m in mine)
        expected[(image, n)] = (k, merit[k, n] / best_merit * max(best_iou, 0.1))
    found = as_dict(TaskAlignedAssigner(top_k=top)(targets, boxes, torch.logit(scores), points, strides))
    assert {key: target for key, (target, _) in found.items()} == {key: k for key, (k, _) in expected.items()}
    for key, (_, score) in expected.items():
        assert found[key][1] == pytest.approx(score, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_simota_follows_the_paper(seed: int) -> None:
    targets, boxes, scores, points, strides = scene(seed)
    owner: dict[tuple[int, int], tuple[int, float, float]] = {}
    for k in range(len(targets)):
        truth, image, label = targets.boxes[k].double().numpy(), int(targets.image_index[k]), int(targets.labels[k])
        middle = (truth[:2] + truth[2:]) / 2
        offsets = [abs(point - middle).max() for point in points.double().numpy()]
        costs, overlaps = {}, {}
        for n, point in enumerate(points.double().numpy()):
            inside = (truth[:2] <= point).all() and (point <= truth[2:]).all()
            near = offsets[n] < 2.5 * float(strides[n]) or n == int(np.argmin(offsets))
            if not (inside or near):
                continue
            overlaps[n] = iou(truth, boxes[image, n].double().numpy())
            p = scores[image, n].double().numpy()
            entropy = -sum(np.log(p[c]) if c == label else np.log(1 - p[c]) for c in range(len(p)))
            least = 1e-8 / (1 + offsets[n])
            costs[n] = entropy - 3 * np.log(overlaps[n] + least) + (0 if inside and near else 1e5)
        positives = min(max(int(sum(sorted(overlaps.values(), reverse=True)[:10])), 1), len(costs))
        for n in sorted(costs, key=costs.get)[:positives]:
            if (image, n) not in owner or costs[n] < owner[(image, n)][1]:
                owner[(image, n)] = (k, costs[n], overlaps[n])
    found = as_dict(SimOTAAssigner()(targets, boxes, torch.logit(scores), points, strides))
    assert {key: target for key, (target, _) in found.items()} == {key: k for key, (k, _, _) in owner.items()}
    for key, (_, _, overlap) in owner.items():
        assert found[key][1] == pytest.approx(max(overlap, 0.1), abs=1e-5)


@pytest.mark.parametrize("one_to_one", [False, True])
@pytest.mark.parametrize("kind", [TaskAlignedAssigner, SimOTAAssigner])
def test_an_object_that_no_box_overlaps_has_the_nearest_point(kind: type, one_to_one: bool) -> None:
    """Smaller than a cell, between the points, and outside the picture; boxes of the points are smaller still."""
    points, strides = grid()
    rows = [[15.0, 14.0, 17.0, 17.0], [30.0, 2.0, 32.0, 3.0], [70.0, 33.0, 74.0, 37.0], [8.0, 40.0, 30.0, 62.0]]
    targets = Targets(torch.tensor(rows), torch.zeros(4).long(), torch.tensor([0, 0, 0, 1]), torch.zeros(4).bool())
    boxes = torch.cat((points - 0.1, points + 0.1), dim=1).expand(2, -1, 4) - 100 * (points[:, :1] > 64)
    boxes = torch.cat((boxes[:1], boxes[1:] + 1000))  # in the second picture even the large object meets none
    logits = torch.zeros(2, len(points), 1)
    found = positives_of(kind(one_to_one=one_to_one)(targets, boxes, logits, points, strides))
    assert found.target.tolist() == [0, 1, 2, 3]
    assert found.score.tolist() == pytest.approx([0.1] * 4)
    for target, point in zip(found.target.tolist(), found.point.tolist(), strict=True):
        left, top, right, bottom = rows[target]
        offset = (points - torch.tensor([(left + right) / 2, (top + bottom) / 2])).abs().amax(dim=1)
        assert offset[point] == offset.min()


@pytest.mark.parametrize("kind", [TaskAlignedAssigner, SimOTAAssigner])
def test_of_tiny_objects_in_one_cell_each_has_a_point(kind: type) -> None:
    points, strides = grid()
    rows = torch.tensor([[17.0, 17.0, 18.0, 18.0], [22.0, 21.0, 23.0, 22.0], [17.0, 22.0, 18.0, 23.0]])
    targets = Targets(rows, torch.zeros(3).long(), torch.zeros(3).long(), torch.zeros(3).bool())
    boxes, logits = torch.cat((points - 0.1, points + 0.1), dim=1)[None], torch.zeros(1, len(points), 1)
    for one_to_one in (False, True):
        found = positives_of(kind(one_to_one=one_to_one)(targets, boxes, logits, points, strides))
        assert found.target.tolist() == [0, 1, 2]
        assert len(set(found.point.tolist())) == 3


def test_of_equal_claims_the_first_object_wins() -> None:
    points, strides = grid()
    twice = torch.tensor([[8.0, 8.0, 40.0, 40.0]]).repeat(2, 1)
    targets = Targets(twice, torch.tensor([0, 0]), torch.tensor([0, 0]), torch.zeros(2, dtype=torch.bool))
    boxes = twice[:1].repeat(len(points), 1)[None]
    scores = torch.full((1, len(points), 1), 0.5)
    found = positives_of(TaskAlignedAssigner()(targets, boxes, torch.logit(scores), points, strides))
    assert set(found.target.tolist()) == {0}


def test_wrong_options_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k of at least 1"):
        TaskAlignedAssigner(top_k=0)
    with pytest.raises(ValueError, match="radius above 0"):
        SimOTAAssigner(radius=0)


@pytest.mark.parametrize("assigner", [TaskAlignedAssigner(), SimOTAAssigner()])
def test_chunks_of_objects_change_no_bit(
    assigner: TaskAlignedAssigner | SimOTAAssigner, monkeypatch: pytest.MonkeyPatch
) -> None:
    targets, boxes, scores, points, strides = scene(3, objects=141)
    assert points_module.CHUNK % 32 == 0
    monkeypatch.setattr(points_module, "CHUNK", 1000)
    whole = assigner(targets, boxes, torch.logit(scores), points, strides)
    for chunk in (32, 64, 128):
        monkeypatch.setattr(points_module, "CHUNK", chunk)
        parts = assigner(targets, boxes, torch.logit(scores), points, strides)
        assert all(torch.equal(one, other) for one, other in zip(whole, parts, strict=True)), chunk


class Held(TorchDispatchMode):
    """Counts the bytes of the tensors that are made while it is on, at their highest point."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {
            leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)
        }
        for made in tree_leaves(result):
            if isinstance(made, torch.Tensor) and made.untyped_storage()._cdata not in known:
                self.now += made.nbytes
                weakref.finalize(made, self._gone, made.nbytes)
        self.most = max(self.most, self.now)
        return result

    def _gone(self, count: int) -> None:
        self.now -= count


@pytest.mark.parametrize("assigner", [TaskAlignedAssigner(), SimOTAAssigner()])
@pytest.mark.parametrize("objects", [1_000, 4_000])
def test_memory_does_not_grow_with_the_objects(assigner: TaskAlignedAssigner | SimOTAAssigner, objects: int) -> None:
    """At 640 px, on a device without values."""
    count, classes = 8400, 1
    with torch.device("meta"):
        numbers = torch.zeros(objects, dtype=torch.int64)
        targets = Targets(torch.zeros(objects, 4), numbers, numbers, numbers.bool())
        boxes, logits = torch.zeros(16, count, 4), torch.zeros(16, count, classes)
        points, strides = torch.zeros(count, 2), torch.zeros(count)
        with Held() as held:
            found = assigner(targets, boxes, logits, points, strides)
    assert len(found.image) == 10 * objects
    assert held.most < 64 * points_module.CHUNK * count + 400 * objects  # bytes
