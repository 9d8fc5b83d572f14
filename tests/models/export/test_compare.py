"""compare: the largest difference, whatever the predictors give."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from models.export.compare import Difference, ExportError, compare, made_up_images, own_rounding
from models.export.compare_detections import compare_detections
from models.export.network import ExportSpec
from models.info import Predictor
from models.layouts import Final, Layout
from tests.models.export.models import INFO, small_model

SHAPES = [(1, 64, 96), (3, 32, 64)]


class Fixed(Predictor):
    """The same boxes and scores for every image."""

    def __init__(self, boxes: Tensor, scores: Tensor) -> None:
        super().__init__(INFO, device="cpu", precision="fp32", runtime="test")
        self.boxes, self.scores = boxes, scores

    def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return self.boxes.expand(len(images), -1, -1), self.scores.expand(len(images), -1, -1)


def test_no_boxes_at_all() -> None:
    nothing = Fixed(torch.zeros(1, 0, 4), torch.zeros(1, 0, 2))
    assert compare(nothing, nothing, SHAPES) == Difference(0, 0, 0)


def test_differences_are_shares_of_the_image_or_of_a_larger_box() -> None:
    boxes, scores = torch.tensor([[[1.0, 2, 3, 4], [0, 0, 960, 10]]]), torch.tensor([[[0.5, 0.25], [0, 1]]])
    original = Fixed(boxes, scores)
    assert compare(original, Fixed(boxes, scores), SHAPES) == Difference(0, 0, 0)
    small, large = boxes.clone(), boxes.clone()
    small[0, 0, 0] += 1.5
    large[0, 1, 2] -= 96
    found = compare(original, Fixed(small, scores - 0.125), SHAPES[:1])
    assert found == Difference(1.5, pytest.approx(1.5 / 96), 0.125)
    assert compare(original, Fixed(small, scores), SHAPES).boxes == pytest.approx(1.5 / 64)
    assert compare(original, Fixed(large, scores), SHAPES[:1]) == Difference(96, pytest.approx(0.1), 0)
    assert found.within(0.125)
    assert not found.within(0.12)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_or_has_another_shape_is_infinitely_far(value: float) -> None:
    boxes, scores = torch.ones(1, 5, 4), torch.ones(1, 5, 2)
    broken = scores.clone()
    broken[0, 2, 1] = value
    for found in (
        compare(Fixed(boxes, scores), Fixed(boxes, broken), SHAPES),
        compare(Fixed(boxes, broken), Fixed(boxes, broken), SHAPES),
        compare(Fixed(boxes, scores), Fixed(boxes[:, :4], scores[:, :4]), SHAPES),
    ):
        assert found.scores == math.inf
        assert not found.within(1e9)


def test_a_model_that_does_not_run_is_named() -> None:
    class Broken(Fixed):
        def predict(self, images: Tensor) -> tuple[Tensor, Tensor]:
            raise KeyError("no such node\nand more")

    boxes, scores = torch.ones(1, 5, 4), torch.ones(1, 5, 2)
    with pytest.raises(ExportError, match="does not run on 1 x 64 x 96 images: 'no such node"):
        compare(Fixed(boxes, scores), Broken(boxes, scores), SHAPES)


def test_a_model_that_rounds_much_is_measured_against_itself() -> None:
    model = small_model("cspdet-n")
    usual = own_rounding(model, SHAPES)
    assert 0 < usual < 1e-5
    assert next(model.parameters()).dtype == torch.float32, "the model itself stays as it is"
    for conv in model.head.convs:  # as where the norms have hardly seen a batch
        conv.weight.data *= 300
    assert usual < own_rounding(model, SHAPES) < 1e-2
    assert own_rounding(model, []) == 0


def test_images_differ_within_a_batch_and_between_seeds_and_are_made_again() -> None:
    images = made_up_images((2, 64, 96), seed=0)
    assert images.shape == (2, 3, 64, 96)
    assert 0 <= float(images.min()) < 0.3
    assert 0.7 < float(images.max()) <= 1
    assert not torch.equal(images[0], images[1])
    assert torch.equal(images, made_up_images((2, 64, 96), seed=0))
    assert not torch.equal(images, made_up_images((2, 64, 96), seed=1))


def test_detections_that_have_no_partner_are_counted_and_equal_scores_explained() -> None:
    """A model that has hardly been trained gives the same score everywhere, and which boxes stay is chance."""
    spec = ExportSpec(INFO, layout=Layout(final=Final(0.25, 0.45, 300)))
    left = 10.0 * torch.arange(8)[:, None] + torch.tensor([0.0, 0, 8, 8])
    boxes, scores = left[None], torch.zeros(1, 8, 3)
    scores[..., 0] = torch.linspace(0.5, 0.9, 8)
    assert compare_detections(Fixed(boxes, scores), Fixed(boxes, scores), spec, SHAPES) == Difference(0, 0, 0)
    moved = Fixed(boxes + 40 * (torch.arange(8) % 2)[None, :, None], scores)
    with pytest.raises(ExportError, match=r"^32 detections are missing or new beside the original's 32$"):
        compare_detections(Fixed(boxes, scores), moved, spec, SHAPES)
    scores[..., 0] = 1.0
    with pytest.raises(ExportError, match="hardly been trained"):
        compare_detections(Fixed(boxes, scores), moved, spec, SHAPES)
