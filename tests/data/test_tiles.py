"""Splits in tiles: nothing of a picture is lost, labels fit their pixels, a sample is a function of its place."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image

from data import sample_reader
from data.anchors import main as anchors_main
from data.config import load_data_config
from data.convert import main as convert_main
from data.dataset import Request, TrainDataset
from data.doctor.examine import examine
from data.doctor.report import to_text
from data.images import read_for_training, read_image
from data.items import collate
from data.loader import build_eval_loader
from data.read import read_split, read_splits
from data.sampler import SizePlan, TrainSampler
from data.split import main as split_main
from data.tiles import evaluation_tiles, training_tiles
from tests.data.test_dataset import ALL, PLAIN, same
from utils.augment_config import AugmentConfig
from utils.config import ConfigError, load_yaml
from utils.provenance import data_fingerprint, file_numbers
from utils.structures import LabelledImages, Sample
from utils.tiles import Grid, Tiling

SIZE = (64, 64)


def split_of(samples: list[Sample], tiling: Tiling | None) -> LabelledImages:
    return LabelledImages(samples, ("red", "blue"), (1, 2), {}, tiling=tiling)


@st.composite
def labelled(draw: st.DrawFn) -> tuple[Sample, Tiling]:
    """A picture with up to six boxes, as small as a pixel and as large as the picture."""
    height, width = draw(st.integers(20, 200)), draw(st.integers(20, 200))
    boxes, numbers = [], st.floats(0, 1, width=32)
    for _ in range(draw(st.integers(0, 6))):
        (x1, x2), (y1, y2) = (sorted(draw(st.tuples(numbers, numbers))) for _ in range(2))
        boxes.append((x1 * (width - 1), y1 * (height - 1), x2 * (width - 1) + 1, y2 * (height - 1) + 1))
    crowd = np.array([draw(st.booleans()) for _ in boxes], bool)
    sample = Sample(Path("a.png"), 1, height, width, np.array(boxes).reshape(-1, 4), np.arange(len(boxes)) % 2, crowd)
    overlap, visible = draw(st.sampled_from((0.0, 0.2, 0.5))), draw(st.sampled_from((0.3, 0.5, 1.0)))
    return sample, Tiling(draw(st.integers(32, 120)), overlap, 1.0, visible)


@given(labelled())
def test_each_object_is_whole_cut_or_ignored_in_every_tile_that_has_a_part_of_it(case: tuple[Sample, Tiling]) -> None:
    """Compared with a count of pixels, tile by tile and object by object, in plain Python."""
    sample, tiling = case
    cut, counts = training_tiles(split_of([sample], tiling), seed=0)
    assert counts is not None
    tiles = tiling.grid.tiles(sample.height, sample.width)
    assert [part.tile for part in cut.samples] == list(tiles)
    seen, ignored = set[int](), 0
    for part in cut.samples:
        expected = []
        for index, (x1, y1, x2, y2) in enumerate(sample.boxes.tolist()):
            left, top = max(x1, part.tile.left), max(y1, part.tile.top)
            right, bottom = min(x2, part.tile.right), min(y2, part.tile.bottom)
            if left >= right or top >= bottom:
                continue
            share = (right - left) * (bottom - top) / ((x2 - x1) * (y2 - y1))
            region = bool(sample.crowd[index]) or share < tiling.visible
            assume(abs(share - tiling.visible) > 1e-9 or share == 1)
            ignored += region and not sample.crowd[index]
            seen |= set() if region else {index}
            expected.append((left, top, right, bottom, int(sample.labels[index]), region))
        back = part.boxes + np.array([part.tile.left, part.tile.top] * 2)
        found = [
            (*box, label, region)
            for box, label, region in zip(back.tolist(), part.labels.tolist(), part.crowd.tolist(), strict=True)
        ]
        assert found == expected, "boxes map back exactly"
    objects = set(np.flatnonzero(~sample.crowd).tolist())
    assert (counts.ignored, counts.lost) == (ignored, len(objects - seen))
    overlapping = tiling.overlap * tiling.size
    for index in objects:
        sides = sample.boxes[index, 2:] - sample.boxes[index, :2]
        if (sides <= overlapping).all():
            assert index in seen, "what is no larger than the overlap is whole in a tile"


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of six pictures of several sizes, of which the first has no object; each pixel tells where it is."""
    folder, rng = tmp_path_factory.mktemp("tiles"), np.random.default_rng(1)
    rows = {}
    for number in range(6):
        height, width = ((100, 150), (130, 90), (50, 60))[number % 3]
        y, x = np.mgrid[:height, :width]
        pixels = np.stack((x, y, np.full_like(x, 40 * number)), axis=2).astype(np.uint8)
        (folder / "images").mkdir(exist_ok=True)
        (folder / "labels").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
        boxes = rng.uniform(0.1, 0.9, (number, 2))
        rows[number] = "".join(f"{i % 2} {cx} {cy} 0.16 0.14\n" for i, (cx, cy) in enumerate(boxes.tolist()))
        (folder / "labels" / f"{number}.txt").write_text(rows[number])
    (folder / "data.yaml").write_text(
        "train: images\nval: images\nnames: [red, blue]\ntiling: {size: 64, overlap: 0.25, empty: 0.5}\n"
    )
    return folder / "data.yaml"


