"""The losses against independent NumPy in float64, and the properties that training relies on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from models.build import build_criterion
from models.detector import Detector
from models.heads.anchor import AnchorHead
from models.losses.anchor import AnchorLoss
from models.losses.iou import BOX_LOSSES
from utils.boxes import aligned_iou
from utils.config import ConfigError
from utils.structures import Features, Targets

ANCHORS = [[12, 16, 20, 14], [40, 36, 60, 90]]
FEATURES = Features((4, 4), (8, 16))
SIZES = [(8, 12), (4, 6)]
HEIGHT, WIDTH = 64, 96
CLASSES = 3
IOU = {"type": "anchor_iou", "iou_thresh": 0.213}


def make_head(*, scale_xy: float = 1.1, size: str = "exp", num_classes: int = CLASSES) -> AnchorHead:
    return AnchorHead(features=FEATURES, num_classes=num_classes, anchors=ANCHORS, scale_xy=scale_xy, size=size)


def make_loss(head: AnchorHead | None = None, **arguments) -> AnchorLoss:
    return AnchorLoss(head=head or make_head(), **{"assigner": IOU, **arguments})


def random_raw(batch: int = 2, *, classes: int = CLASSES) -> list[Tensor]:
    return [torch.randn(batch, 2 * (5 + classes), h, w).requires_grad_() for h, w in SIZES]


def make_targets(rows: list[tuple], *, crowd: tuple[int, ...] = ()) -> Targets:
    """Rows of (image, label, x1, y1, x2, y2)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    flags = torch.tensor([index in crowd for index in range(len(rows))], dtype=torch.bool)
    return Targets(table[:, 2:], table[:, 1].long(), table[:, 0].long(), flags)


OBJECTS = [(0, 2, 10, 10, 30, 28), (0, 0, 40, 5, 90, 60), (1, 1, 3.3, 30.1, 20.7, 44.9), (1, 1, 60, 20, 81, 33)]


def total(terms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(terms.values())).sum()


# Losses of boxes


def box_losses_by_hand(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """The four losses of one pair, as in the papers."""
    overlap = max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
    (w, h), (v, g) = a[2:] - a[:2], b[2:] - b[:2]
    union = w * h + v * g - overlap
    iou = overlap / union
    hull = np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2])
    distance = ((a[:2] + a[2:] - b[:2] - b[2:]) ** 2).sum() / 4 / (hull**2).sum()
    aspect = 4 / math.pi**2 * (math.atan(v / g) - math.atan(w / h)) ** 2
    alpha = aspect / (1 - iou + aspect) if aspect else 0.0
    giou = iou - (hull.prod() - union) / hull.prod()
    return {"iou": 1 - iou, "giou": 1 - giou, "diou": 1 - iou + distance, "ciou": 1 - iou + distance + alpha * aspect}


def pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(2)
    corners, sizes = rng.uniform(0, 60, (2, count, 2)), rng.uniform(4, 60, (2, count, 2))
    return tuple(np.concatenate((corners[i], corners[i] + sizes[i]), axis=1) for i in (0, 1))


@pytest.mark.parametrize("name", BOX_LOSSES)
def test_box_losses_agree_with_the_papers(name: str) -> None:
    assert BOX_LOSSES[name](torch.zeros(0, 4), torch.zeros(0, 4)).shape == (0,)
    boxes, others = pairs(200)
    expected = [box_losses_by_hand(a, b)[name] for a, b in zip(boxes, others, strict=True)]
    found = BOX_LOSSES[name](torch.from_numpy(boxes), torch.from_numpy(others))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    same = BOX_LOSSES[name](torch.from_numpy(boxes), torch.from_numpy(boxes))
    np.testing.assert_allclose(same.numpy(), 0, atol=1e-6)


@pytest.mark.parametrize("name", ["giou", "diou", "ciou"])
def test_boxes_far_apart_are_pulled_together(name: str) -> None:
    box = torch.tensor([[0.0, 0.0, 10.0, 10.0]], requires_grad=True)
    BOX_LOSSES[name](box, torch.tensor([[50.0, 0.0, 60.0, 10.0]])).sum().backward()
    assert (box.grad[0, 0] + box.grad[0, 2]) < 0, "going down the gradient moves the box to the right"


def test_aligned_iou_is_between_0_and_1() -> None:
    boxes, others = (torch.from_numpy(x).float() for x in pairs(100))
    iou = aligned_iou(boxes, others)
    assert ((iou >= 0) & (iou <= 1)).all()
    torch.testing.assert_close(aligned_iou(boxes, boxes), torch.ones(100))
    assert aligned_iou(torch.zeros(1, 4), torch.zeros(1, 4)).item() == 0


