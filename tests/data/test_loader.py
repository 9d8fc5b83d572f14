"""Batches do not depend on workers, ranks or the place where training goes on."""

from __future__ import annotations

import gc
import os
import pickle
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from data import loader as loader_module
from data.config import load_data_config
from data.dataset import TrainDataset
from data.images import image_size, read_image
from data.items import collate
from data.loader import build_eval_loader, build_train_loader, warn_of_small_objects
from data.read import read_split, read_splits
from data.watched_loader import WatchedLoader
from tests.data.test_dataset import ALL, SIZE, make
from tests.data.test_sampler import make_sampler
from utils.config import ConfigError
from utils.recipe import RecipeConfig
from utils.structures import Batch, LabelledImages
from utils.train_config import TrainConfig


@pytest.fixture(scope="module")
def images(tiny_coco: Path) -> LabelledImages:
    return read_split(load_data_config(str(tiny_coco)), "train")


def same(one: Batch, two: Batch) -> bool:
    parts = zip((one.images, *vars(one.targets).values()), (two.images, *vars(two.targets).values()), strict=True)
    equal = all(a is b is None or torch.equal(a, b) for a, b in parts)
    return equal and (one.image_ids, one.paths) == (two.image_ids, two.paths)


def batches(dataset: TrainDataset, *, workers: int = 0, epoch: int = 1, start: int = 0, **changes) -> list[Batch]:
    sampler = make_sampler(len(dataset), **changes)
    loader = build_train_loader(dataset, sampler, workers=workers)
    sampler.set_position(epoch, start)
    return list(loader)


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
    (worker,) = iterator.workers
    subprocess.run(["kill", "-TERM", str(worker.pid)], check=True)
    found += list(iterator)
    expected = batches(make(images), epoch=0)
    assert len(found) == len(expected) == 3
    assert all(map(same, expected, found))
    assert worker.is_alive()
    worker.terminate()
    worker.join(20)
    assert worker.exitcode == 0


