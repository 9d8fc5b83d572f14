"""What a step changes before the optimizer moves comes back to the last bit."""

from __future__ import annotations

import torch
from torch import nn

from engine.state import Snapshot


def test_nothing_noted_changes_nothing() -> None:
    model = nn.BatchNorm2d(3)
    before = torch.get_rng_state()
    Snapshot().restore_(model)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(model.running_mean, torch.zeros(3))


def test_a_model_without_buffers_has_its_random_numbers_back() -> None:
    snapshot, model = Snapshot(), nn.Linear(2, 2)
    snapshot.take_(model)
    drawn = torch.rand(4)
    snapshot.restore_(model)
    assert torch.equal(torch.rand(4), drawn)


def test_statistics_and_random_numbers_come_back_however_often_they_were_noted() -> None:
    snapshot, model = Snapshot(), nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.5))
    for _ in range(3):
        model(torch.randn(2, 3, 5, 5))
        snapshot.take_(model)
    expected = {name: value.clone() for name, value in model.state_dict().items()}
    first = model(torch.full((2, 3, 5, 5), float("nan")))
    assert not torch.isfinite(model[1].running_mean).any()
    snapshot.restore_(model)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert model[1].num_batches_tracked == 3
    torch.testing.assert_close(model(torch.full((2, 3, 5, 5), float("nan"))), first, equal_nan=True)


def test_a_copy_can_have_the_buffers_of_before() -> None:
    snapshot, model, other = Snapshot(), nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    model(torch.randn(4, 2))
    snapshot.take_(model)
    snapshot.restore_buffers_(other)
    assert torch.equal(other.running_var, model.running_var)
