"""DropBlock: squares, in the wanted share, while training alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from engine.step import begin_batch_
from models.build import build_model
from models.config import load_model_config
from models.dropblock import DropBlock, drop_block
from models.normalization import CrossBatchNorm2d
from models.regularization import regularize_
from utils.recipe import recipe_from


def test_no_map_and_no_image_is_fine() -> None:
    assert DropBlock(probability=0.5)(torch.zeros(0, 3, 8, 8)).shape == (0, 3, 8, 8)
    assert drop_block(torch.zeros(0, 3, 8, 8), 0.5, 3).shape == (0, 3, 8, 8)


@pytest.mark.parametrize(("size", "shape"), [(1, (9, 9)), (3, (12, 10)), (7, (13, 13)), (7, (4, 6))])
def test_what_is_dropped_is_made_of_whole_squares(size: int, shape: tuple[int, int]) -> None:
    dropped = drop_block(torch.ones(6, 4, *shape), 0.2, size).numpy() == 0
    side = min(size, *shape)
    assert dropped.any()
    for mask in dropped.reshape(-1, *shape):
        covered = np.zeros(shape, bool)
        for row in range(shape[0] - side + 1):
            for column in range(shape[1] - side + 1):
                if mask[row : row + side, column : column + side].all():
                    covered[row : row + side, column : column + side] = True
        assert np.array_equal(covered, mask), "a dropped cell lies in no dropped square"
    assert len({mask.tobytes() for mask in dropped.reshape(-1, *shape)}) > 1, "channels have squares of their own"


@pytest.mark.parametrize("probability", [0.02, 0.1, 0.3])
def test_the_share_and_the_sum_are_as_wanted(probability: float) -> None:
    """Squares that overlap drop less than the sum of their areas: 1 - exp(-p) of the map far from its border."""
    x = torch.ones(32, 32, 26, 26)
    y = drop_block(x, probability, 5)
    share = float((y == 0).float().mean())
    assert 0.8 * (1 - np.exp(-probability)) < share < 1.05 * probability
    assert y.mean().item() == pytest.approx(1, abs=1e-4)
    assert len(y.unique()) == 2


def test_nothing_is_dropped_at_0_and_everything_survives_at_the_extreme() -> None:
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(drop_block(x, 0.0, 3), x)
    assert drop_block(x, 1e6, 3).isfinite().all()


def test_the_share_rises_with_the_training_and_evaluation_is_the_identity() -> None:
    drop = DropBlock(probability=0.4, size=2)
    maps = [torch.ones(8, 8, 16, 16), torch.ones(8, 8, 8, 8)]
    shares = []
    for progress in (0.0, 0.25, 1.0):
        begin_batch_(drop, index=0, count=1, progress=progress)
        assert drop.current.item() == pytest.approx(0.4 * progress)
        shares.append([float((y == 0).float().mean()) for y in map(drop, maps)])
    assert shares[0] == [0, 0]
    assert 0 < shares[1][0] < shares[2][0] < 0.4
    assert drop.eval()(maps[0]) is maps[0]
    assert drop.state_dict() == {}


def test_gradients_go_through_what_is_kept_alone() -> None:
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    y = drop_block(x, 0.3, 3)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0)
    assert drop_block(x.half(), 0.3, 3).dtype == torch.float16


def test_a_recipe_puts_both_into_a_model_and_names_stay(tiny_model: Path) -> None:
    model = build_model(load_model_config(tiny_model), 2)
    names, images = list(model.state_dict()), torch.rand(2, 3, 64, 64)
    regularize_(model, recipe_from({}, where="r"))
    assert not any(isinstance(module, (DropBlock, CrossBatchNorm2d)) for module in model.modules())
    expected = model.eval()(images)
    regularize_(model, recipe_from({"dropblock": {"probability": 0.2, "size": 2}, "cross_batch_norm": True}, where="r"))
    assert sum(isinstance(module, CrossBatchNorm2d) for module in model.modules()) > 5
    assert list(model.state_dict()) == names
    assert all(torch.equal(a, b) for a, b in zip(model(images), expected, strict=True))
    begin_batch_(model, index=0, count=1, progress=1.0)
    torch.manual_seed(1)
    first = model.train()(images)
    assert not torch.equal(first[0], model(images)[0])
    torch.manual_seed(1)
    assert torch.equal(first[0], model(images)[0])


def test_a_share_that_does_not_rise_is_there_from_the_start() -> None:
    drop = DropBlock(probability=0.4, size=2, rising=False)
    begin_batch_(drop, index=0, count=1, progress=0.0)
    assert drop.current.item() == pytest.approx(0.4)
    assert (drop(torch.ones(8, 8, 16, 16)) == 0).any()
