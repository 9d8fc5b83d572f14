"""What layers are told of a training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engine.adversarial import evaluation_mode
from engine.step import begin_batch_, norm_statistics, train_step
from tests.engine.steps import criterion, make, make_batch
from utils.structures import Targets


class Follower(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[int, int, float]] = []

    def begin_batch(self, *, index: int, count: int, progress: float) -> None:
        self.told.append((index, count, progress))


def test_layers_that_ask_for_it_are_told_which_batch_comes() -> None:
    begin_batch_(nn.Sequential(), index=0, count=1, progress=0.0)
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(Follower()), Follower())
    begin_batch_(model, index=1, count=4, progress=0.25)
    assert model[1][0].told == model[2].told == [(1, 4, 0.25)]


def test_the_loss_is_told_the_progress_of_each_step() -> None:
    """As a function of the step alone, so that a training that is resumed goes on where it was."""

    class Told(Follower):
        def forward(self, raw: Tensor, targets: Targets) -> dict[str, Tensor]:
            return criterion(raw, targets)

    stepper, state = make()
    stepper.criterion, state.step = Told(), 40
    for _ in range(2):
        train_step(stepper, state, [make_batch(), make_batch()])
    assert stepper.criterion.told == [(0, 2, 0.4), (1, 2, 0.4), (0, 2, 0.41), (1, 2, 0.41)]


def test_running_statistics_are_a_plain_mean_at_first() -> None:
    norm = nn.BatchNorm2d(3)
    model, batches, expected = nn.Sequential(norm), torch.randn(30, 8, 3, 2, 2) + 5, torch.zeros(3)
    for step, batch in enumerate(batches):
        with norm_statistics(model, step, 0.1):
            model(batch)
        weight = max(0.1, 1 / (step + 1))
        expected = (1 - weight) * expected + weight * batch.mean(dim=(0, 2, 3))
        if step == 4:
            torch.testing.assert_close(norm.running_mean, batches[:5].mean(dim=(0, 1, 3, 4)))
            torch.testing.assert_close(norm.running_var, torch.stack([_variance(b) for b in batches[:5]]).mean(dim=0))
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.momentum == 0.1


def _variance(batch: Tensor) -> Tensor:
    return batch.transpose(0, 1).flatten(1).var(dim=1)


def test_frozen_statistics_and_layers_without_any_are_left_alone() -> None:
    frozen, bare = nn.BatchNorm2d(2).eval(), nn.BatchNorm2d(2, track_running_stats=False)
    model = nn.Sequential(frozen, bare)
    with norm_statistics(model, 0, 0.1):
        model(torch.randn(4, 2, 3, 3))
    assert torch.equal(frozen.running_mean, torch.zeros(2))


def test_a_compiled_model_is_not_compiled_anew_while_the_weight_changes() -> None:
    """Two programs for all steps; one for each momentum were more than torch's limit, after which it stops."""
    compiled = 0

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        nonlocal compiled
        compiled += 1
        return graph

    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    torch._dynamo.reset()
    forward = torch.compile(model, backend=count)
    for step in range(15):
        with norm_statistics(model, step, 0.1):
            forward(torch.randn(2, 1, 4, 4))
    torch._dynamo.reset()
    assert compiled == 2


@pytest.mark.parametrize("fails", [False, True])
def test_evaluation_mode_ends_with_every_layer_as_it_was(fails: bool) -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Sequential(nn.Dropout()))
    model[0].eval()
    try:
        with evaluation_mode(model):
            assert not any(module.training for module in model.modules())
            if fails:
                raise RuntimeError
    except RuntimeError:
        pass
    assert [module.training for module in model.modules()] == [True, False, True, True]
