"""Parameter groups and freezing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from engine.optim import build_optimizer, freeze_, keep_frozen_statistics_
from utils.config import ConfigError
from utils.recipe import OptimizerConfig


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
        self.backbone2 = nn.Conv2d(4, 4, 1)
        self.head = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1), nn.Flatten(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone2(self.backbone(x)))


@pytest.mark.parametrize("kind", ["sgd", "adamw", "muon"])
def test_every_parameter_is_in_one_group_and_only_weights_decay(kind: str) -> None:
    model = Net()
    optimizer = build_optimizer(model, OptimizerConfig(type=kind, lr=0.1, momentum=0.8, weight_decay=0.07))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay = {names[id(p)]: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert set(decay) == set(names.values())
    weights = {"backbone.0.weight", "backbone2.weight", "head.1.weight", "head.3.weight"}
    assert {name for name, value in decay.items() if value == 0.07} == weights
    assert {value for name, value in decay.items() if name not in weights} == {0.0}
    for group in optimizer.param_groups:
        assert group["lr"] == 0.1
        assert group.get("momentum", group.get("betas", (0,))[0]) == 0.8
    if kind == "sgd":
        assert all(group["nesterov"] for group in optimizer.param_groups)


def test_sgd_without_momentum_or_without_nesterov_is_plain() -> None:
    for config in (OptimizerConfig(type="sgd", momentum=0), OptimizerConfig(type="sgd", nesterov=False)):
        assert not build_optimizer(Net(), config).param_groups[0]["nesterov"]


def test_freezing_nothing_changes_nothing() -> None:
    model = Net()
    assert freeze_(model, []) == 0
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_prefix_ends_at_a_dot() -> None:
    model = Net()
    assert freeze_(model, ["backbone", "head.1.bias"]) == 4
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {"backbone.0.weight", "backbone.1.weight", "backbone.1.bias", "head.1.bias"}
    optimizer = build_optimizer(model, OptimizerConfig())
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize(
    ("prefix", "message"),
    [
        ("bakbone", "freeze: no parameter's name starts with 'bakbone'. Did you mean 'backbone'.*Known: backbone"),
        ("backbon", "freeze: no parameter's name starts with 'backbon'"),
        ("head.2", "freeze: no parameter's name starts with 'head.2'"),
        ("", "freeze: no parameter's name starts with ''"),
    ],
)
def test_a_prefix_that_nothing_has_is_refused(prefix: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        freeze_(Net(), ["head", prefix])


def test_freezing_everything_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"freeze: .*nothing is left to train"):
        freeze_(Net(), ["backbone", "backbone2", "head"])


def test_frozen_batch_normalisation_keeps_its_statistics() -> None:
    model = Net()
    freeze_(model, ["backbone"])
    model.train()
    keep_frozen_statistics_(model, ["backbone"])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn(4, 3, 2, 2))
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"head.0.running_mean", "head.0.running_var", "head.0.num_batches_tracked"}
