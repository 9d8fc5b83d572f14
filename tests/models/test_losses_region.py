"""RegionLoss against darknet's region layer, written once more prediction by prediction, and what training needs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from models.heads.region import RegionHead
from models.losses.region import RegionLoss
from models.postprocess import postprocess
from tests.models.darknet.cfgs import Cfg
from tests.models.darknet.common import build_text
from tests.models.test_losses_anchor import make_targets, total
from utils.structures import Features, Targets

ANCHORS = [[20.0, 30, 60, 40]]
STRIDE, SIZE, CLASSES = 16, (4, 6), 3
OBJECTS = [(0, 2, 10, 10, 30, 28), (0, 0, 40, 5, 90, 60), (1, 1, 3.3, 30.1, 20.7, 44.9), (1, 0, 2, 29, 21, 46)]
"""The last two are in one cell and have one anchor: the later one counts."""


def make_loss(*, softmax: bool = True, **options: object) -> RegionLoss:
    head = RegionHead(features=Features((4,), (STRIDE,)), num_classes=CLASSES, anchors=ANCHORS, softmax=softmax)
    return RegionLoss(head=head, **options)


def random_raw(images: int = 2, *, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, 2 * (5 + CLASSES), *SIZE, dtype=torch.float64, generator=generator).requires_grad_()


def overlap(one: np.ndarray, two: np.ndarray) -> float:
    """IoU of two boxes (cx, cy, w, h)."""
    low = np.maximum(one[:2] - one[2:] / 2, two[:2] - two[2:] / 2)
    high = np.minimum(one[:2] + one[2:] / 2, two[:2] + two[2:] / 2)
    inner = (high - low).clip(0).prod()
    return inner / (one[2:].prod() + two[2:].prod() - inner)


def logistic(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def deltas_by_hand(raw: np.ndarray, rows: list[tuple], loss: RegionLoss, *, early: bool) -> np.ndarray:
    """What region_layer.c of AlexeyAB's darknet writes into `delta`, in cells, in its order, overwriting as it does."""
    grid, delta = np.array(SIZE[::-1]), np.zeros_like(raw)
    anchors = np.array(ANCHORS[0]).reshape(-1, 2) / STRIDE
    scales = loss.scales
    truths = [[] for _ in raw]
    for image, label, x1, y1, x2, y2 in rows:
        truths[image].append((label, np.array([x1 + x2, y1 + y2, 2 * (x2 - x1), 2 * (y2 - y1)]) / 2 / STRIDE))

    def entry(image: int, n: int, j: int, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Values and deltas of a prediction, as views."""
        channels = slice(n * (5 + CLASSES), (n + 1) * (5 + CLASSES))
        return raw[image, channels, j, i], delta[image, channels, j, i]

    def box(x: np.ndarray, n: int, j: int, i: int) -> np.ndarray:
        return np.concatenate((np.array([i, j]) + logistic(x[:2]), np.exp(x[2:4]) * anchors[n]))

    def set_box(x: np.ndarray, d: np.ndarray, truth: np.ndarray, n: int, cell: np.ndarray, scale: float) -> None:
        s = logistic(x[:2])
        d[:2] = scale * (truth[:2] - cell - s) * s * (1 - s)
        d[2:4] = scale * (np.log(truth[2:] / anchors[n]) - x[2:4])

    for image, objects in enumerate(truths):
        for j, i, n in np.ndindex(SIZE[0], SIZE[1], len(anchors)):
            x, d = entry(image, n, j, i)
            s = logistic(x[4])
            best = max((overlap(box(x, n, j, i), truth) for _, truth in objects), default=0)
            d[4] = 0 if best > loss.thresh else scales["noobject_scale"] * (0 - s) * s * (1 - s)
            if early:
                prior = np.concatenate((np.array([i, j]) + 0.5, anchors[n]))
                set_box(x, d, prior, n, np.array([i, j]), 0.01)
        for label, truth in objects:
            cell = np.minimum(truth[:2].astype(int), grid - 1)
            i, j = cell
            shapes = anchors
            if not loss.bias_match:
                shapes = [box(entry(image, n, j, i)[0], n, j, i)[2:] for n in range(len(anchors))]
            centred = [np.concatenate((np.zeros(2), shape)) for shape in shapes]
            shape_ious = [overlap(shape, np.concatenate((np.zeros(2), truth[2:]))) for shape in centred]
            n = int(np.argmax(shape_ious))
            x, d = entry(image, n, j, i)
            s = logistic(x[4])
            set_box(x, d, truth, n, cell, scales["coord_scale"])
            goal = overlap(box(x, n, j, i), truth) if loss.rescore else 1
            d[4] = scales["object_scale"] * (goal - s) * s * (1 - s)
            classes = logistic(x[5:])
            if loss.head.softmax:
                classes = np.exp(x[5:] - x[5:].max()) / np.exp(x[5:] - x[5:].max()).sum()
            d[5:] = scales["class_scale"] * (np.eye(CLASSES)[label] - classes)
    return delta


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias_match": False, "rescore": False},
        {"thresh": 0.1, "noobject_scale": 0.5, "coord_scale": 2.0, "class_scale": 3.0, "object_scale": 1.0},
        {"softmax": False},
    ],
)
@pytest.mark.parametrize("early", [True, False])
def test_the_gradient_is_darknets_delta(options: dict, early: bool) -> None:
    """Darknet sums over images and its learning rate divides by them; the loss here is the mean."""
    for seed in range(3):
        loss = make_loss(**options)
        loss.head.seen.fill_(0 if early else 12800)
        raw = random_raw(seed=seed)
        (gradient,) = torch.autograd.grad(total(loss([raw], make_targets(OBJECTS))), raw)
        expected = deltas_by_hand(raw.detach().numpy(), OBJECTS, loss, early=early)
        np.testing.assert_allclose(-2 * gradient.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_images_without_objects_train_the_background() -> None:
    loss, raw = make_loss(), random_raw(3)
    loss.head.seen.fill_(12800)
    terms = loss([raw], Targets.empty())
    assert (terms["box"].item(), terms["class"].item()) == (0, 0)
    assert terms["objectness"].item() == pytest.approx(loss.background([raw]).item() / 3, rel=1e-5)
    assert set(make_loss()([random_raw(1)], Targets.empty())) == {"box", "objectness", "class"}


def test_crowds_are_neither_objects_nor_background() -> None:
    loss, raw = make_loss(), random_raw(1)
    loss.head.seen.fill_(12800)
    (gradient,) = torch.autograd.grad(total(loss([raw], make_targets([(0, 1, 0, 0, 96, 64)], crowd=(0,)))), raw)
    boxes, _ = loss.head.decode([raw.detach()])
    inside = ((boxes[0] > 0) & (boxes[0] < torch.tensor([96, 64, 96, 64]))).all(dim=1).view(2, *SIZE)
    assert inside.any()
    assert not gradient.view(2, 5 + CLASSES, *SIZE)[:, 4][inside].any()


def test_images_are_counted_while_training_and_later_boxes_are_left_alone() -> None:
    loss = make_loss(prior_images=3)
    terms = [loss([random_raw(2)], Targets.empty())["box"].item() for _ in range(3)]
    assert terms[0] == terms[1] > 0 == terms[2]
    assert loss.head.seen.item() == 6
    loss.head.eval()
    loss([random_raw(2)], Targets.empty())
    assert loss.head.seen.item() == 6


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="thresh: expected a number in"):
        make_loss(thresh=1.5)
    with pytest.raises(ValueError, match=r"found thresh 0.6, .*-1"):
        make_loss(coord_scale=-1)


def test_a_small_network_learns_its_pictures_by_heart() -> None:
    """Four pictures of 64 pixels with red and blue rectangles: the loss falls, and each is found, as what it is."""
    torch.manual_seed(1)
    cfg = Cfg(64)
    for width in (16, 16, 24, 32):
        cfg.conv(width, 3, 2)
    cfg.conv(32, 3)
    cfg.region("1,1, 1.75,1.5", classes=2)
    model = build_text(cfg.text()).train()
    assert model.head.strides == (16,)
    assert isinstance(model.head, RegionHead)
    rows = [
        (0, 0, 4, 6, 20, 22),
        (0, 1, 34, 30, 60, 54),
        (1, 1, 10, 20, 40, 44),
        (2, 0, 40, 8, 58, 24),
        (2, 0, 6, 38, 36, 60),
    ]
    images = torch.full((4, 3, 64, 64), 0.4)
    for image, label, x1, y1, x2, y2 in rows:
        images[image, :, y1:y2, x1:x2] = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9]][label])[:, None, None]
    loss = RegionLoss(head=model.head, prior_images=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
    values = []
    for _ in range(80):
        value = total(loss(model(images), make_targets(rows)))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.02 * values[0]
    with torch.no_grad():
        boxes, scores = model.predict(images)  # in training mode, whose statistics are these pictures'
    for image, found in enumerate(postprocess(boxes, scores, conf_thres=0.5, iou_thres=0.4, max_det=10)):
        wanted = sorted([row[1:] for row in rows if row[0] == image])
        ours = sorted(zip(found.labels.tolist(), *found.boxes.T.tolist(), strict=True))
        assert len(ours) == len(wanted)
        for one, two in zip(ours, wanted, strict=True):
            assert one == pytest.approx(two, abs=2)