class _Frozen(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        return gc.get_freeze_count()


def test_garbage_collection_of_a_worker_leaves_alone_what_it_was_forked_with() -> None:
    """To visit an object is to copy the page of memory that it lies in."""
    before = gc.get_freeze_count()
    (frozen,) = WatchedLoader(_Frozen(), num_workers=1)
    assert frozen.item() > 1000 > before
    assert gc.get_freeze_count() == before


def test_evaluation_workers_are_sent_no_ground_truth(tiny_coco: Path) -> None:
    data = read_split(load_data_config(str(tiny_coco)), "val")
    assert data.ground_truth["annotations"]
    loader = build_eval_loader(data, image_size=SIZE, resize="letterbox", batch_size=2, workers=0)
    assert loader.dataset.images.ground_truth == {}
    assert data.ground_truth["annotations"]


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
        size = 6 // world_size
        for batch, part in zip(whole, share, strict=True):
            assert torch.equal(part.images, batch.images[rank * size : (rank + 1) * size])
            mine = batch.targets.select(batch.targets.image_index // size == rank)
            assert torch.equal(part.targets.boxes, mine.boxes)
            assert torch.equal(part.targets.labels, mine.labels)
            assert torch.equal(part.targets.image_index, mine.image_index % size)


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


def test_processes_of_the_evaluation_stay_where_they_take_long_to_start(images: LabelledImages) -> None:
    for keep in (True, False):
        options = {"image_size": SIZE, "resize": "letterbox", "batch_size": 3, "workers": 1, "keep": keep}
        loader, processes, found = build_eval_loader(images, **options), [], []
        assert not loader.dataset.images.ground_truth
        for _ in range(2):
            batches = iter(loader)
            found.append([(batch.image_ids, batch.images) for batch in batches])
            processes += batches.workers
        assert (processes[0].pid == processes[1].pid) == keep
        for (ids, pixels), (others, again) in zip(*found, strict=True):
            assert ids == others
            assert torch.equal(pixels, again)
        loader.end()
        assert not any(each.is_alive() for each in processes)


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


def test_the_ranks_of_a_machine_divide_the_memory_for_images(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = sum(3 * sample.height * sample.width for sample in images.samples)  # as they are, at this input size
    side = max(max(sample.height, sample.width) for sample in images.samples)
    recipe = replace(RecipeConfig(), image_size=side)
    config = SimpleNamespace(recipe=recipe, image_size=(side, side), model={"resize": "letterbox"}, seed=0, workers=0)
    monkeypatch.setattr(loader_module, "CACHE_BYTES", 10 * needed)
    assert loader_module.train_set_of(images, config).cache is not None
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert loader_module.train_set_of(images, config).cache is None


@pytest.mark.parametrize(("narrow", "told"), [(0, False), (5, False), (6, True), (100, True)])
def test_objects_too_small_to_be_trained_on_are_warned_of(
    narrow: int, told: bool, tiny_coco: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = read_splits(str(tiny_coco)).train.samples[0]  # of 96 x 96
    config = TrainConfig({"resize": "letterbox"}, RecipeConfig(), "d", (96, 96), None, 0, 0)
    boxes = np.tile([10.0, 10, 13, 60], (100, 1))
    boxes[:narrow, 2] = 12
    sample = replace(first, boxes=boxes, labels=np.zeros(100, np.int64), crowd=np.zeros(100, bool))
    images = LabelledImages((sample,), ("thing",), (1,), {})
    warn_of_small_objects(images, config)
    assert (f"{narrow} of 100 training objects are no more than 2 pixels wide or high" in caplog.text) == told
    caplog.clear()
    warn_of_small_objects(replace(images, samples=()), config)
    warn_of_small_objects(images, replace(config, image_size=(192, 192)))
    assert not caplog.text
    warn_of_small_objects(images, replace(config, image_size=(48, 48)))
    assert "100 of 100" in caplog.text


@pytest.mark.parametrize("error", [ConnectionResetError("x"), EOFError(), RuntimeError("exited unexpectedly")])
def test_whatever_follows_from_the_end_of_a_process_is_told_as_its_end(
    images: LabelledImages, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    dataset = make(images)
    iterator = iter(build_train_loader(dataset, make_sampler(len(dataset)), workers=1))
    next(iterator)
    (worker,) = iterator.workers
    before = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's would be faster
    monkeypatch.setattr(iterator, "_batches", SimpleNamespace(__next__=lambda: (worker.kill(), _raise(error))))
    try:
        with pytest.raises(RuntimeError, match=rf"DataLoader worker \(pid {worker.pid}\) is killed by signal: Killed"):
            next(iterator)
    finally:
        signal.signal(signal.SIGCHLD, before)


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_in_the_place_of_an_image_or_a_label_is_refused_by_name(tmp_path: Path) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for name in "ab":
        Image.new("RGB", (40, 30)).save(tmp_path / "images" / f"{name}.png")
        (tmp_path / "labels" / f"{name}.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    os.mkfifo(tmp_path / "images" / "c.png")
    (tmp_path / "labels" / "c.txt").write_text("0 0.5 0.5 0.4 0.4\n")
    (tmp_path / "labels" / "b.txt").unlink()
    os.mkfifo(tmp_path / "labels" / "b.txt")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [a]\n")
    found = read_split(load_data_config(str(tmp_path / "data.yaml")), "train")
    problems = "\n".join(map(str, found.problems))
    assert f"{tmp_path / 'labels' / 'b.txt'}: cannot be read (a pipe or a device, expected a regular file)" in problems
    assert "c.png" in problems
    assert [sample.path.name for sample in found.samples] == ["a.png"]
    for read in (read_image, image_size):
        with pytest.raises(ValueError, match=r"c\.png: cannot be read .a pipe or a device, expected a regular file"):
            read(tmp_path / "images" / "c.png")


@pytest.mark.parametrize(
    ("ranks", "batch", "expected"), [(1, 16, 16), (1, 128, 32), (8, 128, 16), (8, 8, 1), (3, 16, 6), (2, 256, 32)]
)
def test_an_evaluation_batch_is_that_of_one_rank_and_32_at_most(
    tiny_coco: Path, monkeypatch: pytest.MonkeyPatch, ranks: int, batch: int, expected: int
) -> None:
    """Where rank 0 evaluates alone too."""
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", str(ranks))
    recipe = replace(RecipeConfig(), batch_size=batch)
    config = TrainConfig({"resize": "letterbox"}, recipe, "d", (96, 96), None, 0, 0)
    val = read_splits(str(tiny_coco)).val
    assert loader_module.eval_loader_of(val, config, rank=0, world_size=ranks).batch_size == expected
    assert loader_module.eval_loader_of(val, config).batch_size == expected


@pytest.mark.parametrize(("method", "workers", "kept"), [("fork", 1, False), ("spawn", 1, True), ("spawn", 0, False)])
def test_a_training_keeps_the_processes_of_its_evaluation_where_they_take_long_to_start(
    tiny_coco: Path, monkeypatch: pytest.MonkeyPatch, method: str, workers: int, kept: bool
) -> None:
    monkeypatch.setattr(loader_module.multiprocessing, "get_start_method", lambda: method)
    config = TrainConfig({"resize": "letterbox"}, RecipeConfig(), "d", (96, 96), None, 0, workers)
    assert loader_module.eval_loader_of(read_splits(str(tiny_coco)).val, config).persistent_workers is kept


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_eight_ranks_of_one_host_evaluate_in_32_gb_of_shared_memory(
    tiny_coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8 loader processes each, batch 128 at 640 px; batches of all ranks for each rank would want 33.6 GB of it."""
    for name, value in (("LOCAL_RANK", 3), ("WORLD_SIZE", 8), ("LOCAL_WORLD_SIZE", 8)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(loader_module.shutil, "disk_usage", lambda _: SimpleNamespace(free=32 * 10**9))
    recipe = replace(RecipeConfig(), batch_size=128)
    config = TrainConfig({"resize": "letterbox"}, recipe, "d", (640, 640), None, 0, 8)
    loader = loader_module.eval_loader_of(read_splits(str(tiny_coco)).val, config, rank=3, world_size=8)
    assert (loader.batch_size, loader.prefetch_factor) == (16, 2)
