"""Fine-tuning: what is held stays to the bit, rates follow from the start, large weights move as others do."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engine.finetune import (
    KNOWN_FIGURE,
    LEAST_RATE,
    average_begins_at,
    head_epochs_for,
    keep_held_statistics_,
    next_rate,
    parts_of,
    prefixes_of,
    trained_momentum,
)
from engine.optim import build_optimizer, has_prefix, keep_frozen_statistics_
from engine.state import TrainState
from engine.step import StepClock, Stepper, norm_statistics, set_learning_rate_, train_step
from tests.engine.steps import CPU, criterion, make_batch
from utils.finetune_config import FinetuneConfig, StartConfig
from utils.recipe import EmaConfig, OptimizerConfig, RecipeConfig, ScheduleConfig


class Net(nn.Module):
    """A backbone, a neck and a head with a norm each."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4))
        self.neck = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.head = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.neck(self.backbone(x)).relu())


def training(
    *, kind: str = "adamw", head_epochs: int = 2, new: tuple[str, ...] = ("head.2",)
) -> tuple[Stepper, TrainState]:
    """Ten epochs of ten steps, with everything loaded but `new`."""
    recipe = RecipeConfig(
        epochs=10,
        amp="off",
        channels_last=False,
        norm_momentum=0.05,
        optimizer=OptimizerConfig(type=kind, lr=0.1, clip_norm=None),
        schedule=ScheduleConfig(warmup_epochs=0, warmup_steps=4),
        finetune=FinetuneConfig(head_epochs=head_epochs, rate=0.1),
    )
    start = StartConfig(known=1, new=list(new))
    torch.manual_seed(1)
    model = Net().train()
    stepper = Stepper(model, criterion, recipe, 100, 3, CPU, StepClock(CPU), start=start)
    return stepper, TrainState.create(model, recipe, CPU, start=start)


def steps(stepper: Stepper, state: TrainState, count: int) -> None:
    for _ in range(count):
        keep_held_statistics_(state.model.train(), stepper.recipe, stepper.start, state.epoch)
        train_step(stepper, state, [make_batch(number=state.step)])


