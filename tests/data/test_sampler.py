"""The sampler: batches are a function of seed, epoch and position, and ranks share them."""

from __future__ import annotations

import numpy as np
import pytest

from data.sampler import BLOCK, PARTNERS, TOGETHER, SizePlan, TrainSampler, least_padding
from tests.data.test_dataset import SIZE
from utils.boxes import least_shape


def make_sampler(count: int = 8, **changes) -> TrainSampler:
    """A sampler of small batches; changes may also be of its SizePlan."""
    sizes = {"image_size": SIZE, "stride": 16, "multi_scale": 0.5, "seed": 5}
    sizes |= {key: changes.pop(key) for key in list(changes) if key in SizePlan.__dataclass_fields__ and key != "seed"}
    return TrainSampler(count, **{"batch_size": 3, "sizes": SizePlan(**sizes), "mix_epochs": 2, "seed": 5, **changes})


@pytest.mark.parametrize(("count", "batch_size"), [(8, 3), (8, 4), (1, 5), (3, 7), (10, 1)])
def test_an_epoch_gives_every_image_and_fills_the_last_batch_from_the_start(count: int, batch_size: int) -> None:
    sampler = make_sampler(count, batch_size=batch_size)
    epoch = list(sampler)
    assert len(epoch) == len(sampler) == sampler.batches == -(-count // batch_size)
    assert {len(batch) for batch in epoch} == {batch_size}
    requests = [request for batch in epoch for request in batch]
    order = [request.index for request in requests]
    assert sorted(order[:count]) == list(range(count))
    assert order == (order[:count] * batch_size)[: len(order)]
    assert [request.repeat for request in requests] == [place // count for place in range(len(order))]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = make_sampler(50, seed=seed)
        sampler.set_position(epoch)
        return [request.index for batch in sampler for request in batch]

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(4)}) == 12


@pytest.mark.parametrize("count", [1, 2, 5, 16, 20, 64])
def test_partners_come_from_the_same_block_and_every_image_is_in_as_many_samples(count: int) -> None:
    sampler = make_sampler(count, batch_size=4)
    requests = [request for batch in sampler for request in batch][:count]
    length = min(BLOCK, count)
    order = [request.index for request in requests]
    for place, request in enumerate(requests):
        assert len(request.partners) == PARTNERS
        if place < count - count % length:
            block = order[place - place % length :][:length]
            assert set(request.partners) <= set(block)
        if count > PARTNERS:
            assert len({request.index, *request.partners}) == PARTNERS + 1, "no image twice in a sample"
    for corner in range(PARTNERS if count % length == 0 else 0):
        assert sorted(request.partners[corner] for request in requests) == list(range(count))


def test_partners_are_others_in_each_block_and_epoch_and_the_same_for_any_batch_size() -> None:
    def places(epoch: int, batch_size: int = 16) -> dict[int, tuple[int, ...]]:
        sampler = make_sampler(64, batch_size=batch_size)
        sampler.set_position(epoch)
        return {request.index: request.partners for batch in sampler for request in batch}

    assert places(0) == places(0, 4) == places(0, 32) != places(1)
    order = list(places(0))
    steps = {tuple(order.index(one) - place for one in places(0)[order[place]]) for place in (0, 16, 32, 48)}
    assert len(steps) == 4


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_share_of_whole_blocks_needs_no_other_images(world_size: int) -> None:
    for rank in range(world_size):
        for batch in make_sampler(128, batch_size=BLOCK * world_size, rank=rank, world_size=world_size):
            needed = {one for request in batch for one in (request.index, *request.partners)}
            assert needed == {request.index for request in batch}