# The whole loss


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def cross_entropy(logit: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, logit) - target * logit


def loss_by_hand(raw: list[np.ndarray], objects: list[tuple], options: dict) -> dict[str, float]:
    """AnchorLoss with darknet's assigner, prediction by prediction, in float64; no crowd regions."""
    shapes = np.concatenate([np.reshape(a, (-1, 2)) for a in ANCHORS]).astype(float)
    thresh, scale, smooth = options["iou_thresh"], options["scale_xy"], options.get("label_smoothing", 0.0)
    factors = options.get("factors", [1.0] * CLASSES)
    wanted = [np.zeros((len(m), 2, *m.shape[2:])) for m in raw]
    weights = [np.ones(w.shape) for w in wanted]
    ignored = [np.zeros(w.shape, bool) for w in wanted]
    positive = [np.zeros(w.shape, bool) for w in wanted]
    sums, count = {"box": 0.0, "objectness": 0.0, "class": 0.0}, 0

    def decode(level: int, image: int, a: int, j: int, i: int) -> tuple[np.ndarray, np.ndarray]:
        t = raw[level][image, a * (5 + CLASSES) : (a + 1) * (5 + CLASSES), j, i]
        centre = (np.array([i, j]) + scale * logistic(t[:2]) - 0.5 * (scale - 1)) * FEATURES.strides[level]
        size = np.reshape(ANCHORS[level], (-1, 2))[a] * np.exp(t[2:4])
        return np.concatenate((centre - size / 2, centre + size / 2)), t

    for level in range(2):
        for place in np.ndindex(*wanted[level].shape):
            box, _ = decode(level, *place)
            mine = [np.array(row[2:], float) for row in objects if row[0] == place[0]]
            best = max((1 - box_losses_by_hand(box, other)["iou"] for other in mine), default=0.0)
            ignored[level][place] = options.get("ignore_thresh") is not None and best > options["ignore_thresh"]
    for image, label, *corners in objects:
        goal = np.array(corners, float)
        centre, size = (goal[:2] + goal[2:]) / 2, goal[2:] - goal[:2]
        overlaps = [min(size[0], w) * min(size[1], h) for w, h in shapes]
        overlaps = [o / (size.prod() + s.prod() - o) for o, s in zip(overlaps, shapes, strict=True)]
        for index, overlap in enumerate(overlaps):
            if index != int(np.argmax(overlaps)) and overlap <= thresh:
                continue
            level, a = divmod(index, 2)
            i, j = (centre / FEATURES.strides[level]).astype(int)
            box, t = decode(level, image, a, j, i)
            count += 1
            sums["box"] += factors[label] * box_losses_by_hand(box, goal)[options["box"]]
            one_hot = np.eye(CLASSES)[label] * (1 - smooth) + smooth / 2
            sums["class"] += (
                cross_entropy(t[5:], one_hot) * np.where(np.arange(CLASSES) == label, factors[label], 1)
            ).sum()
            quality = 1.0 if options["objectness_target"] == "one" else 1 - box_losses_by_hand(box, goal)["iou"]
            place = (image, a, j, i)
            weights[level][place] = (
                factors[label] if not positive[level][place] else max(weights[level][place], factors[label])
            )
            wanted[level][place] = max(wanted[level][place], quality)
            positive[level][place] = True
    for level in range(2):
        logits = raw[level].reshape(len(raw[level]), 2, 5 + CLASSES, *raw[level].shape[2:])[:, :, 4]
        counted = ~ignored[level] | positive[level]
        terms = cross_entropy(logits, wanted[level]) * weights[level]
        sums["objectness"] += options["level_gains"][level] * terms[counted].sum()
    divisor = len(raw[0]) if options.get("normalize") == "images" else max(count, len(raw[0]))
    return {name: options["gains"][name] * value / divisor for name, value in sums.items()}


