"""Batches: a sampler with a position, collation, and the loaders of training and evaluation."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from data.dataset import EvalDataset, Item, Request, TrainDataset
from data.sizes import SizePlan
from utils.config import ConfigError
from utils.structures import Batch, LabelledImages, Targets

CACHE_BYTES = 1_500_000_000
"""Training sets up to this size (at the network's resolution) are kept in memory."""

SHARED_MEMORY = Path("/dev/shm")
"""Where loader processes put their batches, on Linux."""


class TrainSampler(Sampler[list[Request]]):
    """Batches of one epoch after another: which images, at which size; a pure function of (seed, epoch, batch).

    The order is a permutation of all images; the last batch is filled from its start, so that all batches are full.
    Every rank takes its share of the same global batch; where batches grow, shares may differ by one image.

    Args:
        count: images in the set.
        batch_size: of all ranks together; must be a multiple of `world_size`.
        sizes: of the images, and how batches grow where they are small.
        mix_epochs: epochs with mosaic and mixup.
        mix_share: share of the batches of those epochs that may be mixed.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        sizes: SizePlan,
        mix_epochs: int,
        mix_share: float = 1.0,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size % world_size:
            raise ValueError(
                f"batch size {batch_size} cannot be split over {world_size} processes; use a multiple of {world_size}"
            )
        self.count = count
        self.batch_size = batch_size
        self.sizes = sizes
        self.mix_epochs = mix_epochs
        self.mix_share = mix_share
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.set_position(0)

    @property
    def batches(self) -> int:
        """Batches in the whole of the current epoch."""
        return len(self.images)

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Go on with batch `start` of `epoch`."""
        self.epoch = epoch
        self.start = start
        self.sides, self.images = self._epoch(epoch)

    def images_in(self, start: int, stop: int) -> int:
        """Images in the batches from `start` up to `stop` of the current epoch, over all ranks."""
        return int(self.images[start:stop].sum())

    def total_steps(self, epochs: int) -> int:
        """Optimizer updates in a training of `epochs`."""
        dynamic = self.sizes.dynamic
        batches = [len(self._epoch(epoch)[1]) if dynamic else self.batches for epoch in range(epochs)]
        return sum(-(-number // self.sizes.accumulate) for number in batches)

    def _epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return self.sizes.epoch(epoch, count=self.count, batch_size=self.batch_size)

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[Request]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        begin = self.images_in(0, self.start)
        for batch in range(self.start, self.batches):
            (height, width), mix = self.sides[batch].tolist(), self.is_mixed(batch)
            end = begin + int(self.images[batch])
            positions, begin = range(begin, end)[self.rank :: self.world_size], end
            yield [
                Request(self.epoch, int(order[position % self.count]), (height, width), mix, position // self.count)
                for position in positions
            ]

    def is_mixed(self, batch: int) -> bool:
        """Whether a batch of the current epoch may have images made of several."""
        if self.epoch >= self.mix_epochs or self.mix_share >= 1:
            return self.epoch < self.mix_epochs
        return bool(np.random.default_rng((self.seed, self.epoch, batch, 2)).random() < self.mix_share)


def collate(items: list[Item]) -> Batch:
    """Items of one size -> Batch."""
    boxes, labels, crowd = (torch.cat([item[part] for item in items]) for part in (1, 2, 3))
    image_index = torch.cat([torch.full((len(item.boxes),), place) for place, item in enumerate(items)])
    parts = [item.weights for item in items if item.weights is not None]
    weights = torch.cat(parts) if parts else None
    letterboxes = tuple(item.letterbox for item in items if item.letterbox is not None)
    return Batch(
        torch.stack([item.image for item in items]),
        Targets(boxes, labels, image_index, crowd, weights),
        tuple(item.image_id for item in items),
        tuple(item.path for item in items),
        letterboxes,
        tuple(item.problem for item in items) if any(item.problem for item in items) else (),
    )


def default_workers() -> int:
    """Loader processes when the user names none: the free cores, at most 8; one suffices beside training on a CPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // 2, 1), 8)


def workers_share_memory(workers: int) -> bool:
    """Whether loader processes see what the dataset holds in memory: those that are forked do, others get a copy."""
    return workers == 0 or multiprocessing.get_start_method() == "fork"


def prefetch_factor(workers: int, batch_bytes: int, *, wanted: int, share: float) -> int | None:
    """Batches that each loader process makes ahead: as many as are wanted, or as shared memory holds.

    Args:
        share: of what is free there that this loader may take.
    Raises:
        ConfigError: not one batch of each process fits.
    """
    if workers == 0:
        return None
    try:
        free = shutil.disk_usage(SHARED_MEMORY).free
    except OSError:  # a system that has its shared memory elsewhere
        return wanted
    needed = batch_bytes * workers * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if needed > share * free:
        sizes = f"has {free / 1e6:,.1f} MB free and needs {needed / share / 1e6:,.1f} MB"
        raise ConfigError(
            f"--workers {workers}: loader processes hand batches over in {SHARED_MEMORY}, which {sizes}; give it more "
            f"(docker run --shm-size=8g, or mount -o remount,size=8g {SHARED_MEMORY}), or use fewer --workers (0 needs "
            "none)"
        )
    return min(int(share * free / needed), wanted)


def build_train_loader(
    dataset: TrainDataset, sampler: TrainSampler, *, workers: int, pin_memory: bool = False, timeout: float = 0.0
) -> DataLoader:
    """Batches of the sampler's epoch from its position on; set_position takes effect at the next iter().

    Args:
        timeout: seconds to wait for a batch of a worker; 0 waits for ever.
    """
    height, width = sampler.sizes.largest
    batch_bytes = 3 * height * width * -(-sampler.batch_size // sampler.world_size)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(sampler.seed),
        persistent_workers=workers > 0,
        prefetch_factor=prefetch_factor(workers, batch_bytes, wanted=4, share=0.6),
        timeout=timeout if workers else 0,
    )


def build_eval_loader(
    images: LabelledImages,
    *,
    image_size: tuple[int, int],
    resize: str,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world_size: int = 1,
    timeout: float = 0.0,
    bad_images: Literal["stop", "skip"] = "stop",
) -> DataLoader:
    """Every image once, in order; with several ranks each takes every `world_size`-th image.

    Args:
        timeout: as in `build_train_loader`.
        bad_images: as in EvalDataset.
    """
    dataset = EvalDataset(images, image_size=image_size, resize=resize, bad_images=bad_images)
    batch_bytes = 3 * image_size[0] * image_size[1] * batch_size
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(rank, len(dataset), world_size),
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(0),
        prefetch_factor=prefetch_factor(workers, batch_bytes, wanted=2, share=0.3),
        timeout=timeout if workers else 0,
    )


def _start_worker(_: int) -> None:
    """Loader processes are many: each works with one thread. Signals are for the process that trains.

    A cluster sends SIGTERM to every process of a job, and so does `timeout`. Loader processes that obeyed would end the
    training before it has saved; they end when their parent says so.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS and Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _end_with_parent() -> None:
    """In a loader process, whose other threads have SIGTERM blocked: end when it comes from the parent."""
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
