"""The learning rate as a function of the step."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from engine.optim import learning_rate_factor, warmup_length
from utils.recipe import ScheduleConfig


def factors(config: ScheduleConfig, total: int = 1000, per_epoch: int = 10) -> list[float]:
    return [
        learning_rate_factor(step, total_steps=total, steps_per_epoch=per_epoch, config=config) for step in range(total)
    ]


def cosine(step: float, total: int, final: float) -> float:
    return final + (1 - final) * (1 + math.cos(math.pi * step / total)) / 2


def test_the_shortest_training_has_a_rate_too() -> None:
    for kind in ("cosine", "step"):
        value = factors(ScheduleConfig(type=kind), total=1, per_epoch=1)
        assert len(value) == 1
        assert 0 < value[0] <= 1


def test_poly_is_darknets_after_its_burn_in() -> None:
    config = ScheduleConfig(type="poly", power=4, warmup_epochs=0, warmup_steps=100, warmup_power=4)
    found = factors(config)
    for step in (0, 50, 99):
        assert found[step] == pytest.approx(((step + 1) / 101) ** 4 * (1 - step / 1000) ** 4)
    for step in (100, 500, 999):
        assert found[step] == pytest.approx((1 - step / 1000) ** 4)
    assert 0 < found[-1] < 1e-10
    assert factors(ScheduleConfig(type="poly"), total=1, per_epoch=1)[0] > 0


def test_warm_up_rises_in_a_line_from_above_zero() -> None:
    config = ScheduleConfig(type="step", warmup_epochs=3, warmup_steps=0, milestones=[])
    found = factors(config)
    assert found[:30] == pytest.approx([(step + 1) / 31 for step in range(30)])
    assert set(found[30:]) == {1.0}


def test_warm_up_takes_the_longer_of_steps_and_epochs_but_no_more_than_a_fifth() -> None:
    def length(**changes: float) -> int:
        return sum(f < 1 for f in factors(ScheduleConfig(type="step", milestones=[], **changes)))

    assert length(warmup_epochs=3, warmup_steps=100) == 100
    assert length(warmup_epochs=12, warmup_steps=100) == 120
    assert length(warmup_epochs=50, warmup_steps=0) == 200
    assert length(warmup_epochs=0, warmup_steps=0) == 0


def test_darknets_burn_in() -> None:
    found = factors(ScheduleConfig(type="step", warmup_epochs=0, warmup_steps=99, warmup_power=4, milestones=[]))
    assert found[49] == pytest.approx(0.5**4)


def test_cosine_ends_at_its_final_share() -> None:
    config = ScheduleConfig(warmup_epochs=0, warmup_steps=0, final=0.05)
    found = factors(config)
    assert found == pytest.approx([cosine(step, 1000, 0.05) for step in range(1000)])
    assert found[0] == 1
    assert found[-1] == pytest.approx(0.05, abs=1e-5)
    assert all(a > b for a, b in itertools.pairwise(found))
    assert learning_rate_factor(5000, total_steps=1000, steps_per_epoch=10, config=config) == pytest.approx(0.05)


def test_warm_up_goes_on_into_the_cosine_without_a_jump() -> None:
    found = factors(ScheduleConfig(warmup_epochs=0, warmup_steps=100))
    assert max(abs(a - b) for a, b in itertools.pairwise(found)) < 0.011


def test_steps_fall_at_their_milestones() -> None:
    found = factors(ScheduleConfig(type="step", warmup_epochs=0, warmup_steps=0, milestones=[0.8, 0.9], factor=0.1))
    assert set(found[:800]) == {1.0}
    assert found[800:900] == pytest.approx([0.1] * 100)
    assert found[900:] == pytest.approx([0.01] * 100)


@pytest.mark.parametrize(("length", "mult"), [(10, 1), (10, 2), (7, 3)])
def test_restarts_are_those_of_torch(length: int, mult: int) -> None:
    """An independent implementation: CosineAnnealingWarmRestarts, one call a step."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, length, mult, eta_min=0.002)
    expected = []
    for _ in range(500):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    config = ScheduleConfig(
        type="sgdr", warmup_epochs=0, warmup_steps=0, cycle_epochs=length / 10, cycle_mult=mult, final=0.02
    )
    assert [0.1 * f for f in factors(config, total=500, per_epoch=10)] == pytest.approx(expected, rel=1e-9)


def test_without_a_length_there_is_one_cycle_darknets_default() -> None:
    settings = {"warmup_epochs": 0, "warmup_steps": 100, "final": 0.1}
    assert factors(ScheduleConfig(type="sgdr", **settings)) == factors(ScheduleConfig(type="cosine", **settings))


def test_cycles_of_no_length_and_steps_beyond_the_end_have_a_rate() -> None:
    for mult in (1.0, 1.5):
        config = ScheduleConfig(type="sgdr", warmup_epochs=0, warmup_steps=0, cycle_epochs=1e-6, cycle_mult=mult)
        found = [
            learning_rate_factor(step, total_steps=1000, steps_per_epoch=10, config=config)
            for step in (0, 1, 999, 5000)
        ]
        assert all(0 < factor <= 1 for factor in found)
        assert found[-1] == pytest.approx(0.01)


def test_the_length_of_the_warm_up_is_known() -> None:
    config = ScheduleConfig(warmup_epochs=0, warmup_steps=30)
    assert warmup_length(total_steps=1000, steps_per_epoch=10, config=config) == 30
    assert warmup_length(total_steps=100, steps_per_epoch=10, config=config) == 20
