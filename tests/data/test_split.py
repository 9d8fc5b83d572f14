"""data.split: every class has its share in each split, groups stay together, and what it writes reads back the same."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.config import DataConfig, read_data_config
from data.convert import read_dataset
from data.similar import DUPLICATE, SCENE, _hashes, alike, groups, small_pictures
from data.split import main
from data.stratify import stratify
from tests.data.tiny_sets import (
    annotation,
    make_coco,
    make_config,
    make_folders,
    make_image,
    make_voc,
    make_yolo,
    voc_object,
)
from utils.structures import LabelledImages


def split(config: DataConfig, folder: Path, *options: str, status: int = 0) -> dict[str, LabelledImages]:
    assert main([str(config.source), str(folder), *options]) == status
    return read_dataset(read_data_config(folder / "data.yaml")) if status == 0 else {}


def many(folder: Path, count: int = 40) -> DataConfig:
    """`count` images in pairs: a0.png and a1.png are frames of clip a, ...; class 2 is in every tenth."""
    rows = {
        f"clip{index // 2:02}_{index % 2}": f"{index % 2} 0.5 0.5 0.5 0.5\n"
        + ("2 0.2 0.2 0.1 0.1\n" if index % 10 == 0 else "")
        for index in range(count)
    }
    config = make_yolo(folder, rows)
    for index, name in enumerate(rows):  # those of make_yolo are alike where the letters of their names are
        make_image(folder / "images" / f"{name}.png", seed=index)
    return config


def test_every_class_has_its_share(tmp_path: Path) -> None:
    splits = split(many(tmp_path / "set"), tmp_path / "out", "--val", "0.25", "--test", "0.25")
    assert {name: len(data) for name, data in splits.items()} == {"train": 20, "val": 10, "test": 10}
    for data, twos in zip(splits.values(), (2, 1, 1), strict=True):
        counts = np.bincount(data.samples.labels, minlength=3).tolist()
        assert counts == [len(data) // 2, len(data) // 2, twos]
    paths = [path for data in splits.values() for path in data.samples.paths()]
    assert len(set(paths)) == 40
    assert not list((tmp_path / "out").rglob("*.png"))


def test_the_seed_decides(tmp_path: Path) -> None:
    config = many(tmp_path / "set")
    first, again, other = (split(config, tmp_path / name, "--seed", name[0]) for name in ("1", "1again", "2"))
    assert first["val"].samples.paths() == again["val"].samples.paths()
    assert first["val"].samples.paths() != other["val"].samples.paths()


@pytest.mark.parametrize("group", ["clip[0-9]+", "(clip..)_"])
def test_groups_by_name_stay_together(tmp_path: Path, group: str, capsys: pytest.CaptureFixture) -> None:
    splits = split(many(tmp_path / "set"), tmp_path / "out", "--group", group)
    clips = [{path.name[:6] for path in data.samples.paths()} for data in splits.values()]
    assert not clips[0] & clips[1]
    assert "--group names 20 groups (0 images are in none)" in capsys.readouterr().out


def test_groups_by_folder_and_what_cannot_be_split(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    config = many(tmp_path / "set")
    split(config, tmp_path / "out", "--group", "folder", status=2)
    assert "val would be empty: the 40 images are in 1 group that stay together" in capsys.readouterr().err
    for options, told in (
        (("--group", "("), "no regular expression"),
        (("--group", "video"), "--group video: matches none of the 40 names"),
        (("--val", "0.7", "--test", "0.3"), "leave 0 for train"),
    ):
        split(config, tmp_path / "out", *options, status=2)
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    split(config, tmp_path / "out", status=2)
    assert "exists and is not empty" in capsys.readouterr().err


def smooth(seed: int, *, height: int = 120, width: int = 160) -> Image.Image:
    """A picture of a few soft shapes, as a photo has."""
    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def test_pictures_that_look_alike(tmp_path: Path) -> None:
    for index in range(30):
        smooth(index).save(tmp_path / f"{index}.png")
    smooth(3).save(tmp_path / "30.jpg", quality=60)
    smooth(4, height=240, width=320).save(tmp_path / "31.png")
    moved = smooth(5)
    moved.paste((90, 90, 90), (60, 50, 85, 75))
    moved.save(tmp_path / "32.png")
    for name in ("33.png", "34.png"):
        Image.new("RGB", (160, 120), (0, 0, 0)).save(tmp_path / name)
    paths = sorted(tmp_path.iterdir(), key=lambda path: int(path.stem))
    small = small_pictures(paths, "")
    assert alike(small, DUPLICATE).tolist() == [[3, 30], [4, 31]]
    assert alike(small, SCENE).tolist() == [[3, 30], [4, 31], [5, 32]]
    assert groups(6, np.array([[1, 2], [4, 5], [2, 5]])).tolist() == [0, 1, 1, 3, 1, 1]


def test_hashes_in_parts_are_those_of_all() -> None:
    small = np.random.default_rng(0).integers(0, 256, (25, 16, 18), np.uint8)
    for whole, part in zip(_hashes(small), _hashes(small, chunk=4), strict=True):
        assert np.array_equal(whole, part)


def test_a_file_is_never_in_memory_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations are read from the file again while they are written, outlines too; what they lack is added."""
    monkeypatch.setattr("data.formats.coco.load_coco", None)
    rows = [annotation(n + 1, [n, 5, 2, 9], image=(7, 3)[n % 2], segmentation=[[n, 0.5]]) for n in range(50)]
    del rows[5]["area"]
    config = make_coco(tmp_path / "set", rows)
    assert main([str(config.source), str(tmp_path / "out"), "--val", "0.5"]) == 0
    written = [json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("train", "val")]
    rows[5]["area"] = 18.0
    assert sorted((row for each in written for row in each["annotations"]), key=lambda row: row["id"]) == rows


