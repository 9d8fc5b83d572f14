"""engine/muon.py: against double precision, against AdamW, and what must not change a result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from engine.muon import BLOCK, Muon, orthogonal

# The tolerances below leave room for libraries that add in another order than today's (torch 2.6 needed more than
# before): sums of hundreds of numbers in single precision, whose rounding the iteration enlarges. A wrong iteration is
# off by 0.1.


def iterate(matrix: np.ndarray, rounds: int = 5) -> np.ndarray:
    """The iteration as it is written, on the matrix itself, in double precision."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.astype(np.float64)
    x = (x if x.shape[0] <= x.shape[1] else x.T) / np.linalg.norm(x)
    for _ in range(rounds):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


@pytest.mark.parametrize("shape", [(1, 1), (3, 27), (64, 576), (40, 9), (16, 16)])
def test_orthogonal_is_the_iteration_in_double_precision(shape: tuple[int, int]) -> None:
    matrices = torch.randn(2, *shape)
    for found, matrix in zip(orthogonal(matrices), matrices, strict=True):
        np.testing.assert_allclose(found.numpy(), iterate(matrix.numpy()), atol=1e-4)
    values = torch.linalg.svdvals(orthogonal(torch.randn(1, 32, 288))[0])
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_hardly_a_direction_or_none_at_all_is_finite() -> None:
    assert torch.equal(orthogonal(torch.zeros(1, 4, 6)), torch.zeros(1, 4, 6))
    low = torch.randn(64, 2) @ torch.randn(2, 300) + 1e-4 * torch.randn(64, 300)
    found = orthogonal(low[None])[0].double().numpy()
    assert np.linalg.norm(found - iterate(low.numpy())) < 1e-2 * np.linalg.norm(found)


@pytest.mark.parametrize("nesterov", [True, False])
def test_a_step_is_the_definition(nesterov: bool) -> None:
    """Three updates of a convolution, in double precision."""
    weight = nn.Parameter(torch.randn(6, 4, 3, 3))
    settings = {"lr": 0.02, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    optimizer = Muon([{"params": [weight], "orthogonal": True}], **settings)
    expected, momentum = weight.detach().double().numpy().copy(), np.zeros((6, 4, 3, 3))
    for _ in range(3):
        weight.grad = torch.randn_like(weight)
        grad = weight.grad.double().numpy()
        momentum = 0.9 * momentum + 0.1 * grad
        ahead = 0.1 * grad + 0.9 * momentum if nesterov else momentum
        update = iterate(ahead.reshape(6, 36)) * 0.2 * 36**0.5
        expected = expected * (1 - 0.02 * 0.1) - 0.02 * update.reshape(6, 4, 3, 3)
        optimizer.step()
        np.testing.assert_allclose(weight.detach().numpy(), expected, atol=5e-5)


@pytest.mark.parametrize(("shape", "blocks"), [((150, 129), 2), ((128, 200), 1), ((300, 128), 1), ((260, 15, 3, 3), 3)])
def test_large_matrices_are_made_orthogonal_in_blocks_of_rows(shape: tuple[int, ...], blocks: int) -> None:
    weight = nn.Parameter(torch.zeros(shape))
    weight.grad = torch.randn(shape)
    columns = weight[0].numel()
    Muon([{"params": [weight], "orthogonal": True}], lr=1.0, momentum=0.0, nesterov=False).step()
    parts = weight.grad.split(BLOCK if blocks > 1 else shape[0])
    assert len(parts) == blocks
    expected = [-0.2 * max(len(part), columns) ** 0.5 * iterate(part.reshape(len(part), -1).numpy()) for part in parts]
    np.testing.assert_allclose(weight.detach().reshape(len(weight), -1).numpy(), np.concatenate(expected), atol=2e-4)


def test_what_is_no_matrix_is_adamws() -> None:
    ours, theirs = (nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    settings = {"lr": 0.03, "betas": (0.8, 0.99), "weight_decay": 0.2}
    one, two = Muon([ours], **settings), torch.optim.AdamW([theirs], **settings)
    for _ in range(5):
        ours.grad = torch.randn(7)
        theirs.grad = ours.grad.clone()
        one.step()
        two.step()
        torch.testing.assert_close(ours, theirs, rtol=5e-5, atol=5e-6)


def test_weights_of_one_shape_do_not_touch_each_other() -> None:
    start, grads = [torch.randn(5, 8) for _ in range(3)], [torch.randn(5, 8) for _ in range(3)]
    together = [nn.Parameter(each.clone()) for each in start]
    for weight, grad in zip(together, grads, strict=True):
        weight.grad = grad.clone()
    Muon([{"params": together, "orthogonal": True}]).step()
    for weight, grad, joint in zip(start, grads, together, strict=True):
        alone = nn.Parameter(weight.clone())
        alone.grad = grad.clone()
        Muon([{"params": [alone], "orthogonal": True}]).step()
        torch.testing.assert_close(alone, joint, rtol=5e-5, atol=5e-6)


def test_without_a_gradient_nothing_moves_not_even_by_decay() -> None:
    weight, bias = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    optimizer = Muon([{"params": [weight], "orthogonal": True}, {"params": [bias]}], lr=0.5, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(weight, torch.ones(2, 2))
    assert torch.equal(bias, torch.ones(2))


def test_vectors_cannot_be_made_orthogonal() -> None:
    with pytest.raises(ValueError, match="two dimensions or more"):
        Muon([{"params": [nn.Parameter(torch.ones(3))], "orthogonal": True}])