@pytest.mark.parametrize("kind", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("new", [("head.2",), ("neck", "head")])
def test_what_is_held_stays_to_the_bit_with_its_statistics_and_moves_afterwards(
    kind: str, new: tuple[str, ...]
) -> None:
    stepper, state = training(kind=kind, new=new)
    before = copy.deepcopy(state.model.state_dict())
    steps(stepper, state, 3)
    held = {name for name in before if not has_prefix(name, "head") and not any(has_prefix(name, n) for n in new)}
    assert len(held) == (6 if "neck" in new else 12)
    same = {name for name, value in state.model.state_dict().items() if torch.equal(value, before[name])}
    assert held <= same
    telling = {name for name in before if name.endswith((".0.weight", "2.weight", "running_mean", "tracked"))}
    assert same & telling == held & telling, "gradients of a norm before a norm are mere rounding"
    assert not state.optimizer.state.get(state.model.get_parameter("backbone.0.weight")), "nor are gradients remembered"
    state.epoch, state.step = 2, 22
    steps(stepper, state, 1)
    assert not any(torch.equal(state.model.state_dict()[name], before[name]) for name in telling)


def test_rates_follow_the_start_and_what_was_held_warms_up_again() -> None:
    stepper, state = training()
    groups = {(group["trained"], group["held"]): group for group in state.optimizer.param_groups}
    assert groups.keys() == {(False, False), (True, False), (True, True)}
    assert not state.optimizer.param_groups[0]["trained"], "the rate of the table is that of new weights"
    for group in state.optimizer.param_groups:
        group["rate"] = 0.1 if group["trained"] else 1.0
    rates = []
    for step in range(30):
        state.step = step
        set_learning_rate_(state, stepper)
        rates.append([groups[kind]["lr"] for kind in sorted(groups)])
    for step, (new, head, held) in enumerate(rates):
        assert head == pytest.approx(0.1 * new)
        assert held == pytest.approx(head * min(max((step - 19) / 5, 0), 1))


def test_statistics_move_as_slowly_as_weights() -> None:
    stepper, state = training(head_epochs=0)
    shares = []
    for rate in (2.0, 1.0, 0.1):
        for group in state.optimizer.param_groups:
            group["rate"] = rate if group["trained"] else 1.0
        steps(stepper, state, 1)
        shares.append(state.model.backbone[1].momentum)
    assert shares == pytest.approx([0.05, 0.05, 0.005])
    assert trained_momentum(build_optimizer(Net(), OptimizerConfig()), RecipeConfig()) == 0.1


def test_with_no_epochs_for_the_head_all_learn_from_the_first_step() -> None:
    stepper, state = training(head_epochs=0)
    before = copy.deepcopy(state.model.state_dict())
    set_learning_rate_(state, stepper)
    assert len({group["lr"] for group in state.optimizer.param_groups}) == 1
    steps(stepper, state, 1)
    assert not torch.equal(state.model.backbone[0].weight, before["backbone.0.weight"])
    assert not torch.equal(state.model.backbone[1].running_mean, before["backbone.1.running_mean"])


@pytest.mark.parametrize("kind", ["sgd", "adamw", "muon"])
def test_weights_scaled_for_other_pixels_move_as_those_that_are_not(kind: str) -> None:
    """Pixels from 0 to 255, and the same network for pixels in [0, 1] with 255 times the weights: one trajectory."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 1)).double()
    folded = copy.deepcopy(plain)
    with torch.no_grad():
        folded[0].weight.mul_(255)
    config = OptimizerConfig(type=kind, lr=0.01, weight_decay=0.1, clip_norm=None)
    start = StartConfig(scales={"0.weight": 255.0})
    optimizers = [build_optimizer(plain, config), build_optimizer(folded, config, parts=parts_of(folded, start))]
    for group in optimizers[1].param_groups:
        group["lr"] *= group["scale"]
    for _ in range(5):
        images = 255 * torch.rand(4, 3, 9, 9, dtype=torch.float64)
        for model, optimizer, pixels in zip((plain, folded), optimizers, (images, images / 255), strict=True):
            optimizer.zero_grad()
            (model(pixels) - 1).square().mean().backward()
            optimizer.step()
    # Adam's eps is not scaled; Muon computes in single precision.
    torch.testing.assert_close(folded[0].weight / 255, plain[0].weight, rtol=1e-4, atol=2e-4)
    torch.testing.assert_close(folded[3].weight, plain[3].weight, rtol=1e-3, atol=1e-4)


def test_statistics_that_came_take_batches_in_gently_and_new_ones_as_a_mean() -> None:
    model = Net().train()
    for norm in (model.backbone[1], model.head[1]):
        norm.running_mean.fill_(5.0)
    x = torch.rand(4, 3, 8, 8)
    with torch.no_grad(), norm_statistics(model, 0, 0.1, start=StartConfig(new=["head"]), gentle=0.05):
        model(x)
    inside = model.backbone[0](x).mean((0, 2, 3))
    torch.testing.assert_close(model.backbone[1].running_mean, 0.95 * 5 + 0.05 * inside)
    assert (model.head[1].running_mean < 4).all(), "the first batch replaces what was never a statistic"


def test_the_average_begins_at_the_start_and_forgets_it_slowly() -> None:
    _, state = training()
    state.ema = type(state.ema)(state.model, EmaConfig(decay=0.9998, ramp=10))
    state.ema.n_averaged = average_begins_at(KNOWN_FIGURE, 100)
    with torch.no_grad():
        for parameter in state.model.parameters():
            parameter.add_(1)
    first = next(state.ema.module.parameters())
    begin, shares = first.clone(), []
    for _ in range(100):
        state.ema.update_parameters(state.model)
        shares.append(1 - float((first - begin).mean()))
    assert shares[0] > 0.8
    assert 0.1 < shares[9] < 0.3
    assert shares[-1] < 0.01
    assert average_begins_at(0.0, 100) == 0, "a start that finds nothing is forgotten at once"


@given(st.floats(LEAST_RATE, 10), st.floats(0, 1), st.floats(0.01, 1), st.integers(1, 100), st.integers(1, 100))
def test_a_rate_falls_only_where_the_first_epochs_lose_and_at_last_no_more(
    rate: float, figure: float, start: float, epoch: int, epochs: int
) -> None:
    lower = next_rate(rate, figure=figure, start=start, epoch=epoch, epochs=epochs)
    if lower is not None:
        assert LEAST_RATE <= lower < rate
        assert figure < start
        assert epoch < epochs
        assert epoch == 1 or epoch <= epochs / 2
    assert next_rate(rate, figure=start, start=start, epoch=epoch, epochs=epochs) is None
    assert next_rate(LEAST_RATE, figure=0.0, start=start, epoch=1, epochs=30) is None
    falling = [1.0]
    while (after := next_rate(falling[-1], figure=0.0, start=start, epoch=1, epochs=30)) is not None:
        falling.append(after)
    assert falling == pytest.approx([1, 0.1, 0.01, 0.001])


@given(st.integers(1, 1000), st.floats(1, 1e5))
def test_the_head_never_learns_alone_to_the_end(epochs: int, per_epoch: float) -> None:
    alone = head_epochs_for(epochs, steps_per_epoch=per_epoch)
    assert 0 <= alone < epochs
    assert (alone >= 1) == (epochs > 1)
    assert alone == 1 or alone <= math.ceil(300 / per_epoch)


@given(st.sets(st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map(".".join)), st.data())
def test_prefixes_cover_what_was_chosen_and_nothing_else(names: set[str], data: st.DataObject) -> None:
    leaves = sorted(name for name in names if not any(other.startswith(name + ".") for other in names))
    chosen = data.draw(st.sets(st.sampled_from(leaves))) if leaves else set()
    prefixes = prefixes_of(chosen, leaves)
    assert {name for name in leaves if any(has_prefix(name, prefix) for prefix in prefixes)} == chosen
    assert len(prefixes) <= len(chosen)


def test_a_state_of_an_older_release_goes_on() -> None:
    """It says nothing of a start, and its groups nothing of parts."""
    model = Net()
    state = TrainState.create(model, RecipeConfig(amp="off"), CPU)
    saved = state.state_dict()
    assert saved.pop("start_figure") is None
    state.start = 0.5
    state.resume(saved, where="last.pt")
    assert state.start is None
    assert all("held" not in group for group in state.optimizer.param_groups)
    keep_frozen_statistics_(model.train(), [])
    keep_held_statistics_(model, RecipeConfig(), None, 0)
    assert model.backbone[1].training


def test_patience_counts_from_a_start_that_no_epoch_reaches() -> None:
    _, state = training()
    recipe = RecipeConfig(patience=2)
    state.note_start(0.4)
    for epoch in (1, 2):
        state.epoch = epoch
        assert not state.note_result(0.3)
    assert state.is_out_of_patience(recipe)
    assert (state.best, state.best_epoch) == (0.4, 0)
    state.epoch = 3
    assert state.note_result(0.4)
    assert state.best_epoch == 3
