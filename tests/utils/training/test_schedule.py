"""The learning rate as a function of the step."""

from __future__ import annotations

import itertools
import math

import pytest

from utils.training.config import ScheduleConfig
from utils.training.schedule import learning_rate_factor


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