def test_empty_tiles_are_drawn_by_the_seed(pictures: Path) -> None:
    whole = read_split(load_data_config(str(pictures)), "train")
    splits = [read_splits(str(pictures), seed=seed) for seed in (0, 0, 1)]
    prints = [data_fingerprint(each.train) for each in splits]
    assert prints[0] == prints[1] != prints[2]
    counts = splits[0].tiles
    assert counts is not None
    assert counts.pictures == len(whole) == 6
    assert counts.kept == len(splits[0].train)
    everything, all_counts = training_tiles(replace(whole, tiling=replace(whole.tiling, empty=1.0)), seed=0)
    assert len(everything) == all_counts.kept == counts.filled + counts.empty
    none, _ = training_tiles(replace(whole, tiling=replace(whole.tiling, empty=0.0)), seed=0)
    assert len(none) == counts.filled < counts.kept < len(everything)
    assert all((~sample.crowd).any() for sample in none.samples)
    assert data_fingerprint(everything) != data_fingerprint(replace(whole, tiling=None))
    assert str(counts) in splits[0].counts()
    numbers = file_numbers(splits[0].train.samples.paths())
    assert len(numbers) == counts.kept
    assert len(set(numbers.tolist())) == len(set(splits[0].train.samples.paths()))


def dataset(pictures: Path, config: AugmentConfig = ALL, **options: object) -> TrainDataset:
    images = read_splits(str(pictures)).train
    return TrainDataset(images, config, image_size=SIZE, resize="letterbox", seed=3, **options)  # type: ignore[arg-type]


def requests(count: int) -> Iterator[Request]:
    rng = np.random.default_rng(5)
    for epoch in range(12):
        partners = tuple(rng.integers(0, count, 7).tolist())
        yield Request(epoch, int(rng.integers(count)), SIZE, mix=epoch % 4 > 0, partners=partners)


def test_a_sample_of_tiles_depends_on_its_request_alone(pictures: Path) -> None:
    """With mosaic, mixup and albumentations; in another order, from memory, and after a trip to another process."""
    first = dataset(pictures)
    asked = list(requests(len(first)))
    items = [first[request] for request in asked]
    cached, moved = dataset(pictures), pickle.loads(pickle.dumps(first))
    cached.fill_cache(limit_bytes=10**9)
    assert cached.cache is not None
    for other in (dataset(pictures), cached, moved):
        again = [other[request] for request in reversed(asked)][::-1]
        assert all(map(same, items, again))
    assert any(item.crowd.any() for item in items)
    assert any((~item.crowd).any() for item in items)


