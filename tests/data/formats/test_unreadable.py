"""Labels that are wrong: repaired where it is unambiguous, else out with their image, alone, or a reason to stop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from data.config import DataConfig, read_data_config
from data.convert import main as convert
from data.doctor.__main__ import main as doctor
from data.read import read_split
from tests.data.tiny_sets import annotation, make_coco, make_voc, make_yolo, read, said, voc_object
from utils.config import ConfigError

Make = Callable[[Path, str], DataConfig]


def coco_set(folder: Path, options: str) -> DataConfig:
    entries = [
        annotation(1, [10, 5, 20, 10]),
        annotation(2, [1, 2, 9, 9], category=7),
        annotation(3, [1, 2, 9, 9], image=3),
    ]
    return make_coco(folder, entries, options=options)


def yolo_set(folder: Path, options: str) -> DataConfig:
    return make_yolo(folder, {"a": "0 0.5 0.5 0.5 0.5\n1 0.5 half 0.2 0.2\n", "b": "0 0.5 0.5 1 1\n"}, options=options)


def voc_set(folder: Path, options: str) -> DataConfig:
    objects = voc_object("cat", (1, 1, 30, 30)) + voc_object("dgo", (2, 2, 9, 9))
    return make_voc(folder, {"a": objects, "b": voc_object("cat", (1, 1, 60, 40))}, options=options)


@pytest.fixture(params=[coco_set, yolo_set, voc_set])
def make(request: pytest.FixtureRequest) -> Make:
    return request.param


def test_its_image_is_left_out(make: Make, tmp_path: Path) -> None:
    data = read(make(tmp_path, ""))
    assert [sample.path.name for sample in data.samples] == ["b.png"]
    (problem,) = data.problems
    assert problem.action == "its image is left out"


def test_the_object_alone_is_left_out(make: Make, tmp_path: Path) -> None:
    data = read(make(tmp_path, "unreadable: object"))
    assert [len(sample.boxes) for sample in data.samples] == [1, 1]
    assert [problem.action for problem in data.problems] == ["left out"]


def test_the_run_stops(make: Make, tmp_path: Path) -> None:
    config = make(tmp_path, "unreadable: run")
    with pytest.raises(ConfigError) as caught:
        read(config)
    message = str(caught.value)
    assert message.startswith("1 problem in the labels (1 that stop the run):\n")
    assert f"set in {config.source} 'unreadable: image' to go on without their images" in message
    assert len(message) < 4000
    assert doctor([str(config.source)]) == 2, "the doctor examines the set all the same"


def test_labels_error_stops_too(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="or set 'labels: warn'"):
        read(make(tmp_path, "labels: error"))


def test_another_word_is_refused(make: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unreadable: expected one of object, image, run, found 'images'"):
        make(tmp_path, "unreadable: images")


@pytest.mark.parametrize(("option", "left"), [("", ["b.png"]), ("unreadable: object", ["a.png", "b.png"])])
def test_fix_and_convert_do_the_same(
    make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, left: list[str]
) -> None:
    config = make(tmp_path / "set", option)
    assert doctor([str(config.source), "--fix", str(tmp_path / "fixed")]) == 2
    assert ("Findings: 1 left out with their images" in capsys.readouterr().out) is (not option)
    assert convert([str(config.source), str(tmp_path / "converted"), "--to", "coco"]) == 0
    for name in ("fixed", "converted"):
        back = read_split(read_data_config(tmp_path / name / "data.yaml"), "val")
        assert [sample.path.name for sample in back.samples] == left
        assert not [problem for problem in back.problems if problem.action != "kept"]


def test_no_image_left(tmp_path: Path) -> None:
    config = make_yolo(tmp_path, {"a": "5 0.5 0.5 1 1"})
    with pytest.raises(
        ConfigError, match=r"(?s)a.txt:1: class 5 is out of range.*No image is left.*unreadable: object"
    ):
        read(config)
    assert doctor([str(config.source)]) == 2


@pytest.mark.parametrize("name", ["Dog", "DOG", " dog "])
def test_class_names_in_other_letters(tmp_path: Path, name: str) -> None:
    data = read(make_voc(tmp_path, {"a": voc_object(name, (1, 1, 30, 30))}))
    assert data.samples[0].labels.tolist() == [1]
    assert ("class 'Dog' is 'dog' in other letters; repaired" in said(data)) is (name == "Dog")


def test_class_names_that_letters_tell_apart(tmp_path: Path) -> None:
    config = make_voc(tmp_path, {"a": voc_object("DOG", (1, 1, 30, 30)), "b": voc_object("Dog", (1, 1, 30, 30))})
    config.source.write_text(config.source.read_text().replace("'cat', 'dog'", "'Dog', 'dog'"))
    data = read(read_data_config(config.source))
    assert [sample.labels.tolist() for sample in data.samples] == [[0]]
    assert "a.xml:2: class 'DOG' is not among the names of the data set; its image" in said(data)


def test_swapped_corners_in_every_format(tmp_path: Path) -> None:
    sets = [
        make_coco(tmp_path / "coco", [annotation(1, [30, 15.5, -20, -10.5], area=210.0)]),
        make_voc(tmp_path / "voc", {"a": voc_object("cat", (30, 15.5, 11, 6)), "b": ""}),
        make_yolo(tmp_path / "yolo", {"a": f"0 {20 / 60} {10.25 / 40} {-20 / 60} {10.5 / 40}\n", "b": ""}),
    ]
    for config in sets:
        data = read(config)
        assert data.samples[0].boxes[0] == pytest.approx([10, 5, 30, 15.5])
        assert data.ground_truth["annotations"][0]["bbox"] == pytest.approx([10, 5, 20, 10.5])
        assert {problem.action for problem in data.problems} == {"repaired"}
        with pytest.raises(ConfigError, match="repaired"):
            read(read_data_config_with(config, "labels: error"))


def read_data_config_with(config: DataConfig, option: str) -> DataConfig:
    config.source.write_text(f"{config.source.read_text()}\n{option}\n")
    return read_data_config(config.source)


def test_a_choice_of_classes_is_explained_first(tmp_path: Path) -> None:
    objects = {name: voc_object("cat", (1, 1, 30, 30)) + voc_object("bus", (2, 2, 9, 9)) * 2 for name in "abcd"}
    config = make_voc(
        tmp_path / "voc", {**objects, "e": voc_object("cat", (1, 1, 30, 30)), "f": voc_object("cow", (1, 1, 9, 9))}
    )
    data = read(config)
    assert [sample.path.name for sample in data.samples] == ["e.png"]
    assert str(data.problems[0]) == (
        f"{tmp_path}/voc/Annotations: 9 objects of 2 classes not among 'names' (bus, cow) leave out 5 of 6 images. To "
        "train on the classes in 'names' alone, set 'unreadable: object' in the data YAML; each is listed"
    )
    assert len(data.problems) == 10
    data = read(read_data_config_with(config, "unreadable: object"))
    assert len(data.samples) == 6
    assert "To train on" not in said(data)
    config = make_yolo(tmp_path / "yolo", {"a": "3 0.5 0.5 1 1\n", "b": "3 0.5 0.5 1 1\n", "c": "0 0.5 0.5 1 1\n"})
    assert "2 objects of 1 class not among 'names' (3) leave out 2 of 3 images. To train on" in said(read(config))
    assert doctor([str(config.source)]) == 2
