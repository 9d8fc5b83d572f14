"""Batches do not depend on workers, ranks or the place where training goes on."""

from __future__ import annotations

import pickle
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from data import loader as loader_module
from data.config import load_data_config, read_split
from data.dataset import TrainDataset
from data.loader import TrainSampler, build_eval_loader, build_train_loader, collate, default_workers
from data.sizes import SizePlan
from tests.data.test_dataset import ALL, SIZE, make
from utils.config import ConfigError
from utils.structures import Batch, LabelledImages


@pytest.fixture(scope="module")
def images(tiny_coco: Path) -> LabelledImages:
    return read_split(load_data_config(str(tiny_coco)), "train")


def make_sampler(count: int = 8, **changes) -> TrainSampler:
    """A sampler of small batches; changes may also be of its SizePlan."""
    sizes = {"image_size": SIZE, "stride": 16, "multi_scale": 0.5, "seed": 5}
    sizes |= {key: changes.pop(key) for key in list(changes) if key in SizePlan.__dataclass_fields__ and key != "seed"}
    return TrainSampler(count, **{"batch_size": 3, "sizes": SizePlan(**sizes), "mix_epochs": 2, "seed": 5, **changes})


def same(one: Batch, two: Batch) -> bool:
    parts = zip((one.images, *vars(one.targets).values()), (two.images, *vars(two.targets).values()), strict=True)
    equal = all(a is b is None or torch.equal(a, b) for a, b in parts)
    return equal and (one.image_ids, one.paths) == (two.image_ids, two.paths)


def batches(dataset: TrainDataset, *, workers: int = 0, epoch: int = 1, start: int = 0, **changes) -> list[Batch]:
    sampler = make_sampler(len(dataset), **changes)
    loader = build_train_loader(dataset, sampler, workers=workers)
    sampler.set_position(epoch, start)
    return list(loader)


# The sampler


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
        dealt = [request for row in zip(*parts, strict=True) for request in row]
        assert dealt == batch


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


# The loaders


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(images: LabelledImages, workers: int) -> None:
    expected = batches(make(images))
    assert len(expected) == 3
    found = batches(make(images), workers=workers)
    assert len(found) == 3
    assert all(map(same, expected, found))


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="no way to tell who sent a signal")
def test_workers_end_when_their_parent_says_so_and_not_when_a_cluster_does(images: LabelledImages) -> None:
    dataset = make(images)
    iterator = iter(build_train_loader(dataset, make_sampler(len(dataset)), workers=1))
    found = [next(iterator)]
    (worker,) = iterator._workers
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    found += list(iterator)
    expected = batches(make(images), epoch=0)
    assert len(found) == len(expected) == 3
    assert all(map(same, expected, found))
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


def test_cache_start_and_torchs_generator_change_nothing(images: LabelledImages) -> None:
    expected = batches(make(images))
    cached = make(images)
    cached.fill_cache(limit_bytes=10**9)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    for start in range(4):
        found = batches(cached, start=start)
        assert len(found) == 3 - start
        assert all(map(same, expected[start:], found))
    assert torch.equal(torch.get_rng_state(), before), "loading draws nothing from torch's generator"


def test_one_loader_serves_one_epoch_after_another_and_a_broken_off_one(images: LabelledImages) -> None:
    dataset = make(images)
    for workers in (0, 2):
        sampler = make_sampler(len(dataset))
        loader = build_train_loader(dataset, sampler, workers=workers)
        for epoch, start in ((0, 1), (1, 0), (3, 2)):
            sampler.set_position(epoch, start)
            expected = batches(make(images), epoch=epoch, start=start)
            assert all(map(same, expected, loader))
        sampler.set_position(4)
        assert same(next(iter(loader)), batches(make(images), epoch=4)[0])
        sampler.set_position(5)
        assert all(map(same, batches(make(images), epoch=5), loader))


