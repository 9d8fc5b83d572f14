"""ExportNetwork: the function of the original, which stays as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.export.network import ExportNetwork
from tests.models.export.models import SMALL, small_model


@pytest.mark.parametrize("name", [*SMALL, "darknet", "region"])
def test_merged_norms_change_nothing_but_the_original_keeps_its_own(name: str) -> None:
    model = small_model(name)
    state = copy.deepcopy(model.state_dict())
    network = ExportNetwork(model)
    assert not [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        for found, wanted, atol in zip(network(images), model.predict(images), (1e-2, 1e-5), strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=atol)
    assert list(model.state_dict()) == list(state)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_model_in_training_mode_stays_there_and_its_copy_does_not() -> None:
    model = small_model("cspdet-n").train()
    network = ExportNetwork(model)
    assert model.training
    assert not any(module.training for module in network.modules())