def test_going_on_from_any_batch_gives_the_rest_of_the_epoch() -> None:
    sampler = make_sampler(20)
    sampler.set_position(3)
    whole = list(sampler)
    for start in range(len(whole) + 1):
        sampler.set_position(3, start)
        assert list(sampler) == whole[start:]
        assert len(sampler) == len(whole) - start


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_the_shares_of_the_ranks_are_the_global_batch(world_size: int) -> None:
    whole = list(make_sampler(20, batch_size=6))
    shares = [list(make_sampler(20, batch_size=6, rank=rank, world_size=world_size)) for rank in range(world_size)]
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert {len(part) for part in parts} == {6 // world_size}
        assert [request for part in parts for request in part] == batch


def test_a_batch_that_cannot_be_split_over_the_ranks_is_refused() -> None:
    with pytest.raises(ValueError, match="batch size 3 cannot be split over 2 processes; use a multiple of 2"):
        make_sampler(batch_size=3, world_size=2)


def test_multi_scale_draws_multiples_of_the_stride_for_whole_batches() -> None:
    sampler = make_sampler(3000, image_size=(64, 96), multi_scale=0.5)
    sizes = []
    for batch in sampler:
        assert len({request.size for request in batch}) == 1
        sizes.append(batch[0].size)
    heights, widths = {h for h, _ in sizes}, {w for _, w in sizes}
    assert heights == {32, 48, 64, 80, 96}
    assert widths <= {48, 64, 80, 96, 112, 128, 144}
    assert {min(widths), max(widths)} == {48, 144}
    again = make_sampler(3000, image_size=(64, 96), multi_scale=0.5, rank=0, world_size=3)
    assert [batch[0].size for batch in again] == sizes
    assert {request.size for batch in make_sampler(9, multi_scale=0.0) for request in batch} == {SIZE}
    assert min(h for b in make_sampler(300, image_size=(16, 16), multi_scale=0.9) for h in b[0].size) == 16


def test_mosaic_ends_after_the_epochs_that_have_it() -> None:
    sampler = make_sampler(mix_epochs=2)
    for epoch, mix in ((0, True), (1, True), (2, False), (7, False)):
        sampler.set_position(epoch)
        assert {request.mix for batch in sampler for request in batch} == {mix}


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_of_little_padding_have_each_image_once_and_hold_it(batch_size: int) -> None:
    sizes = np.random.default_rng(0).integers(20, 700, (50, 2))
    batches = least_padding(sizes, (416, 320), 32, batch_size)
    assert sorted(index for batch in batches for index, _ in batch) == list(range(50))
    assert [len(batch) for batch in batches[:-1]] == [min(batch_size, 50)] * (len(batches) - 1)
    for batch in batches:
        (shape,) = {shape for _, shape in batch}
        needed = [least_shape(*sizes[index].tolist(), (416, 320), 32) for index, _ in batch]
        assert shape == (max(height for height, _ in needed), max(width for _, width in needed))


def test_no_images_make_no_batches() -> None:
    assert least_padding(np.zeros((0, 2), np.int64), (416, 416), 32, 8) == []


@pytest.mark.parametrize(("files", "tiles"), [(90, 40), (3, 200), (1, 5), (700, 1), (300, 6)])
def test_few_tiles_of_a_file_are_in_one_block(files: int, tiles: int) -> None:
    """Each tile once an epoch, in another order each time; a block has about BLOCK / TOGETHER files."""
    owners = np.repeat(np.arange(files), tiles)
    orders = []
    for epoch in (0, 1, 0):
        sampler = make_sampler(len(owners), batch_size=1, rank=0, world_size=1, files=owners)
        sampler.set_position(epoch)
        orders.append([batch[0].index for batch in sampler])
    assert orders[0] == orders[2]
    assert len(owners) == 1 or orders[0] != orders[1]
    assert sorted(orders[0]) == list(range(len(owners)))
    if (files, tiles) == (90, 40):
        blocks = [owners[orders[0][start : start + BLOCK]] for start in range(0, len(owners) - BLOCK, BLOCK)]
        counts = [len(np.unique(block)) for block in blocks]
        assert all(0.7 < count * TOGETHER / BLOCK < 1.3 for count in counts)
        assert np.mean(counts) < 1.05 * BLOCK / TOGETHER
        neighbours = [(block[1:] == block[:-1]).mean() for block in blocks]
        assert np.mean(neighbours) < 0.06, "within the block they are shuffled"


def test_tiles_may_be_repeated() -> None:
    owners, repeats = np.repeat(np.arange(100), 24), np.random.default_rng(1).uniform(1, 2, 2400)
    sampler = make_sampler(2400, batch_size=1, rank=0, world_size=1, files=owners, repeats=repeats)
    shown = np.array([request.index for (request,) in sampler])
    assert (np.bincount(shown, minlength=2400) == sampler.times).all()
    files = [len(np.unique(owners[shown[at : at + BLOCK]])) for at in range(0, len(shown) - BLOCK, BLOCK)]
    assert max(files) < 1.4 * BLOCK / TOGETHER