@pytest.mark.parametrize("world_size", [2, 3])
def test_shares_of_the_ranks_hold_the_same_images_as_the_global_batch(images: LabelledImages, world_size: int) -> None:
    dataset = make(images)
    whole = batches(dataset, batch_size=6)
    for rank in range(world_size):
        share = batches(dataset, batch_size=6, rank=rank, world_size=world_size)
        for batch, part in zip(whole, share, strict=True):
            assert torch.equal(part.images, batch.images[rank::world_size])
            mine = batch.targets.select(batch.targets.image_index % world_size == rank)
            assert torch.equal(part.targets.boxes, mine.boxes)
            assert torch.equal(part.targets.labels, mine.labels)
            assert torch.equal(part.targets.image_index, mine.image_index // world_size)


def test_a_batch_of_images_without_objects_has_empty_targets(images: LabelledImages) -> None:
    alone = replace(images, samples=images.samples[:1])
    (batch,) = batches(TrainDataset(alone, ALL, image_size=SIZE, resize="letterbox", seed=0))
    assert len(images.samples[0].boxes) == 0
    assert batch.targets.boxes.shape == (0, 4)
    assert batch.targets.labels.dtype == batch.targets.image_index.dtype == torch.int64
    assert batch.targets.crowd.dtype == torch.bool
    assert batch.letterboxes == ()


def test_collate_numbers_the_objects_by_image(images: LabelledImages) -> None:
    dataset = make(images)
    requests = next(iter(make_sampler(8, batch_size=8, multi_scale=0)))
    items = [dataset[request] for request in requests]
    batch = collate(items)
    assert len(batch) == 8
    for place, item in enumerate(items):
        mine = batch.targets.select(batch.targets.image_index == place)
        assert torch.equal(mine.boxes, item.boxes)
        assert torch.equal(mine.crowd, item.crowd)
        assert torch.equal(batch.images[place], item.image)
    ready = batch.to(torch.device("cpu"), channels_last=True)
    assert ready.images.dtype == torch.float32
    assert ready.images.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal((ready.images * 255).round().to(torch.uint8), batch.images)


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_evaluation_gives_every_image_once(images: LabelledImages, world_size: int) -> None:
    ids = []
    for rank in range(world_size):
        options = {"image_size": SIZE, "resize": "letterbox", "batch_size": 3, "workers": 0}
        loader = build_eval_loader(images, **options, rank=rank, world_size=world_size)
        for batch in loader:
            assert len(batch.letterboxes) == len(batch)
            ids += batch.image_ids
    assert sorted(ids) == sorted(sample.image_id for sample in images.samples)


def test_what_goes_to_spawned_workers_can_be_pickled(images: LabelledImages) -> None:
    loaders = [build_train_loader(make(images), make_sampler(), workers=2)]
    loaders.append(build_eval_loader(images, image_size=SIZE, resize="stretch", batch_size=2, workers=2))
    for loader in loaders:
        for part in (loader.dataset, loader.collate_fn, loader.worker_init_fn):
            pickle.loads(pickle.dumps(part))


def test_shared_memory_bounds_how_much_is_made_ahead(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert loader_module.prefetch_factor(0, 10**12, wanted=4, share=0.5) is None
    monkeypatch.setattr(loader_module, "SHARED_MEMORY", tmp_path / "none")
    assert loader_module.prefetch_factor(8, 10**12, wanted=4, share=0.5) == 4
    monkeypatch.setattr(loader_module, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(loader_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=64_000_000))
    for workers, batch_bytes, expected in ((1, 1_000_000, 4), (2, 8_000_000, 2), (4, 8_000_000, 1)):
        assert loader_module.prefetch_factor(workers, batch_bytes, wanted=4, share=0.5) == expected
    with pytest.raises(ConfigError, match=r"--workers 5: .* has 64.0 MB free and needs 80.0 MB; .*--shm-size=8g"):
        loader_module.prefetch_factor(5, 8_000_000, wanted=4, share=0.5)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"needs 128.0 MB"):
        loader_module.prefetch_factor(4, 8_000_000, wanted=4, share=0.5)


def test_what_others_cannot_share_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert loader_module.workers_share_memory(0)
    for method, expected in (("fork", True), ("spawn", False), ("forkserver", False)):
        monkeypatch.setattr(loader_module.multiprocessing, "get_start_method", lambda method=method: method)
        assert loader_module.workers_share_memory(2) is expected


def test_there_is_at_least_one_worker_and_at_most_eight() -> None:
    assert 1 <= default_workers() <= 8
