"""One process of a machine reads the labels and the others map them; processes are threads here."""

from __future__ import annotations

import platform
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.read import DataSplits, read_splits
from engine import shared_labels
from engine.shared_labels import map_labels, read_shared, without_annotations, write_labels
from utils import dist
from utils.metrics.build import build_metric
from utils.structures import Detections, LabelledImages, Sample, Samples

Launch = Callable[..., list[DataSplits]]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ranks that have read the labels themselves."""
    ranks: list[int] = []

    def read(*arguments: str, seed: int) -> DataSplits:
        ranks.append(shared_labels.launched_rank())
        return read_splits(*arguments, seed=seed)

    monkeypatch.setattr(shared_labels, "read_splits", read)
    return ranks


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch, reads: list[int]) -> Launch:
    """launch(source, machines, each): what every rank of so many machines with so many processes each has read."""

    def launch(source: Path, machines: int, each: int) -> list[DataSplits]:
        size, here = machines * each, threading.local()
        barrier, values = threading.Barrier(size, timeout=20), [None] * size

        def exchange(value: object) -> list[object]:
            values[here.rank] = value
            barrier.wait()
            result = list(values)
            barrier.wait()
            return result

        def work(rank: int) -> DataSplits:
            here.rank = rank
            return read_shared(str(source), "detect")

        monkeypatch.setattr(dist, "exchange", exchange)
        monkeypatch.setattr(platform, "node", lambda: f"machine{here.rank // each}")
        monkeypatch.setattr(shared_labels, "launched_size", lambda: size)
        monkeypatch.setattr(shared_labels, "launched_rank", lambda: here.rank)
        monkeypatch.setattr(shared_labels, "local_rank", lambda: here.rank % each)
        with ThreadPoolExecutor(size) as pool:
            return list(pool.map(work, range(size)))

    return launch


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def same(one: LabelledImages, other: LabelledImages) -> bool:
    """Whether two splits have the same images, labels and classes, to the last bit."""
    columns = ("file_ends", "image_ids", "sizes", "boxes", "labels", "crowd", "ends")
    pairs = [(getattr(one.samples, name), getattr(other.samples, name)) for name in columns]
    equal = all(a.dtype == b.dtype and np.array_equal(a, b) for a, b in pairs)
    about = [(each.names, each.category_ids, each.task, each.tiling, each.samples.paths()) for each in (one, other)]
    tiles = [None if each.samples.tiles is None else each.samples.tiles.tolist() for each in (one, other)]
    return equal and about[0] == about[1] and tiles[0] == tiles[1]


@pytest.mark.parametrize(("machines", "each", "readers"), [(1, 3, [0]), (2, 2, [0, 2]), (2, 1, [0, 1])])
def test_one_process_of_each_machine_reads(
    launch: Launch, reads: list[int], tiny_coco: Path, temporary: Path, machines: int, each: int, readers: list[int]
) -> None:
    found, alone = launch(tiny_coco, machines, each), read_splits(str(tiny_coco))
    assert sorted(reads) == readers
    for splits in found:
        assert same(splits.train, alone.train)
        assert same(splits.val, alone.val)
        assert splits.fingerprint() == alone.fingerprint()
        assert splits.class_counts() == alone.class_counts()
    assert found[0].val.ground_truth == alone.val.ground_truth
    assert not any(splits.val.ground_truth["annotations"] for splits in found[1:]), "rank 0 alone counts"
    assert not list(temporary.iterdir()), "mapped files need no name"


def test_tiles_are_shared_too(launch: Launch, tiny_coco: Path) -> None:
    tiled = tiny_coco.with_name("tiled.yaml")
    tiled.write_text(tiny_coco.read_text() + "tiling: {size: 32, empty: 0.5}\n")
    alone = read_splits(str(tiled))
    for splits in launch(tiled, 1, 2):
        assert same(splits.train, alone.train)
        assert same(splits.val, alone.val)
        assert splits.tiles == alone.tiles
        assert splits.tiles is not None


def test_samples_of_mapped_labels_may_be_changed_and_stay_as_they_were(
    launch: Launch, tiny_coco: Path, temporary: Path
) -> None:
    """torch refuses arrays that cannot be written; what one process writes, another does not see."""
    first, second, third = launch(tiny_coco, 1, 3)
    second.train.samples[0].boxes[:] = -1
    assert (first.train.samples[0].boxes >= 0).all()
    assert (third.train.samples[0].boxes >= 0).all()
    assert not isinstance(third.train.samples.boxes, np.memmap), "pickled whole, for processes that are not forked"


def test_without_room_for_files_each_process_reads(
    launch: Launch, reads: list[int], tiny_coco: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(**_: str) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    found = launch(tiny_coco, 1, 3)
    assert sorted(reads) == [0, 1, 2]
    assert all(same(splits.val, found[0].val) for splits in found)
    assert not any(splits.val.ground_truth["annotations"] for splits in found[1:])


def test_files_that_others_cannot_reach_are_no_obstacle(
    launch: Launch, reads: list[int], tiny_coco: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(folder: Path) -> DataSplits:
        raise FileNotFoundError(folder)

    monkeypatch.setattr(shared_labels, "map_labels", gone)
    launch(tiny_coco, 1, 2)
    assert sorted(reads) == [0, 1]
    assert not list(temporary.iterdir())


def test_one_process_alone_exchanges_nothing(reads: list[int], tiny_coco: Path) -> None:
    assert read_shared(str(tiny_coco), "detect").val.ground_truth["annotations"]
    assert reads == [0]


def test_whatever_a_split_holds_comes_back(tmp_path: Path) -> None:
    """No object, no image, names that are not UTF-8, and class labels."""
    nothing = np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, bool)
    one = np.array([[1.0, 2, 3.25, 4]]), np.array([1]), np.array([True])
    samples = Samples.of(
        [Sample(Path("a\udce9 b.jpg"), 10**17, 5, 6, *nothing), Sample(Path("b/c.png"), 3, 7, 8, *one)]
    )
    train = LabelledImages(samples, ("x\udce9", "y"), (7, 1), {})
    truth = {"images": [], "annotations": [], "categories": [{"id": 7, "name": "x\udce9"}, {"id": 1, "name": "y"}]}
    val = LabelledImages(Samples.of([]), ("x\udce9", "y"), (7, 1), truth)
    for task in ("detect", "classify"):
        splits = DataSplits(replace(train, task=task), replace(val, task=task), "d.yaml")
        folder = tmp_path / task
        folder.mkdir()
        write_labels(splits, folder)
        found = map_labels(folder)
        assert same(found.train, splits.train)
        assert same(found.val, splits.val)
        assert (found.source, found.val.ground_truth, found.train.ground_truth) == ("d.yaml", truth, {})


def test_a_metric_without_annotations_notes_what_rank_0_counts(tiny_coco: Path) -> None:
    val = read_splits(str(tiny_coco)).val
    whole, part = build_metric(val), build_metric(without_annotations(val))
    ids = val.samples.image_ids.tolist()
    found = [
        Detections(each.boxes.astype(np.float32), np.full(len(each.boxes), 0.5, np.float32), each.labels)
        for each in val.samples
    ]
    whole.update(ids, found)
    part.update(ids, found)
    assert part.predictions() == whole.predictions()
    counting = build_metric(val)
    counting.extend(part.predictions())
    assert counting.compute() == whole.compute()
