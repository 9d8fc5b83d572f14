"""Cross mini-batch normalisation against NumPy in float64, and where it must be nn.BatchNorm2d."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engine.step import begin_batch_, norm_statistics
from models.normalization import CrossBatchNorm2d, cross_batch_norm_
from utils.config import ConfigError


def make(channels: int = 3, *, momentum: float = 0.1) -> CrossBatchNorm2d:
    norm = CrossBatchNorm2d(channels, eps=1e-5, momentum=momentum)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.bias.uniform_(-1, 1)
    return norm


def batches_of(count: int) -> list[Tensor]:
    """Batches that differ much in mean and scale."""
    return [torch.randn(4, 3, 5, 6) * (1 + 2 * i) + 3 * i for i in range(count)]


def run(norm: nn.Module, batches: list[Tensor]) -> list[Tensor]:
    outputs = []
    for index, batch in enumerate(batches):
        begin_batch_(norm, index=index, count=len(batches), progress=0.0)
        outputs.append(norm(batch))
    return outputs


def by_hand(norm: CrossBatchNorm2d, batches: list[Tensor]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Outputs, mean and unbiased variance, in float64: the statistics are those of all values so far put together."""
    outputs, seen = [], []
    weight, bias = (p.detach().double().numpy()[None, :, None, None] for p in (norm.weight, norm.bias))
    for batch in batches:
        values = batch.detach().double().numpy()
        seen.append(values)
        pooled = np.concatenate(seen)
        mean, variance = pooled.mean(axis=(0, 2, 3), keepdims=True), pooled.var(axis=(0, 2, 3), keepdims=True)
        outputs.append((values - mean) / np.sqrt(variance + norm.eps) * weight + bias)
    return outputs, mean.ravel(), pooled.var(axis=(0, 2, 3), ddof=1)


@pytest.mark.parametrize("count", [2, 3, 5])
def test_batch_j_is_normalised_with_the_statistics_of_the_batches_1_to_j(count: int) -> None:
    norm, batches = make(), batches_of(count)
    expected, mean, variance = by_hand(norm, batches)
    for step in range(2):  # the second step knows nothing of the first
        for found, wanted in zip(run(norm, batches), expected, strict=True):
            np.testing.assert_allclose(found.detach().numpy(), wanted, rtol=1e-4, atol=1e-4)
        weight = 1 - 0.9 ** (step + 1)
        np.testing.assert_allclose(norm.running_mean.numpy(), weight * mean, rtol=1e-5)
        np.testing.assert_allclose(norm.running_var.numpy(), weight * variance + 1 - weight, rtol=1e-5)
        assert norm.num_batches_tracked == step + 1


def test_running_statistics_move_at_the_last_batch_alone() -> None:
    norm, batches = make(), batches_of(3)
    for index, batch in enumerate(batches):
        assert torch.equal(norm.running_mean, torch.zeros(3))
        begin_batch_(norm, index=index, count=3, progress=0.0)
        with norm_statistics(norm, 3, 0.1):  # a weight of 1/4
            norm(batch)
    _, mean, _ = by_hand(norm, batches)
    np.testing.assert_allclose(norm.running_mean.numpy(), mean / 4, rtol=1e-5)


def test_no_gradient_goes_into_the_batches_before_and_that_of_its_own_is_exact() -> None:
    norm = make().double()
    batches = [batch.double()[:2, :, :2, :2].requires_grad_() for batch in batches_of(3)]
    outputs = run(norm, batches)
    outputs[2].square().sum().backward()
    assert batches[0].grad is None
    assert batches[1].grad is None

    def last(values: Tensor) -> Tensor:
        return run(norm, [batches[0].detach(), batches[1].detach(), values])[2]

    assert torch.autograd.gradcheck(last, (batches[2].detach().requires_grad_(),), atol=1e-5)


@pytest.mark.parametrize("training", [True, False])
def test_with_one_batch_a_step_and_in_evaluation_it_is_batch_norm_to_the_last_bit(training: bool) -> None:
    norm = make().train(training)
    plain = nn.BatchNorm2d(3).train(training)
    plain.load_state_dict(norm.state_dict())
    for batch in batches_of(3):
        begin_batch_(norm, index=0, count=1, progress=0.0)
        assert torch.equal(norm(batch), plain(batch))
    for name, value in plain.state_dict().items():
        assert torch.equal(norm.state_dict()[name], value), name


def test_far_from_zero_the_variance_is_still_right() -> None:
    """The mean of squares less the square of the mean, darknet's way, has no digit left here."""
    batches = [torch.randn(8, 1, 4, 4) * 0.01 + 100 for _ in range(3)]
    norm = CrossBatchNorm2d(1)
    expected, _, _ = by_hand(norm, batches)
    found = run(norm, batches)
    np.testing.assert_allclose(found[2].detach().numpy(), expected[2], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_half_precision_out(dtype: torch.dtype) -> None:
    batches = batches_of(2)
    expected = run(make_copy := make(), batches)
    found = run(copy.deepcopy(make_copy), [batch.to(dtype) for batch in batches])
    assert found[1].dtype == dtype
    torch.testing.assert_close(found[1].float(), expected[1], rtol=0.05, atol=0.05)


def test_conversion_keeps_weights_names_and_modes() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2, eps=1e-3, momentum=0.2), nn.Sequential(nn.BatchNorm2d(2))
    )
    model[2].eval()
    model[1].weight.requires_grad_(False)
    before, parameters = dict(model.state_dict()), dict(model.named_parameters())
    assert cross_batch_norm_(model) == 2
    assert model.state_dict().keys() == before.keys()
    assert all(value is parameters[name] for name, value in model.named_parameters())
    assert (model[1].eps, model[1].momentum, model[1].weight.requires_grad) == (1e-3, 0.2, False)
    assert model[1].training
    assert not model[2][0].training
    assert isinstance(model[1], CrossBatchNorm2d)


def test_a_model_without_plain_batch_norm_is_refused() -> None:
    with pytest.raises(ConfigError, match="cross_batch_norm: this model has no batch normalisation"):
        cross_batch_norm_(nn.Sequential(nn.Conv2d(1, 1, 1)))
    with pytest.raises(ConfigError, match=r"expected plain batch normalisation \(BatchNorm2d\), found SyncBatchNorm"):
        cross_batch_norm_(nn.Sequential(nn.SyncBatchNorm(2)))


def test_frozen_layers_keep_their_statistics() -> None:
    norm = make().eval()
    run(norm, batches_of(2))
    assert torch.equal(norm.running_mean, torch.zeros(3))
    assert norm.num_batches_tracked == 0


def test_compiled_it_is_the_same_in_a_few_programs() -> None:
    """torch gives up after 8; the weight of the running statistics, and the place in the step, vary."""
    programs = 0

    def count(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        nonlocal programs
        programs += 1
        return graph

    plain = nn.Sequential(make(), nn.Conv2d(3, 2, 1))
    model = copy.deepcopy(plain)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=count)
    for step in range(12):
        for index, batch in enumerate(batches_of(4)):
            outputs = []
            for own, forward in ((plain, plain), (model, compiled)):
                begin_batch_(own, index=index, count=4, progress=step / 12)
                with norm_statistics(own, step, 0.1):
                    outputs.append(forward(batch))
            torch.testing.assert_close(*outputs)
    torch._dynamo.reset()
    assert programs <= 5
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, msg=name)
