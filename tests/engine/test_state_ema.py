"""The running average against its formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from engine.state import Average, decay_at
from utils.recipe import EmaConfig


def make_model() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=0.3), nn.Conv2d(4, 2, 1, bias=False))


def disturb(model: nn.Module) -> None:
    model.train()
    model(torch.randn(5, 3, 4, 4))  # moves running statistics and the count of batches
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))


def test_the_average_starts_as_a_copy_in_evaluation_mode_without_gradients() -> None:
    model = make_model()
    ema = Average(model, EmaConfig())
    assert not ema.training
    assert not ema.module.training
    assert model.training
    assert not any(parameter.requires_grad for parameter in ema.parameters())
    for name, value in ema.module.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
        assert value.data_ptr() != model.state_dict()[name].data_ptr()


def test_weights_and_running_statistics_follow_the_formula() -> None:
    config = EmaConfig(decay=0.7, ramp=4.0)
    model = make_model()
    ema = Average(model, config)
    expected: dict[str, np.ndarray] = {}
    for update in range(12):
        disturb(model)
        ema.update_parameters(model)
        decay = min(0.7, (1 + update) / (4 + update))
        for name, value in model.state_dict().items():
            now = value.double().numpy()
            if update == 0 or not value.is_floating_point():
                expected[name] = now.copy()
            else:
                expected[name] = decay * expected[name] + (1 - decay) * now
    for name, value in ema.module.state_dict().items():
        np.testing.assert_allclose(value.double().numpy(), expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert ema.module.state_dict()["1.num_batches_tracked"].item() == 12
    assert int(ema.n_averaged) == 12


def test_decay_grows_to_its_end_value() -> None:
    config = EmaConfig(decay=0.9998, ramp=10)
    assert decay_at(0, config) == pytest.approx(0.1)
    assert decay_at(990, config) == pytest.approx(0.991)
    assert decay_at(100_000, config) == 0.9998
    values = [decay_at(step, config) for step in range(0, 10_000, 100)]
    assert values == sorted(values)


def test_zero_decay_is_no_average_and_equal_weights_stay_exactly_as_they_are() -> None:
    model = make_model()
    off, on = Average(model, EmaConfig(decay=0)), Average(model, EmaConfig(decay=0.99, ramp=1))
    frozen = model[2].weight.detach().clone()
    for _ in range(5):
        disturb(model)
        with torch.no_grad():
            model[2].weight.copy_(frozen)
        off.update_parameters(model)
        on.update_parameters(model)
    for name, value in off.module.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name
    assert torch.equal(on.module[2].weight, frozen)
    assert not torch.equal(on.module[0].weight, model[0].weight)