def test_the_first_of_equal_pictures_stands_for_all() -> None:
    rng = np.random.default_rng(0)
    scene = rng.integers(0, 200, (16, 18), np.uint8)
    small = np.stack([rng.integers(0, 200, (16, 18), np.uint8), scene, scene + 1, *[scene] * 200, *[scene * 0] * 3])
    assert alike(small, DUPLICATE).tolist() == [[1, other] for other in range(2, 203)]
    assert alike(small[:0], DUPLICATE).shape == (0, 2)


def test_copies_stay_together(tmp_path: Path) -> None:
    config = many(tmp_path / "set", 20)
    for index in range(0, 20, 2):
        smooth(index).save(tmp_path / "set" / "images" / f"clip{index // 2:02}_0.png")
        smooth(index, height=240, width=320).save(tmp_path / "set" / "images" / f"clip{index // 2:02}_1.png")
    splits = split(config, tmp_path / "out", "--val", "0.5")
    clips = [{path.name[:6] for path in data.samples.paths()} for data in splits.values()]
    assert not clips[0] & clips[1]
    assert len(splits["val"]) == 10


def test_coco_stays_coco(tmp_path: Path) -> None:
    images = [{"id": 10 + n, "file_name": f"x/{n}.png", "height": 40, "width": 60, "license": 4} for n in range(8)]
    rows = [annotation(n + 1, [n, 1, 20, 10.25], image=10 + n, category=(2, 5)[n % 2], note=f"é{n}") for n in range(8)]
    for image in images:
        make_image(tmp_path / "set" / "images" / image["file_name"])
    config = make_coco(tmp_path / "set", rows, images=images)
    splits = split(config, tmp_path / "out", "--val", "0.5")
    contents = {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in splits}
    assert sorted((row for each in contents.values() for row in each["annotations"]), key=lambda row: row["id"]) == rows
    assert {each["id"] for content in contents.values() for each in content["images"]} == set(range(10, 18))
    assert contents["train"]["info"] == {"year": 2024}
    assert all(image["license"] == 4 for image in contents["val"]["images"])
    assert splits["val"].names == ("cat", "dog", "owl")


