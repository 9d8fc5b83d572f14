"""Both assigners against plain loops over objects, anchors and cells."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.assigners.anchor import AnchorIoUAssigner, AnchorRatioAssigner, Assignment
from utils.structures import Targets

STRIDES = (8, 16, 32)
ANCHORS = [
    torch.tensor([[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]]),
    torch.tensor([[30.0, 61.0], [62.0, 45.0]]),
    torch.tensor([[59.0, 119.0], [116.0, 90.0], [156.0, 198.0]]),
]
HEIGHT, WIDTH = 96, 160
MAP_SIZES = [(HEIGHT // s, WIDTH // s) for s in STRIDES]


def make_targets(boxes: list | np.ndarray, images: list[int] | None = None) -> Targets:
    boxes = torch.as_tensor(np.asarray(boxes, np.float32).reshape(-1, 4))
    count = len(boxes)
    index = torch.tensor(images if images is not None else [0] * count, dtype=torch.int64)
    return Targets(boxes, torch.zeros(count, dtype=torch.int64), index, torch.zeros(count, dtype=torch.bool))


def random_targets(count: int = 60) -> Targets:
    rng = np.random.default_rng(3)
    sizes = np.exp(rng.uniform(np.log(3), np.log(150), (count, 2)))
    centres = rng.uniform(0, 1, (count, 2)) * (WIDTH, HEIGHT)
    boxes = np.concatenate((centres - sizes / 2, centres + sizes / 2), axis=1)
    boxes = np.clip(boxes, 0, np.array([WIDTH, HEIGHT, WIDTH, HEIGHT]))
    return make_targets(boxes, rng.integers(0, 4, count).tolist())


def rows(assignments: list[Assignment]) -> list[tuple[int, ...]]:
    """(level, image, anchor, row, column, target) of every positive, sorted."""
    found = []
    for level, a in enumerate(assignments):
        parts = (a.image, a.anchor, a.row, a.column, a.target)
        assert all(part.dtype == torch.int64 for part in parts)
        assert all(len(part) == len(a) for part in parts)
        found += [(level, *row) for row in torch.stack(parts, dim=1).tolist()]
    return sorted(found)


def shape_iou(size: np.ndarray, anchor: np.ndarray) -> float:
    overlap = min(size[0], anchor[0]) * min(size[1], anchor[1])
    return overlap / (size.prod() + anchor.prod() - overlap)


def by_hand(targets: Targets, positive) -> list[tuple[int, ...]]:
    """The positives by a loop; positive(size) gives (level, anchor) pairs."""
    found = []
    for target, box in enumerate(targets.boxes.double().numpy()):
        centre, size = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
        for level, anchor in positive(size):
            column, row = (centre / STRIDES[level]).astype(int)
            rows_, columns = MAP_SIZES[level]
            place = (min(row, rows_ - 1), min(column, columns - 1))
            found.append((level, int(targets.image_index[target]), anchor, *place, target))
    return sorted(found)


ASSIGNERS = [
    AnchorIoUAssigner(iou_thresh=0.213),
    AnchorIoUAssigner(iou_thresh=1),
    AnchorRatioAssigner(scale_xy=(1.0, 1.0, 1.0)),
    AnchorRatioAssigner(scale_xy=(2.0, 2.0, 2.0)),
]


@pytest.mark.parametrize("assigner", ASSIGNERS)
def test_no_objects_give_no_positives(assigner: AnchorIoUAssigner | AnchorRatioAssigner) -> None:
    result = assigner(Targets.empty(), ANCHORS, STRIDES, MAP_SIZES)
    assert [len(a) for a in result] == [0, 0, 0]
    assert rows(result) == []


@pytest.mark.parametrize("thresh", [0.213, 0.5, 1.0])
def test_darknets_rule(thresh: float) -> None:
    def positive(size: np.ndarray) -> list[tuple[int, int]]:
        overlaps = {(l, a): shape_iou(size, x.double().numpy()) for l, m in enumerate(ANCHORS) for a, x in enumerate(m)}
        best = max(overlaps, key=overlaps.get)
        return [key for key, overlap in overlaps.items() if key == best or overlap > thresh]

    targets = random_targets()
    found = rows(AnchorIoUAssigner(iou_thresh=thresh)(targets, ANCHORS, STRIDES, MAP_SIZES))
    assert found == by_hand(targets, positive)
    assert {row[-1] for row in found} == set(range(len(targets))), "every object has an anchor"


@pytest.mark.parametrize("factor", [2.0, 4.0])
def test_the_ratio_rule(factor: float) -> None:
    def positive(size: np.ndarray) -> list[tuple[int, int]]:
        misfits = {
            (level, a): max(*(size / anchor), *(anchor / size))
            for level, anchors in enumerate(ANCHORS)
            for a, anchor in enumerate(anchors.double().numpy())
        }
        best = min(misfits, key=misfits.get)
        return [key for key, misfit in misfits.items() if misfit < factor or key == best]

    targets = random_targets()
    assigner = AnchorRatioAssigner(scale_xy=(1.0,) * 3, factor=factor)
    found = rows(assigner(targets, ANCHORS, STRIDES, MAP_SIZES))
    assert found == by_hand(targets, positive)
    assert {row[-1] for row in found} == set(range(len(targets))), "every object has an anchor"


def test_a_box_without_area_has_no_anchor_by_ratio() -> None:
    targets = make_targets([[20, 20, 20, 40], [30, 30, 30, 30], [20, 20, 21, 60]])
    found = rows(AnchorRatioAssigner(scale_xy=(1.0,) * 3)(targets, ANCHORS, STRIDES, MAP_SIZES))
    assert {row[-1] for row in found} == {2}


def test_the_example_of_darknets_rule() -> None:
    anchors, targets = [torch.tensor([[10.0, 13.0], [62.0, 45.0], [59.0, 119.0]])], make_targets([[10, 10, 60, 60]])
    for thresh, expected in ((1.0, [1]), (0.213, [1, 2])):
        (found,) = AnchorIoUAssigner(iou_thresh=thresh)(targets, anchors, (8,), [(20, 20)])
        assert found.anchor.tolist() == expected
        assert set(zip(found.row.tolist(), found.column.tolist(), strict=True)) == {(4, 4)}


def test_the_example_of_the_ratio_rule() -> None:
    anchors = [torch.tensor([[12.0, 12.0], [13.0, 13.0], [199.0, 199.0], [200.0, 200.0], [50.0, 12.0]])]
    assigner = AnchorRatioAssigner(scale_xy=(2.0,))
    (found,) = assigner(make_targets([[58, 21, 108, 71]]), anchors, (8,), [(20, 20)])
    assert sorted(set(found.anchor.tolist())) == [1, 2]
    cells = {(c, r) for a, c, r in zip(found.anchor, found.column.tolist(), found.row.tolist(), strict=True) if a == 1}
    assert cells == {(10, 5), (9, 5), (10, 6)}
    assert len(found) == 6


@pytest.mark.parametrize("assigner", ASSIGNERS)
def test_objects_at_the_edge_stay_inside_the_map(assigner: AnchorIoUAssigner | AnchorRatioAssigner) -> None:
    w, h = WIDTH, HEIGHT
    boxes = [
        [0, 0, 12, 14],
        [w - 12, h - 14, w, h],
        [w - 1e-3, h - 1e-3, w, h],
        [0, 0, w, h],
        [w, h, w, h],
        [0, 0, 0, 0],
    ]
    boxes += [[w - 30, 0, w, 30], [0, h - 30, 30, h], [-20, -30, 4, 5], [w - 4, h - 4, w + 30, h + 40]]
    targets = make_targets(boxes)
    for level, (row, column) in zip(assigner(targets, ANCHORS, STRIDES, MAP_SIZES), MAP_SIZES, strict=True):
        assert ((level.row >= 0) & (level.row < row)).all()
        assert ((level.column >= 0) & (level.column < column)).all()


def test_neighbours_are_the_nearest_cells_and_can_reach_the_object() -> None:
    targets = random_targets()
    plain = rows(AnchorRatioAssigner(scale_xy=(2.0,) * 3, neighbours=False)(targets, ANCHORS, STRIDES, MAP_SIZES))
    with_neighbours = rows(AnchorRatioAssigner(scale_xy=(2.0,) * 3)(targets, ANCHORS, STRIDES, MAP_SIZES))
    expected = []
    for level, image, anchor, row, column, target in plain:
        x, y = ((targets.boxes[target, :2] + targets.boxes[target, 2:]) / 2 / STRIDES[level]).tolist()
        beside = column - 1 if x - column < 0.5 else column + 1
        above = row - 1 if y - row < 0.5 else row + 1
        places = [(row, column), (row, beside), (above, column)]
        limit = MAP_SIZES[level]
        expected += [(level, image, anchor, r, c, target) for r, c in places if 0 <= r < limit[0] and 0 <= c < limit[1]]
    assert with_neighbours == sorted(expected)
    for level, _, _, row, column, target in with_neighbours:
        x, y = ((targets.boxes[target, :2] + targets.boxes[target, 2:]) / 2 / STRIDES[level]).tolist()
        assert -0.5 <= x - column <= 1.5
        assert -0.5 <= y - row <= 1.5


def test_two_objects_may_share_one_prediction() -> None:
    boxes = [[40, 40, 52, 54], [41, 41, 51, 54], [40, 40, 52, 54]]
    (found, *_) = AnchorIoUAssigner(iou_thresh=1)(make_targets(boxes, [0, 0, 1]), ANCHORS, STRIDES, MAP_SIZES)
    assert found.target.tolist() == [0, 1, 2]
    assert found.image.tolist() == [0, 0, 1]
    assert len(set(zip(found.anchor.tolist(), found.row.tolist(), found.column.tolist(), strict=True))) == 1


def test_arguments_out_of_range_are_refused() -> None:
    for thresh in (0.0, -0.1, 1.5):
        with pytest.raises(ValueError, match=r"iou_thresh: expected a number in \(0, 1\]"):
            AnchorIoUAssigner(iou_thresh=thresh)
    with pytest.raises(ValueError, match="factor: expected a number above 1"):
        AnchorRatioAssigner(scale_xy=(1.0,), factor=1.0)
    with pytest.raises(ValueError, match=r"set head\.scale_xy to 2, or neighbours to false"):
        AnchorRatioAssigner(scale_xy=(2.0, 1.5), neighbours=True)
    assert not AnchorRatioAssigner(scale_xy=(2.0, 1.5)).neighbours
    assert AnchorRatioAssigner(scale_xy=(2.0, 2.5)).neighbours