@pytest.mark.parametrize("box", ["ciou", "giou", "diou", "iou"])
@pytest.mark.parametrize(
    "options",
    [
        {"objectness_target": "iou"},
        {"objectness_target": "one", "ignore_thresh": 0.3, "label_smoothing": 0.1},
        {"objectness_target": "iou", "level_gains": [4.0, 0.5], "ignore_thresh": 0.05},
        {"objectness_target": "one", "normalize": "images", "class_counters": [400, 100, 0], "ignore_thresh": 0.3},
        {"objectness_target": "iou", "class_counters": [10, 1, 50], "max_delta": 6.0, "label_smoothing": 0.1},
    ],
)
def test_the_loss_agrees_with_a_plain_loop(box: str, options: dict) -> None:
    raw = random_raw()
    gains = {"box": 3.0, "objectness": 0.7, "class": 0.4}
    loss = make_loss(box=box, **{f"{name}_gain": gain for name, gain in gains.items()}, **options)
    found = loss(raw, make_targets(OBJECTS))
    about = {"level_gains": [1.0, 1.0], **options, "gains": gains, "box": box, "iou_thresh": 0.213, "scale_xy": 1.1}
    if counters := options.get("class_counters"):
        about["factors"] = [
            min(max(counters) / count, options.get("max_delta", math.inf)) if count else 1.0 for count in counters
        ]
    expected = loss_by_hand([m.detach().double().numpy() for m in raw], OBJECTS, about)
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("box", [*BOX_LOSSES, "mse"])
@pytest.mark.parametrize("batch", [0, 2])
def test_a_batch_without_objects_has_a_finite_loss_with_gradients(box: str, batch: int) -> None:
    raw = random_raw(batch)
    terms = make_loss(box=box, ignore_thresh=0.7)(raw, Targets.empty())
    assert terms["box"].item() == 0
    assert terms["class"].item() == 0
    assert terms["objectness"].isfinite()
    total(terms).backward()
    for value in raw:
        assert value.grad.isfinite().all()
        others = value.grad.view(batch, 2, 5 + CLASSES, *value.shape[2:])[:, :, [0, 1, 2, 3, 5, 6, 7]]
        assert (others == 0).all()


def perfect_raw(head: AnchorHead, rows: list[tuple], loss: AnchorLoss) -> list[Tensor]:
    """Raw maps which predict the objects exactly and nothing else."""
    raw = [torch.zeros(2, 2 * (5 + head.num_classes), h, w) for h, w in SIZES]
    targets = make_targets(rows)
    found = loss.assigner(targets, head.anchors, head.strides, SIZES)
    for level, a in enumerate(found):
        values = head.split(raw[level], level)
        values[..., 4] = -30
        for place in zip(a.image, a.anchor, a.row, a.column, a.target, strict=True):
            image, anchor, row, column, target = (int(p) for p in place)
            goal = targets.boxes[target]
            share = (goal[:2] + goal[2:]) / 2 / head.strides[level] - torch.tensor([column, row])
            scale = head.scale_xy[level]
            values[image, anchor, row, column, :2] = torch.logit((share + 0.5 * (scale - 1)) / scale, eps=1e-6)
            ratio = (goal[2:] - goal[:2]) / head.anchors[level][anchor]
            values[image, anchor, row, column, 2:4] = (
                ratio.log() if head.size == "exp" else torch.logit(ratio.sqrt() / 2)
            )
            values[image, anchor, row, column, 4] = 30
            values[image, anchor, row, column, 5:] = -30
            values[image, anchor, row, column, 5 + int(targets.labels[target])] = 30
    return raw


@pytest.mark.parametrize("box", [*BOX_LOSSES, "mse"])
@pytest.mark.parametrize("size", ["exp", "square"])
def test_a_perfect_prediction_costs_nothing(box: str, size: str) -> None:
    head = make_head(size=size)
    loss = make_loss(head, box=box, assigner={"type": "anchor_iou", "iou_thresh": 1})
    raw = perfect_raw(head, OBJECTS, loss)
    terms = loss(raw, make_targets(OBJECTS))
    for name, value in terms.items():
        assert value.item() == pytest.approx(0, abs=1e-3), name
    boxes, scores = head.decode(raw)
    for image, label, *corners in OBJECTS:
        best = scores[image, :, label].argsort(descending=True)[:4]
        assert min(np.abs(boxes[image, k].numpy() - corners).max() for k in best) < 1e-2


def test_perfect_neighbours_cost_nothing() -> None:
    head = make_head(scale_xy=2.0, size="square")
    loss = make_loss(head, assigner={"type": "anchor_ratio", "factor": 3.9})
    raw = perfect_raw(head, OBJECTS, loss)
    terms = loss(raw, make_targets(OBJECTS))
    assert sum(map(len, loss.assigner(make_targets(OBJECTS), head.anchors, head.strides, SIZES))) > len(OBJECTS)
    assert total(terms).item() == pytest.approx(0, abs=1e-3)