def test_several_json_files_become_one_set(tmp_path: Path) -> None:
    """Image and annotation ids of both files clash, and the classes have other ids in the second."""
    make_coco(tmp_path / "set", [annotation(1, [1, 1, 9, 9]), annotation(2, [1, 1, 9, 9], image=3, category=5)])
    (tmp_path / "set" / "val.json").rename(tmp_path / "set" / "train.json")
    images = [{"id": 7, "file_name": "c.png", "height": 40, "width": 60}]
    images += [{"id": 3, "file_name": "d.png", "height": 40, "width": 60}]
    for image in images:
        make_image(tmp_path / "set" / "images" / str(image["file_name"]))
    categories = [{"id": 1, "name": "owl"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "cat"}]
    rows = [annotation(1, [1, 1, 8, 8], category=3), annotation(2, [1, 1, 8, 8], image=3, category=2)]
    make_coco(tmp_path / "set", rows, images=images, categories=categories)
    config = make_config(tmp_path / "set", "train: train.json\nval: val.json")
    splits = split(config, tmp_path / "out", "--val", "0.5")
    assert all(np.bincount(data.samples.labels).tolist() == [1, 1] for data in splits.values())
    assert all(data.category_ids == (2, 5, 9) for data in splits.values())


def test_keys_that_the_labels_need_are_kept(tmp_path: Path) -> None:
    objects: dict[str, str | None] = dict.fromkeys(("a b", "c'd", "é#e", "f%g"), voc_object("dog", (2, 2, 9, 9)))
    config = make_voc(tmp_path / "set", objects, options="voc_first_pixel: 0\nlabels_dir: Annotations")
    splits = split(config, tmp_path / "out", "--val", "0.5")
    assert sorted(path.stem for data in splits.values() for path in data.samples.paths()) == sorted(objects)
    assert all(sample.boxes.tolist() == [[2, 2, 9, 9]] for data in splits.values() for sample in data.samples)


def test_class_folders(tmp_path: Path) -> None:
    make_folders(tmp_path / "set", {"ant": 6, "bee": 6})
    config = make_config(tmp_path / "set", "train: train\nnames: {ant: Ant, bee: Bee}")
    for number, path in enumerate(sorted((tmp_path / "set").rglob("*.png"))):
        make_image(path, seed=number)
    assert main([str(config.source), str(tmp_path / "out"), "--val", "0.5"]) == 0
    new = read_data_config(tmp_path / "out" / "data.yaml")
    assert (new.names, new.folders) == (("Ant", "Bee"), ("ant", "bee"))
    assert new.val is not None
    assert sorted(Path(line).parent.name for line in new.val.read_text().splitlines()) == ["ant"] * 3 + ["bee"] * 3


def test_groups_count_as_a_whole() -> None:
    owners = np.repeat(np.arange(12), 2)
    labels = np.tile([0, 1], 12)
    chosen = stratify((owners, labels), np.repeat([0, 1, 2], [6, 3, 3]), 2, [0.5, 0.25, 0.25], 0)
    assert chosen[0] == 0
    assert sorted(np.bincount(chosen).tolist()) == [3, 3, 6]
    assert len({tuple(chosen[part]) for part in (slice(0, 6), slice(6, 9), slice(9, 12))}) == 3


def test_odd_names_are_read_back(tmp_path: Path) -> None:
    """Write -> read, as lists and as COCO JSON: names as cameras and people give them."""
    names = ("a.b.JPG", "ñandú–ß.JPG", "日本", "shot -1", "two  blanks", "x.jpg", "sub folder/x")
    for number, name in enumerate(names):
        make_image(tmp_path / "yolo" / "images" / f"{name}.png", seed=number)
        label = tmp_path / "yolo" / "labels" / f"{name}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(f"{number % 3} 0.5 0.5 0.5 0.25\n")
    lists = make_config(tmp_path / "yolo", "train: images\nnames: [cat, dog, owl]")
    images = [{"id": n, "file_name": f"{name}.png", "height": 40, "width": 60} for n, name in enumerate(names)]
    rows = [annotation(n + 1, [15, 15, 30, 10], image=n, category=(2, 5, 9)[n % 3]) for n in range(len(names))]
    coco = make_coco(tmp_path / "coco", rows, images=images, options=f"images: {tmp_path}/yolo/images")
    for config in (lists, coco):
        splits = split(config, tmp_path / f"{config.path.name} out", "--val", "0.5")
        found = {
            path.relative_to(tmp_path / "yolo" / "images").as_posix(): sample
            for data in splits.values()
            for path, sample in zip(data.samples.paths(), data.samples, strict=True)
        }
        assert sorted(found) == sorted(f"{name}.png" for name in names)
        for number, name in enumerate(names):
            assert found[f"{name}.png"].labels.tolist() == [number % 3]
            assert found[f"{name}.png"].boxes.tolist() == [[15, 15, 45, 25]]
