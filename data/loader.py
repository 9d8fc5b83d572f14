"""Batches: a sampler with a position, collation, and the loaders of training and evaluation."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from data.dataset import EvalDataset, Item, Request, TrainDataset
from utils.structures import Batch, LabelledImages, Targets

CACHE_BYTES = 1_500_000_000
"""Training sets up to this size (at the network's resolution) are kept in memory."""


class TrainSampler(Sampler[list[Request]]):
    """Batches of one epoch after another: which images, at which size; a pure function of (seed, epoch, batch).

    The order is a permutation of all images; the last batch is filled from its start, so that all batches are full.
    Every rank takes its share of the same global batch.

    Args:
        count: images in the set.
        batch_size: of all ranks together; must be a multiple of `world_size`.
        image_size: base (height, width).
        multi_scale: see AugmentConfig.
        stride: sizes are multiples of this.
        mix_epochs: epochs with mosaic and mixup.
    """

    def __init__(
        self,
        count: int,
        *,
        batch_size: int,
        image_size: tuple[int, int],
        multi_scale: float,
        stride: int,
        mix_epochs: int,
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
        self.image_size = image_size
        self.multi_scale = multi_scale
        self.stride = stride
        self.mix_epochs = mix_epochs
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.start = 0

    @property
    def batches(self) -> int:
        """Batches in a whole epoch."""
        return -(-self.count // self.batch_size)

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Go on with batch `start` of `epoch`."""
        self.epoch = epoch
        self.start = start

    def __len__(self) -> int:
        return self.batches - self.start

    def __iter__(self) -> Iterator[list[Request]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        mix = self.epoch < self.mix_epochs
        for batch in range(self.start, self.batches):
            size = self.batch_image_size(batch)
            positions = range(batch * self.batch_size, (batch + 1) * self.batch_size)[self.rank :: self.world_size]
            yield [
                Request(self.epoch, int(order[position % self.count]), size, mix, position // self.count)
                for position in positions
            ]

    def batch_image_size(self, batch: int) -> tuple[int, int]:
        """(height, width) of a batch of the current epoch."""
        if not self.multi_scale:
            return self.image_size
        factor = np.random.default_rng((self.seed, self.epoch, batch, 1)).uniform(-1, 1) * self.multi_scale + 1
        height, width = (max(round(side * factor / self.stride), 1) * self.stride for side in self.image_size)
        return height, width


def collate(items: list[Item]) -> Batch:
    """Items of one size -> Batch."""
    boxes, labels, crowd = (torch.cat([item[part] for item in items]) for part in (1, 2, 3))
    image_index = torch.cat([torch.full((len(item.boxes),), place) for place, item in enumerate(items)])
    letterboxes = tuple(item.letterbox for item in items if item.letterbox is not None)
    return Batch(
        torch.stack([item.image for item in items]),
        Targets(boxes, labels, image_index, crowd),
        tuple(item.image_id for item in items),
        tuple(item.path for item in items),
        letterboxes,
    )


def default_workers() -> int:
    """Loader processes when the user names none: the free cores, at most 8; one suffices beside training on a CPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // 2, 1), 8)


def build_train_loader(
    dataset: TrainDataset, sampler: TrainSampler, *, workers: int, pin_memory: bool = False
) -> DataLoader:
    """Batches of the sampler's epoch from its position on; set_position takes effect at the next iter()."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(sampler.seed),
        persistent_workers=workers > 0,
        prefetch_factor=4 if workers else None,
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
) -> DataLoader:
    """Every image once, in order; with several ranks each takes every `world_size`-th image."""
    dataset = EvalDataset(images, image_size=image_size, resize=resize)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=range(rank, len(dataset), world_size),
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_start_worker,
        generator=torch.Generator().manual_seed(0),
    )


def _start_worker(_: int) -> None:
    """Loader processes are many: each works with one thread, and Ctrl-C is for the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