def test_crowd_regions_are_no_objects_and_no_background_inside_only() -> None:
    head = make_head()
    raw = [value.detach() for value in random_raw()]
    for value in raw:
        value.mul_(0.1)
    region = (0, 1, 16, 0, 80, 64)
    free, with_crowd = ([value.clone().requires_grad_() for value in raw] for _ in range(2))
    loss = make_loss(head)
    total(loss(free, make_targets(OBJECTS))).backward()
    total(loss(with_crowd, make_targets([*OBJECTS, region], crowd=(4,)))).backward()
    positives = loss.assigner(make_targets(OBJECTS), head.anchors, head.strides, SIZES)
    spared = 0
    for level in range(2):
        boxes = head.decode_level(raw[level], level)
        low = (boxes[..., :2] - boxes[..., 2:] / 2).maximum(torch.tensor([16.0, 0.0]))
        high = (boxes[..., :2] + boxes[..., 2:] / 2).minimum(torch.tensor([80.0, 64.0]))
        inside = (high - low).clamp(min=0).prod(-1) / boxes[..., 2:].prod(-1) > 0.5
        inside[1] = False
        a = positives[level]
        inside[a.image, a.anchor, a.row, a.column] = False
        got, before = (head.split(x[level].grad, level) for x in (with_crowd, free))
        assert (got[..., 4][inside] == 0).all()
        assert (before[..., 4][inside] != 0).all()
        assert torch.equal(got[~inside], before[~inside])
        spared += int(inside.sum())
    assert spared > 10


def test_only_crowd_is_like_nothing_to_find() -> None:
    raw = random_raw()
    terms = make_loss()(raw, make_targets([(0, 1, 0, 0, 96, 64), (1, 1, 0, 0, 96, 64)], crowd=(0, 1)))
    assert terms["box"].item() == 0
    assert terms["class"].item() == 0
    total(terms).backward()


def test_of_two_objects_in_one_prediction_the_better_fit_is_its_objectness() -> None:
    head = make_head(scale_xy=1.0)
    loss = make_loss(head, assigner={"type": "anchor_iou", "iou_thresh": 1}, box_gain=0, class_gain=0)
    rows = [(0, 0, 10, 10, 22, 26), (0, 1, 11, 9, 21, 25)]
    raw = perfect_raw(head, rows[:1], loss)
    for order in (rows, rows[::-1]):
        assert total(loss(raw, make_targets(order))).item() == pytest.approx(0, abs=1e-4)


def test_both_classes_of_a_shared_prediction_are_learned() -> None:
    """Two equal boxes of different classes: the class loss counts each object."""
    raw = [torch.zeros(1, 2 * (5 + CLASSES), h, w) for h, w in SIZES]
    loss = make_loss(assigner={"type": "anchor_iou", "iou_thresh": 1})
    terms = loss(raw, make_targets([(0, 0, 10, 10, 22, 26), (0, 1, 10, 10, 22, 26)]))
    assert terms["class"].item() == pytest.approx(CLASSES * math.log(2), rel=1e-6)


