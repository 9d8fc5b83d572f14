"""Input sizes and batches that grow: darknet's rules, every image once, any place to go on from."""

from __future__ import annotations

import numpy as np
import pytest

from data.sampler import LAST_LARGE_STEPS, SizePlan, TrainSampler

DARKNET = {"image_size": (416, 416), "stride": 32, "multi_scale": 0.4, "kind": "darknet", "steps": 10}


def plan(**changes) -> SizePlan:
    return SizePlan(**{**DARKNET, **changes})


def sampler_of(sizes: SizePlan, count: int, *, batch_size: int = 8, **changes) -> TrainSampler:
    return TrainSampler(count, batch_size=batch_size, sizes=sizes, mix_epochs=1, seed=5, **changes)


def test_an_epoch_of_no_image_has_no_batch() -> None:
    for sizes in (plan(), plan(dynamic=True), plan(multi_scale=0.0)):
        sides, images = sizes.epoch(0, count=0, batch_size=4)
        assert sides.shape == (0, 2)
        assert images.shape == (0,)


def darknet_side(factor: float, base: int) -> int:
    """Darknet's random=1: round(f * init / 32 + 1) * 32; for f < 1 never larger than init."""
    side = int(np.rint(factor * base / 32 + 1)) * 32
    return base if factor < 1 and side > base else side


def test_darknets_sizes() -> None:
    sides, _ = plan(steps=0).epoch(1, count=40_000, batch_size=1)
    assert (sides[:, 0] == sides[:, 1]).all()
    assert set(sides[:, 0].tolist()) == set(range(320, 609, 32))
    rng = np.random.default_rng(0)
    factors = rng.uniform(1, 1.4, 200_000) ** rng.choice((-1, 1), 200_000)
    expected = np.bincount([darknet_side(factor, 416) for factor in factors[:50_000]], minlength=609) / 50_000
    found = np.bincount(sides[:, 0], minlength=609) / len(sides)
    np.testing.assert_allclose(found, expected, atol=0.01)
    assert plan().largest == (608, 608)
    assert plan(image_size=(512, 512)).largest == (736, 736)


def test_sizes_hold_for_so_many_steps_and_the_first_and_last_are_the_largest() -> None:
    sizes = plan(accumulate=2, steps=5, epochs=3)
    for epoch in range(3):
        sides, images = sizes.epoch(epoch, count=8 * 1000, batch_size=8)
        assert len(sides) == 1000
        assert set(images.tolist()) == {8}
        blocks = sides[:, 0].reshape(-1, 10)
        tail = LAST_LARGE_STEPS * 2 if epoch == 2 else 0
        assert (blocks[: (1000 - tail) // 10] == blocks[: (1000 - tail) // 10, :1]).all()
        assert len(set(blocks[:, 0].tolist())) > 3
        if epoch == 0:
            assert (sides[:10] == 608).all()
        assert (sides[-LAST_LARGE_STEPS * 2 :] == 608).all() == (epoch == 2)


def test_an_epoch_shorter_than_the_large_end_is_large_throughout() -> None:
    sides, images = plan(epochs=2).epoch(1, count=50, batch_size=8)
    assert sides.tolist() == [[608, 608]] * 7
    assert images.tolist() == [8] * 7


def test_batches_grow_by_darknets_rule() -> None:
    """Darknet's rule: batch * largest area / area, times 0.8 if that is still larger than the initial batch."""
    sides, images = plan(dynamic=True).epoch(1, count=100_000, batch_size=16)
    for (height, width), count in zip(sides.tolist(), images.tolist(), strict=True):
        grown = 16 * 608 * 608 // (height * width)
        less = int(grown * 0.8)
        assert count == (less if less > 16 else grown)
        assert count >= 16
        assert count * height * width <= 16 * 608 * 608
    assert set(images[sides[:, 0] == 608]) == {16}
    assert images.max() == int(16 * 608**2 // 320**2 * 0.8)


@pytest.mark.parametrize("kind", ["darknet", "uniform"])
@pytest.mark.parametrize("count", [1, 7, 8, 100, 3001])
def test_growing_batches_hold_every_image_once_an_epoch(kind: str, count: int) -> None:
    sizes = plan(dynamic=True, kind=kind, steps=2, accumulate=2, epochs=4)
    sampler = sampler_of(sizes, count)
    lengths = []
    for epoch in range(4):
        sampler.set_position(epoch)
        batches = list(sampler)
        assert len(batches) == len(sampler) == sampler.batches
        order = [request.index for batch in batches for request in batch]
        assert sorted(order[:count]) == list(range(count))
        assert len(order) == sampler.images_in(0, sampler.batches)
        assert len(order) - count < len(batches[-1])
        assert [request.repeat for batch in batches for request in batch][:count] == [0] * count
        lengths.append(len(batches))
    assert sampler.total_steps(4) == sum(-(-length // 2) for length in lengths)


def test_going_on_from_any_batch_gives_the_rest() -> None:
    sampler = sampler_of(plan(dynamic=True, steps=1, epochs=9), 3000)
    sampler.set_position(2)
    whole = list(sampler)
    assert len({len(batch) for batch in whole}) > 3
    assert sum(map(len, whole[3:7])) == sampler.images_in(3, 7)
    for start in (0, 1, 5, len(whole) - 1, len(whole)):
        other = sampler_of(plan(dynamic=True, steps=1, epochs=9), 3000)
        other.set_position(2, start)
        assert list(other) == whole[start:]


@pytest.mark.parametrize("world_size", [2, 4])
def test_the_shares_of_the_ranks_are_the_growing_batch(world_size: int) -> None:
    sizes = plan(dynamic=True, steps=0)
    whole = list(sampler_of(sizes, 500))
    shares = [list(sampler_of(sizes, 500, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert min(map(len, parts)) > 0
        assert [request for part in parts for request in part] == batch


def test_without_several_sizes_nothing_grows() -> None:
    sides, images = plan(multi_scale=0.0, dynamic=True).epoch(0, count=20, batch_size=8)
    assert sides.tolist() == [[416, 416]] * 3
    assert images.tolist() == [8] * 3
