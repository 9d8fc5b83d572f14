"""The first place in a network where numbers stop being finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.watch import Watch, largest_magnitude, tensors_in


class Divide(nn.Module):
    """1 / x."""

    def forward(self, x: Tensor) -> Tensor:
        return 1 / x


class Root(nn.Module):
    """The square root, whose gradient at 0 is infinite."""

    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


class Sum(nn.Module):
    """Two branches that are finite, and whose sum is not."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        return {"sum": [self.one(x) + self.two(x)]}


def test_no_tensor_at_all_has_no_magnitude() -> None:
    assert largest_magnitude([]) == 0
    assert largest_magnitude([torch.full((2,), float("nan"))]) == 0
    assert list(tensors_in([torch.zeros(2, dtype=torch.int64), "text", None])) == []


def test_a_finite_pass_is_not_remarked_on() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    with Watch(model) as watch:
        model(torch.randn(2, 3)).sum().backward()
    assert watch.output is None
    assert watch.gradient is None
    assert watch.largest > 0


def test_the_first_output_that_is_not_finite_is_named_with_its_image() -> None:
    model = nn.Sequential(nn.Linear(3, 3, bias=False), Divide(), nn.Linear(3, 2))
    x = torch.tensor([[1.0, 2, 3], [0, 0, 0], [4, 5, 6]])
    with Watch(model) as watch:
        model(x)
    assert watch.output.module == "1 (Divide)"
    assert (watch.output.bad, watch.output.of, watch.output.images) == (3, 9, (1,))
    assert str(watch.output).startswith("1 (Divide), 3 of 9 values (float32), from inputs up to ")


def test_what_a_module_computes_beside_its_parts_is_seen() -> None:
    model = Sum()
    with Watch(model) as watch:
        model(torch.full((2, 3), 3e38))
    assert watch.output.module == "the network (Sum)"
    assert watch.output.images == (), "all of them"
    assert watch.largest > 2e38


def test_gradients_are_watched_from_the_loss_backwards() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), Root(), nn.Linear(3, 1))
    model[0].bias.data.fill_(-1e3)  # every ReLU is shut
    with Watch(model) as watch:
        model(torch.randn(2, 3)).sum().backward()
    assert watch.output is None
    assert watch.gradient.module == "1 (ReLU)", "the gradient of the root's input"


def test_watching_leaves_nothing_behind() -> None:
    model = nn.Linear(2, 2)
    with Watch(model):
        assert model._forward_hooks
    assert not model._forward_hooks