@pytest.mark.parametrize("box", ["ciou", "mse"])
def test_halves_of_a_batch_add_up_to_the_whole(box: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the count of all positives, as `sum_over_ranks` gives it on several processes."""
    loss = make_loss(box=box, assigner={"type": "anchor_ratio"}, ignore_thresh=0.5)
    raw, targets = random_raw(4), make_targets([*OBJECTS, (3, 0, 20, 20, 50, 60), (3, 1, 0, 0, 15, 15)])
    whole = loss(raw, targets)
    found = loss.assigner(targets, loss.head.anchors, loss.head.strides, SIZES)
    count = torch.tensor([float(sum(map(len, found))), 4.0])
    monkeypatch.setattr("models.losses.anchor.sum_over_ranks", lambda value: count)
    sums = dict.fromkeys(whole, 0.0)
    for rank in range(2):  # rank r takes images r, r + 2, as the sampler deals them
        mine = targets.image_index % 2 == rank
        part = targets.select(mine)
        part = Targets(part.boxes, part.labels, part.image_index // 2, part.crowd)
        for name, value in loss([m[rank::2] for m in raw], part).items():
            sums[name] += value.item()
    for name, value in whole.items():
        assert sums[name] == pytest.approx(value.item(), rel=1e-5), name


def test_squared_error_pulls_each_raw_value_towards_its_goal() -> None:
    head = make_head(scale_xy=1.0)
    loss = make_loss(head, box="mse", objectness_gain=0, class_gain=0, assigner={"type": "anchor_iou", "iou_thresh": 1})
    raw = [torch.zeros(1, 2 * (5 + CLASSES), h, w).requires_grad_() for h, w in SIZES]
    # Centre (22, 18): cell (2, 2) at fractions (0.75, 0.25); anchor 12 x 16, the object is wider and lower.
    terms = loss(raw, make_targets([(0, 0, 15, 11, 29, 25)]))
    terms["box"].backward()
    tx, ty, tw, th = head.split(raw[0].grad, 0)[0, 0, 2, 2, :4].tolist()
    assert tx < 0 < ty
    assert tw < 0 < th
    factor = loss.gains["box"] * (2 - 14 * 14 / (WIDTH * HEIGHT))
    assert tw == pytest.approx(-math.log(14 / 12) * factor, rel=1e-5)
    assert th == pytest.approx(-math.log(14 / 16) * factor, rel=1e-5)
    assert tx == pytest.approx((0.5 - 0.75) * 0.25 * factor, rel=1e-5)
    expected = 0.5 * (0.25**2 + 0.25**2 + math.log(14 / 12) ** 2 + math.log(14 / 16) ** 2) * factor
    assert terms["box"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("assigner", "box", "size"),
    [
        ({"type": "anchor_ratio"}, "ciou", "square"),
        ({"type": "anchor_iou"}, "giou", "exp"),
        ({"type": "anchor_iou", "iou_thresh": 1}, "mse", "exp"),
    ],
)
def test_going_down_the_gradient_finds_the_objects(assigner: dict, box: str, size: str) -> None:
    head = make_head(scale_xy=2.0 if size == "square" else 1.1, size=size)
    loss = make_loss(head, box=box, assigner=assigner)
    raw = [torch.zeros(2, 2 * (5 + CLASSES), h, w).requires_grad_() for h, w in SIZES]
    optimizer, targets = torch.optim.Adam(raw, lr=0.25), make_targets(OBJECTS)
    values = []
    for _ in range(50):
        optimizer.zero_grad()
        value = total(loss(raw, targets))
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.2 * values[0]
    with torch.no_grad():
        boxes, scores = head.decode(raw)
    for image, label in {row[:2] for row in OBJECTS}:
        best = scores[image, :, label].argmax()
        assert scores[image, best, label] > 0.5
        found = [c for i, k, *c in OBJECTS if (i, k) == (image, label)]
        assert max(aligned_iou(boxes[image, best][None], torch.tensor([c], dtype=torch.float32)) for c in found) > 0.9


def test_half_precision_maps_are_judged_in_full_precision() -> None:
    raw = [m.detach().bfloat16().requires_grad_() for m in random_raw()]
    terms = make_loss()(raw, make_targets(OBJECTS))
    assert all(value.dtype == torch.float32 for value in terms.values())
    total(terms).backward()
    assert raw[0].grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"boxx": "ciou"}, r"r.boxx: unknown key.* Did you mean 'box'\?"),
        ({"box": "siou"}, "r.box: expected one of ciou, diou, giou, iou, mse or null, found 'siou'"),
        ({"level_gains": [1.0]}, "level_gains: 1 values for 2 levels"),
        (
            {"assigner": {"type": "anchor_iuo"}},
            r"loss.assigner.type: 'anchor_iuo' is unknown. Did you mean 'anchor_iou'",
        ),
        ({"assigner": {"type": "anchor_iou", "iou_tresh": 1}}, r"Did you mean 'iou_thresh'\?"),
        ({"assigner": {"type": "anchor_iou", "iou_thresh": 2}}, "iou_thresh: expected a number in"),
        ({"assigner": {"type": "anchor_ratio", "neighbours": True}}, "set head.scale_xy to 2, or neighbours to false"),
        ({"head": 1}, "r.head: unknown key"),
        ({"class_counts": [1, 1, 1]}, "r.class_counts: unknown key"),
        ({"class_counters": [1, 2]}, r"class_counters: expected 3 counts of at least 0.*found \[1, 2\]"),
        ({"class_counters": [1, -2, 1]}, "class_counters: expected 3 counts of at least 0"),
        ({"class_counters": "yes"}, "class_counters: expected"),
        ({"class_counters": "auto"}, "class_counters: 'auto' needs the counts of a training set"),
        ({"label_smoothing": 1.5}, "label_smoothing: expected a share"),
        ({"max_delta": 0}, "max_delta: expected a number of at least 1, or null, found 0"),
    ],
)
def test_wrong_arguments_are_named(spec: dict, message: str) -> None:
    model = Detector(torch.nn.Identity(), torch.nn.Identity(), make_head())
    with pytest.raises(ConfigError, match=message):
        build_criterion(model, spec, where="r")
