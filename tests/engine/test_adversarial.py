"""Self-adversarial training: the change is the formula's, and nothing but the images changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from engine.adversarial import attacked, is_attacked
from engine.step import norm_statistics
from models.build import build_criterion, build_model
from models.config import load_model_config
from utils.regularize_config import AdversarialConfig
from utils.structures import Batch, Targets


def make_batch(images: Tensor) -> Batch:
    return Batch(images, Targets.empty(), tuple(range(len(images))), tuple(f"{i}.png" for i in range(len(images))))


class Affine(nn.Module):
    """One 1x1 convolution behind batch normalisation: raw = weight * (x - mean) / sqrt(var + eps) + bias."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.norm.running_mean.fill_(0.3)
        self.norm.running_var.fill_(0.2)
        self.drop = nn.Dropout(0.5)
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        return [self.conv(self.drop(self.norm(images)))]


def background(raw_maps: list[Tensor]) -> Tensor:
    return sum(softplus(raw).sum() for raw in raw_maps)


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
def test_the_change_is_the_gradient_of_the_loss_for_an_empty_image(strength: float) -> None:
    model, images = Affine(), torch.rand(3, 1, 5, 4)
    found = attacked(model, background, make_batch(images), strength=strength, amp=None).images
    x = images.double().numpy()
    slope = model.conv.weight.item() / np.sqrt(0.2 + 1e-5)
    raw = slope * (x - 0.3) + model.conv.bias.item()
    expected = np.clip(x - strength * slope / (1 + np.exp(-raw)), 0, 1)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    assert not found.requires_grad


def test_nothing_but_the_images_changes() -> None:
    model, batch = Affine(), make_batch(torch.rand(2, 1, 4, 4))
    model.norm.eval()  # frozen
    before, images, rng = (
        {k: v.clone() for k, v in model.state_dict().items()},
        batch.images.clone(),
        torch.get_rng_state(),
    )
    changed = attacked(model, background, batch, strength=1.0, amp=None)
    assert torch.equal(batch.images, images)
    assert not torch.equal(changed.images, images)
    assert (changed.targets, changed.paths, changed.image_ids) == (batch.targets, batch.paths, batch.image_ids)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)
    assert [module.training for module in model.modules()] == [True, False, True, True]


def test_a_gradient_that_is_not_finite_changes_nothing() -> None:
    batch = make_batch(torch.rand(1, 1, 4, 4))
    found = attacked(Affine(), lambda maps: background(maps) * float("inf"), batch, strength=1.0, amp=None)
    assert torch.equal(found.images, batch.images)


@pytest.mark.parametrize("amp", [None, torch.bfloat16])
def test_a_detector_sees_less_in_the_changed_images(tiny_model: Path, amp: torch.dtype | None) -> None:
    model = build_model(load_model_config(tiny_model), 2)
    criterion = build_criterion(model, {}, where="loss")
    batch = make_batch(torch.rand(2, 3, 64, 64))
    with torch.no_grad(), norm_statistics(model, 0, 0.1):
        model(batch.images)  # a network that answers to its images
        for conv in model.head.convs:
            conv.bias.zero_()
    changed = attacked(model, criterion.background, batch, strength=1e-4, amp=amp)
    assert changed.images.dtype == torch.float32
    assert ((changed.images >= 0) & (changed.images <= 1)).all()
    model.eval()
    with torch.no_grad():
        before, after = (criterion.background(model(each.images)).item() for each in (batch, changed))
        logits = [model.head.split(raw, level)[..., 4] for level, raw in enumerate(model(batch.images))]
    assert after < before
    assert before == pytest.approx(sum(softplus(level).sum().item() for level in logits), rel=1e-5)


def test_half_of_the_batches_are_changed_as_a_function_of_seed_step_and_index() -> None:
    config = AdversarialConfig(lr=1.0)
    places = [(seed, step, index) for seed in range(3) for step in range(200) for index in range(2)]
    drawn = [is_attacked(config, seed=seed, step=step, index=index) for seed, step, index in places]
    assert drawn == [is_attacked(config, seed=seed, step=step, index=index) for seed, step, index in places]
    assert 0.45 < np.mean(drawn) < 0.55
    assert drawn[:400] != drawn[400:800]
    assert not any(is_attacked(AdversarialConfig(), seed=0, step=step, index=0) for step in range(50))
    assert all(is_attacked(AdversarialConfig(lr=1, probability=1), seed=0, step=step, index=0) for step in range(50))
