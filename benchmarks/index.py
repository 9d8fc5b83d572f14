"""Time and memory of the index of a large data set, generated for it: python benchmarks/index.py [--format yolo].

Prints the time to read a training split, the peak memory of the process meanwhile, and what forked loader processes
have of their own in each of three epochs of reading samples. It runs on Linux, which says what memory a process has.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from data.config import load_data_config
from data.formats import coco, voc, yolo
from data.formats.assemble import to_coco
from data.read import read_split
from data.watched_loader import WatchedLoader
from utils.arguments import Parser, whole_number
from utils.log import say
from utils.structures import LabelledImages, Samples

HEIGHT, WIDTH, CLASSES = 480, 640, 80
PIXEL_FILE = b"P5 640 480 255\n"
"""The header of an image; pixels are never read."""


def main(argv: list[str] | None = None) -> int:
    """Generate, read and print; 0 as exit status."""
    parser = Parser(description="Time and memory of the index of a large data set, generated for it.")
    parser.add_argument("--format", choices=("coco", "yolo", "voc"), default="coco", help="how labels are stored")
    parser.add_argument("--images", type=whole_number, default=118_000, help="images (default: as many as COCO has)")
    parser.add_argument("--boxes", type=float, default=8.5, help="mean number of boxes of an image")
    parser.add_argument("--workers", type=whole_number, default=2, help="loader processes")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        say(f"Writing {args.images:,} images with {args.boxes:g} boxes each as {args.format} ...")
        write(Path(folder), args.format, args.images, args.boxes)
        # In a new process: this one has had more memory already.
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(Path(folder), args.workers))
        process.start()
        process.join()
    return process.exitcode or 0


def write(folder: Path, form: str, count: int, mean: float) -> None:
    """A data set of empty pictures with random boxes, and its data.yaml."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(mean, count)
    corners = rng.uniform(0, (WIDTH / 2, HEIGHT / 2), (counts.sum(), 2))
    boxes = np.concatenate((corners, corners + rng.uniform(4, (WIDTH / 2, HEIGHT / 2), corners.shape)), axis=1).round(2)
    objects = boxes, rng.integers(CLASSES, size=len(boxes)), np.zeros(len(boxes), bool)
    images = folder / "images"
    images.mkdir()
    paths = [images / f"{number:012}.pgm" for number in range(count)]
    for path in paths:
        path.write_bytes(PIXEL_FILE)
    names = tuple(f"class {number}" for number in range(CLASSES))
    sizes = np.tile((HEIGHT, WIDTH), (count, 1))
    samples = Samples.of_columns(paths, range(1, count + 1), sizes, objects, counts)
    data = LabelledImages(samples, names, tuple(range(1, CLASSES + 1)), {})
    target = "images"
    if form == "coco":
        target = "all.json"
        whole = LabelledImages(samples, names, data.category_ids, to_coco(data))
        coco.write(whole, folder / target, [path.name for path in paths])
    elif form == "yolo":
        yolo.write(samples, images, folder / yolo.FOLDER)
    else:
        voc.write(samples, names, images, folder / voc.FOLDER)
    listed = "" if form == "coco" else f"names: {list(names)}\n"
    (folder / "data.yaml").write_text(f"train: {target}\nval: {target}\n{listed}", encoding="utf-8")


def measure(folder: Path, workers: int) -> None:
    """Read the training split, then its samples in loader processes, and print what both cost."""
    before, begin, busy = memory("VmHWM:"), time.perf_counter(), time.process_time()
    images = read_split(load_data_config(str(folder / "data.yaml")), "train", truth="none")
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    count = len(images.samples.boxes)
    say(f"{len(images):,} images, {count:,} boxes: {seconds:.1f} s ({busy:.1f} s of processor time)")
    say(f"peak memory of the process: {memory('VmHWM:'):,.0f} MiB ({before:,.0f} MiB before reading)")
    loader = WatchedLoader(
        _Reading(images.samples),
        batch_size=64,
        shuffle=True,
        num_workers=workers,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    for epoch in range(1, 4):
        largest = max(batch.max().item() for batch in loader)
        say(f"epoch {epoch}: {largest:.1f} MiB of its own in the largest loader process")


def memory(key: str) -> float:
    """MiB of this process: 'VmHWM:' all that it had at most, 'Private_Dirty:' what it shares with no other."""
    file = Path("/proc/self/status" if key == "VmHWM:" else "/proc/self/smaps_rollup")
    fields = file.read_text().split()
    return int(fields[fields.index(key) + 1]) / 1024


class _Reading(Dataset):
    """Reads the samples, not their images; gives MiB that the process has of its own, now and then."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> torch.Tensor:
        sample = self.samples[index]
        assert sample.boxes.sum() + sample.labels.sum() >= 0
        return torch.tensor(memory("Private_Dirty:") if index % 1000 == 0 else 0.0)


if __name__ == "__main__":
    sys.exit(main())
