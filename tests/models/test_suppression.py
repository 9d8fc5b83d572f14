"""Postprocessing in NumPy: the same detections as from tensors, without torch."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision

from models.postprocess import postprocess, top_classes
from models.postprocess_torch import find_on_device
from models.suppression import find_candidates, suppress
from tests.models.test_postprocess import crowded
from utils.choices import NMS_KINDS
from utils.config import ROOT


def on_a_grid(seed: int, *, count: int = 400, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes of whole pixels, many of them equal, empty or apart by simple fractions, with few different scores."""
    rng = np.random.default_rng(seed)
    corners, sizes = rng.integers(0, 5, (2, count, 2)), rng.integers(0, 6, (2, count, 2))
    boxes = np.concatenate((corners[0], corners[0] + sizes[0]), axis=1)[None].astype(np.float32)
    return torch.from_numpy(boxes), torch.from_numpy(rng.integers(0, 8, (1, count, classes)).astype(np.float32) / 8)


CASES = {
    "no image": (torch.zeros(0, 5, 4), torch.zeros(0, 5, 3)),
    "no box": (torch.zeros(2, 0, 4), torch.zeros(2, 0, 3)),
    "nothing above": (torch.rand(2, 9, 4), torch.zeros(2, 9, 3)),
    "crowded": tuple(torch.cat(parts) for parts in zip(crowded(0), crowded(1), strict=True)),
    "grid": on_a_grid(2),
    "large": tuple(part.tile(1, 40, 1) for part in crowded(3, count=500, classes=8)),
    "far and huge": (
        torch.cat((crowded(4)[0] + 30_000, torch.tensor([[[-1e30, 0, 1e30, 1e30]]])), 1),
        torch.rand(1, 251, 4),
    ),
    "not finite": (
        torch.tensor([[[0, 0, 5, torch.inf], [0, 0, torch.nan, 5], [0, 0, 5, 5]]]),
        torch.full((1, 3, 3), 0.9),
    ),
}


@pytest.mark.parametrize("kind", NMS_KINDS)
@pytest.mark.parametrize("case", CASES)
def test_arrays_and_tensors_give_the_same(case: str, kind: str) -> None:
    """To the last bit; but overlaps, and so places and scores of 'vote', are rounded in another way."""
    boxes, scores = CASES[case]
    few = {"conf_thres": 0.0, "max_det": 9, "max_candidates": 700, "classes": [2, 0]}
    many = {"conf_thres": 0.1, "max_det": 100}
    for options in (few | {"iou_thres": 0.3}, *(many | {"iou_thres": overlap} for overlap in (0.45, 0.5, 0.6))):
        options["nms"] = kind
        wanted, found = postprocess(boxes, scores, **options), postprocess(boxes.numpy(), scores.numpy(), **options)
        assert len(found) == len(wanted) == len(boxes)
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one.labels, other.labels)
            if kind == "vote":
                np.testing.assert_allclose(one.scores, other.scores, rtol=2e-6)
                np.testing.assert_allclose(one.boxes, other.boxes, rtol=2e-6, atol=1e-4)
            else:
                np.testing.assert_array_equal(one.scores, other.scores)
                np.testing.assert_array_equal(one.boxes, other.boxes)


@pytest.mark.parametrize("limit", [7, 700, 30_000])
@pytest.mark.parametrize("case", CASES)
def test_candidates_found_on_a_device_are_those_found_in_numpy(case: str, limit: int) -> None:
    boxes, scores = CASES[case]
    for classes in (None, np.array([0, 2])):
        options = {"conf_thres": 0.1, "classes": classes, "limit": limit}
        wanted = find_candidates(boxes.numpy(), scores.numpy(), **options)
        for one, other in zip(find_on_device(boxes, scores, **options), wanted, strict=True):
            for name in ("boxes", "scores", "labels"):
                np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_top_classes_of_arrays_are_those_of_tensors() -> None:
    probabilities = torch.rand(5, 9).mul(8).round().div(8)
    for options in ({}, {"most": 3, "conf_thres": 0.5}, {"classes": [7, 1, 4]}, {"classes": []}):
        wanted = top_classes(probabilities, [(30, 40)] * 5, **options)
        for one, other in zip(top_classes(probabilities.numpy(), [(30, 40)] * 5, **options), wanted, strict=True):
            assert (one.labels.tolist(), one.scores.tolist()) == (other.labels.tolist(), other.scores.tolist())


@pytest.mark.parametrize("shift", [0.0, 30_000.0])
def test_equals_torchvision_class_by_class(shift: float) -> None:
    """Far from the origin too, where shifting classes apart in single precision loses the low bits."""
    boxes, scores = crowded(9, count=600)
    order = scores[0, :, 0].argsort(descending=True, stable=True)
    boxes, scores = boxes[0, order] + shift, scores[0, order, 0]
    labels = torch.arange(600) % 3
    expected = []
    for label in range(3):
        chosen = (labels == label).nonzero()[:, 0]
        ranks = torch.arange(len(chosen), 0, -1, dtype=torch.float64)
        expected += chosen[torchvision.ops.nms(boxes[chosen].double(), ranks, 0.5)].tolist()
    assert suppress(boxes.numpy(), labels.numpy(), 0.5).tolist() == sorted(expected)
    assert suppress(boxes.numpy(), labels.numpy(), 0.5, limit=7).tolist() == sorted(expected)[:7]


def test_arrays_leave_torch_alone() -> None:
    code = """import sys
import numpy as np
import utils.boxes, utils.structures
from models.postprocess import postprocess, top_classes
boxes, scores = np.float32([[[0, 0, 9, 9], [0, 0, 9, 8]]]), np.float32([[[0.9, 0.1], [0.8, 0.7]]])
for kind in ("default", "diounms", "vote", "none"):
    (found,) = postprocess(boxes, scores, conf_thres=0.2, iou_thres=0.5, max_det=9, nms=kind)
    found.to_original(utils.boxes.plan_resize(20, 20, (32, 32), "letterbox"))
top_classes(scores[0], [(20, 20)] * 2)
sys.exit(f"{len(found)} found" if {"torch", "torchvision"} & set(sys.modules) or len(found) != 3 else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