def test_pixels_and_boxes_of_a_tile_are_those_of_its_picture(pictures: Path) -> None:
    tiles = dataset(pictures, PLAIN)
    for index, sample in enumerate(tiles.images.samples):
        assert sample.tile is not None
        expected = sample.tile.cut(read_image(sample.path))
        loaded = tiles._load(index, SIZE)
        if expected.shape[:2] == SIZE:
            assert np.array_equal(loaded.image, expected)
            assert np.allclose(loaded.boxes, sample.boxes, atol=1e-4)
        assert loaded.image[0, 0, :2].tolist() == pytest.approx([sample.tile.left, sample.tile.top], abs=1)


def test_a_file_is_decoded_once_for_its_tiles(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def counted(path: Path, **options: list[str]) -> np.ndarray:
        seen.append(path)
        return read_for_training(path, **options)

    monkeypatch.setattr(sample_reader, "read_for_training", counted)
    monkeypatch.setattr(sample_reader, "read_image", counted)
    tiles = dataset(pictures)
    tiles.fill_cache(limit_bytes=10**9)
    assert sorted(seen) == sorted(set(tiles.images.samples.paths()))
    seen.clear()
    whole = read_split(load_data_config(str(pictures)), "val")
    loader = build_eval_loader(
        whole, image_size=SIZE, resize="letterbox", batch_size=3, workers=0, grid=Grid(SIZE, 0.25)
    )
    assert sum(len(batch) for batch in loader) == len(evaluation_tiles(whole, Grid(SIZE, 0.25))) > 12
    assert seen == whole.samples.paths()


def test_the_tiles_of_a_block_share_the_decoding_of_their_file(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the order of the sampler, and with the partners of each tile; the batches are those of single requests."""
    tiles, seen = dataset(pictures), []
    sampler = TrainSampler(
        len(tiles),
        batch_size=4,
        sizes=SizePlan(SIZE, 32),
        mix_epochs=2,
        seed=0,
        rank=0,
        world_size=1,
        files=tiles.images.samples.image_ids,
    )

    def counted(path: Path, **options: list[str]) -> np.ndarray:
        seen.append(path)
        return read_for_training(path, **options)

    monkeypatch.setattr(sample_reader, "read_for_training", counted)
    asked = list(sampler)
    batches = [tiles.__getitems__(batch) for batch in asked]
    assert len(seen) < 2 * len(set(tiles.images.samples.paths())), f"{len(tiles)} tiles"
    alone = dataset(pictures)
    for batch, requested in zip(batches, asked, strict=True):
        single = collate([alone[request] for request in requested])
        assert torch.equal(batch.images, single.images)
        assert torch.equal(batch.targets.boxes, single.targets.boxes)


def test_an_unreadable_picture_is_replaced_by_another_one_and_told_once_a_tile(pictures: Path, tmp_path: Path) -> None:
    images = read_splits(str(pictures)).train
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"nothing")
    path = images.samples.path(0)
    samples = [replace(sample, path=bad) if sample.path == path else sample for sample in images.samples]
    images = replace(images, samples=samples)
    tiles = TrainDataset(images, PLAIN, image_size=SIZE, resize="letterbox", seed=0, bad_images="skip")
    first_good = next(index for index, sample in enumerate(samples) if sample.path != bad)
    assert first_good > 1
    assert tiles.image_at(0)[0] == first_good
    assert len(tiles.problems) == 1
    with pytest.raises(ValueError, match="bad"):
        TrainDataset(images, PLAIN, image_size=SIZE, resize="letterbox", seed=0)[Request(0, 0, SIZE, False)]


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_evaluation_gives_all_tiles_of_each_image_in_a_row_on_one_rank(pictures: Path, ranks: int) -> None:
    whole, grid = read_split(load_data_config(str(pictures)), "val"), Grid(SIZE, 0.25)
    found: dict[int, list[tuple[int, ...]]] = {}
    for rank in range(ranks):
        loader = build_eval_loader(
            whole, image_size=SIZE, resize="letterbox", batch_size=4, workers=0, rank=rank, world_size=ranks, grid=grid
        )
        ids = []
        for batch in loader:
            assert len(batch.targets) == 0
            for image_id, tile, box in zip(batch.image_ids, batch.tiles, batch.letterboxes, strict=True):
                ids.append(image_id)
                found.setdefault(image_id, []).append(tile)
                assert (box.height, box.width) == (tile.height, tile.width)
        assert [image_id for image_id, before in zip(ids, [None, *ids], strict=False) if image_id != before] == [
            sample.image_id for sample in whole.samples[rank::ranks]
        ]
    assert found == {s.image_id: list(grid.tiles(s.height, s.width)) for s in whole.samples}


def test_the_doctor_the_anchors_and_the_splitter_know_of_tiles(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    counts = read_splits(str(pictures)).tiles
    report, _ = examine(load_data_config(str(pictures)))
    text = to_text(report)
    assert f"{counts.filled + counts.empty} tiles ({counts.filled} with an object, {counts.empty} without)" in text
    assert report.as_dict()["splits"]["train"]["tiles"]["filled"] == counts.filled
    assert anchors_main([str(pictures), "--img-size", "64"]) == 0
    assert f"of {counts} at 64 x 64 px" in capsys.readouterr().out
    assert split_main([str(pictures), str(tmp_path / "new"), "--val", "0.3"]) == 0
    assert convert_main([str(pictures), str(tmp_path / "coco"), "--to", "coco"]) == 0
    assert load_yaml(tmp_path / "coco" / "data.yaml")["tiling"]["overlap"] == 0.25
    assert load_yaml(tmp_path / "new" / "data.yaml")["tiling"] == {
        "size": 64, "overlap": 0.25, "empty": 0.5, "visible": 0.5,
    }  # fmt: skip


def test_objects_that_no_tile_holds_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    Image.fromarray(np.zeros((200, 200, 3), np.uint8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.9 0.9\n0 0.2 0.2 0.1 0.1\n")
    (tmp_path / "data.yaml").write_text("train: images\nval: images\nnames: [a]\ntiling: {size: 64}\n")
    splits = read_splits(str(tmp_path / "data.yaml"))
    message = "tiling: of 1 objects no tile of 64 pixels shows 50%: they are ignored everywhere, and not learned"
    assert message in caplog.text
    assert splits.tiles.lost == 1
    report, _ = examine(load_data_config(str(tmp_path / "data.yaml")))
    assert any(each.title == "objects too large for the tiles" for each in report.grouped())
    (tmp_path / "labels" / "a.txt").write_text("0 0.5 0.5 0.9 0.9\n")
    with pytest.raises(ConfigError, match="there is nothing to learn"):
        read_splits(str(tmp_path / "data.yaml"))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{size: 20}", "tiling: size: expected at least 32 pixels, found 20"),
        ("{sizes: 64}", "Did you mean 'size'"),
        ("640", "tiling: expected a mapping with the keys size, overlap, empty, visible or null"),
    ],
)
def test_a_wrong_key_is_told(tmp_path: Path, value: str, message: str) -> None:
    (tmp_path / "data.yaml").write_text(f"train: images\nnames: [a]\ntiling: {value}\n")
    with pytest.raises(ConfigError, match=message):
        load_data_config(str(tmp_path / "data.yaml"))


def test_a_classifier_has_no_tiles(tmp_path: Path) -> None:
    (tmp_path / "train" / "a").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("train: train\ntiling: {size: 64}\n")
    with pytest.raises(ConfigError, match="tiling: is for detectors"):
        read_split(load_data_config(str(tmp_path / "data.yaml")), "train", task="classify")


def test_regions_to_ignore_come_with_their_tiles_through_a_mosaic(pictures: Path) -> None:
    """Nothing of a cut object is background: its visible part is a crowd region of the mosaic."""
    tiles = dataset(pictures, replace(PLAIN, mosaic=1.0))
    regions = sum(int(tiles[request].crowd.sum()) for request in requests(len(tiles)))
    assert regions > 0
    assert isinstance(tiles[next(requests(len(tiles)))].image, torch.Tensor)
