"""export.py: every format gives the figures and detections of the checkpoint; and the command's refusals."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import detect
import export
import val
from models.build import build_model
from models.config import load_model_config
from models.export import formats, write
from models.export.compare import Difference, compare
from models.predictor import open_predictor
from tests.test_val import CATEGORY_IDS, NAMES, write_checkpoint, write_dataset
from utils.checkpoint import save_checkpoint
from utils.config import to_plain
from utils.metrics.coco import FIGURES

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "torchscript": ".torchscript", "darknet": ".weights"}
PACKAGES = {"onnx": ("onnx", "onnxruntime"), "openvino": ("onnx", "openvino")}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "best.pt")


@pytest.fixture(scope="module")
def data(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The truth here is what the checkpoint itself finds: its figures are high, and any difference lowers them."""
    path = write_dataset(tmp_path_factory.mktemp("data"))
    rows = find(weights, path, tmp_path_factory.mktemp("truth"))
    truth = json.loads((path.parent / "val.json").read_text())
    ids = {image["file_name"]: image["id"] for image in truth["images"]}
    truth["annotations"] = [
        {"id": number, "image_id": ids[Path(row["source"]).name], "category_id": CATEGORY_IDS[row["class"]]}
        | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        for number, row in enumerate(rows, 1)
        for x1, y1, x2, y2 in [row["box"]]
    ]
    (path.parent / "val.json").write_text(json.dumps(truth))
    return path


@pytest.fixture(scope="module")
def original(data: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, list[dict]]:
    """The checkpoint's figures and detections."""
    folder = tmp_path_factory.mktemp("original")
    return evaluate(weights, data, folder / "val"), find(weights, data, folder / "detect")


@pytest.fixture(scope="module")
def script(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint as TorchScript."""
    folder = tmp_path_factory.mktemp("script")
    assert export.main(["--weights", str(weights), "--format", "torchscript", "--output", str(folder)]) == 0
    return folder / "best.torchscript"


@pytest.fixture
def already_traced(script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the slow part of writing TorchScript, a copy of `script`: for tests of what follows."""
    monkeypatch.setitem(write.WRITERS, "torchscript", lambda _, path, __: shutil.copy(script, path))


def needs(kind: str) -> None:
    """Skip where a format's packages are missing; OpenVINO is not imported before our own guard."""
    for package in PACKAGES.get(kind, ()):
        try:
            formats.import_package(package)
        except ImportError:
            pytest.skip(f"{package} is not installed")


def evaluate(weights: Path, data: Path, folder: Path) -> dict:
    arguments = ["--weights", str(weights), "--data", str(data), "--device", "cpu", "--workers", "0", "--trust"]
    arguments += ["--batch-size", "3", "--conf-thres", "0", "--max-det", "300"]
    assert val.main([*arguments, "--project", str(folder)]) == 0
    return json.loads((folder / "exp" / "metrics.json").read_text())


def find(weights: Path, data: Path, folder: Path, *options: str) -> list[dict]:
    arguments = ["--weights", str(weights), "--source", str(data.parent / "images"), "--device", "cpu", "--save-json"]
    # The best few of each image: of the thousands of a random model, one may lie on the edge of a threshold.
    arguments += ["--no-save", "--conf-thres", "0.2", "--max-det", "10", "--trust"]
    assert detect.main([*arguments, *options, "--project", str(folder)]) == 0
    return json.loads((folder / "exp" / "detections.json").read_text())


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("onnx", []),
        ("onnx", ["--dynamic"]),
        ("openvino", ["--batch-size", "2"]),
        ("torchscript", []),
        ("darknet", []),
    ],
)
def test_figures_and_detections_are_those_of_the_checkpoint(
    kind: str, options: list[str], data: Path, weights: Path, original: tuple, tmp_path: Path, capsys
) -> None:
    needs(kind)
    output = tmp_path / f"new folder/model{SUFFIXES[kind]}"
    assert export.main(["--weights", str(weights), "--format", kind, "--output", str(output), *options]) == 0
    printed = capsys.readouterr().out
    assert "Largest difference from the original: " in printed
    assert f"Wrote {output}" in printed
    predictor = open_predictor(output, device="cpu", trust=True)
    assert predictor.names == NAMES
    assert (predictor.image_size, predictor.resize, predictor.info.stride) == ((64, 64), "letterbox", 32)
    assert predictor.info.fixed_size is (kind in ("onnx", "openvino") and "--dynamic" not in options)
    assert compare(open_predictor(weights, device="cpu"), predictor, [(1, 64, 64), (5, 64, 64)]).within(1e-4)

    (figures, wanted), found = original, evaluate(output, data, tmp_path / "val")
    assert figures["AP"] > 0.5, "the model finds little; the comparison would prove little"
    ours, theirs = (np.array([each[key] for key in FIGURES], float) for each in (found, figures))  # None is nan
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert list(found["per_class"]) == list(NAMES)
    rows = find(output, data, tmp_path / "detect")
    assert len(wanted) == len(rows) > 10
    for one, other in zip(wanted, rows, strict=True):
        assert [one[key] for key in ("source", "frame", "name")] == [other[key] for key in ("source", "frame", "name")]
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert one["box"] == pytest.approx(other["box"], abs=0.1)


@pytest.mark.parametrize("kind", ["onnx", "openvino", "torchscript"])
def test_half_and_dynamic_together(kind: str, weights: Path, tmp_path: Path) -> None:
    needs(kind)
    output = tmp_path / f"best{SUFFIXES[kind]}"
    arguments = ["--weights", str(weights), "--format", kind, "--half", "--dynamic", "--output", str(tmp_path)]
    assert export.main([*arguments, "--img-size", "96"]) == 0
    predictor = open_predictor(output, trust=True)
    assert predictor.image_size == (96, 96)
    assert not predictor.info.fixed_size
    assert predictor.precision == "fp32 (fp16 weights)"
    difference = compare(open_predictor(weights, device="cpu"), predictor, [(2, 96, 96), (1, 32, 64)])
    assert 0 < difference.scores < 0.01


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("onnx", ["--with-nms", "--with-preprocess"]),
        ("openvino", ["--with-nms", "--batch-size", "2"]),
        ("onnx", ["--with-preprocess"]),
        ("onnx", ["--layout", "yolo"]),
    ],
)
def test_other_contracts_give_the_detections_of_the_checkpoint(
    kind: str, options: list[str], data: Path, weights: Path, original: tuple, tmp_path: Path, capsys
) -> None:
    needs(kind)
    output = tmp_path / f"model{SUFFIXES[kind]}"
    ends = ["--conf-thres", "0.2", "--max-det", "10"] if "--with-nms" in options else []
    assert export.main(["--weights", str(weights), "--format", kind, "--output", str(output), *options, *ends]) == 0
    printed = capsys.readouterr().out
    assert "docs/deploy.md" in printed
    if kind == "onnx":
        assert ", opset 17, " in printed
        assert "Read by OpenCV" in printed
    assert ("On pictures of other sizes, beside detect.py: " in printed) is ("--with-preprocess" in options)
    wanted, rows = original[1], find(output, data, tmp_path / "detect")
    assert len(wanted) == len(rows) > 10
    for one, other in zip(wanted, rows, strict=True):
        assert [one[key] for key in ("source", "frame", "name")] == [other[key] for key in ("source", "frame", "name")]
        assert one["score"] == pytest.approx(other["score"], abs=1e-3)
        assert one["box"] == pytest.approx(other["box"], abs=0.1)


def test_int8_prints_the_ap_before_and_after(data: Path, weights: Path, tmp_path: Path, capsys) -> None:
    needs("onnx")
    text = data.read_text()
    (data.parent / "both.yaml").write_text(text + ("" if "train:" in text else "train: val.json\n"))
    arguments = ["--weights", str(weights), "--format", "onnx", "--output", str(tmp_path)]
    assert export.main([*arguments, "--int8", str(data.parent / "both.yaml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Calibration: ") and " images of the training split of " in line for line in lines)
    assert any("accepted: int8 is judged by its AP" in line for line in lines)
    figures = {line.split(":")[0]: line for line in lines if line.startswith(("fp32: AP ", "int8: AP "))}
    assert sorted(figures) == ["fp32", "int8"]
    assert all("ms an image (ONNX Runtime" in line for line in figures.values())
    assert open_predictor(tmp_path / "best.onnx").precision == "int8"


def test_height_and_width_and_a_difference_that_is_accepted(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    needs("onnx")
    monkeypatch.setattr("engine.commands.export.TOLERANCE", 1e-7)
    arguments = ["--weights", str(weights), "--format", "onnx", "--half", "--img-size", "64", "96"]
    assert export.main([*arguments, "--output", str(tmp_path)]) == 0
    assert "; above 1e-07, accepted: weights in fp16 allow it" in capsys.readouterr().out
    assert open_predictor(tmp_path / "best.onnx").info.image_size == (64, 96)


def test_darknet_files_name_the_classes_and_come_back(weights: Path, tmp_path: Path) -> None:
    assert export.main(["--weights", str(weights), "--format", "darknet", "--output", str(tmp_path)]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.cfg", "best.names", "best.weights"]
    assert (tmp_path / "best.names").read_text().split() == list(NAMES)
    assert export.main(["--weights", str(tmp_path / "best.weights"), "--format", "torchscript"]) == 0
    again = open_predictor(tmp_path / "best.torchscript", trust=True)
    assert again.names == NAMES
    assert compare(open_predictor(weights, device="cpu"), again, [(2, 64, 64)]).within(1e-5)


def test_metadata_of_the_checkpoint_travel(weights: Path, script: Path) -> None:
    found, wanted = open_predictor(script, trust=True).info, open_predictor(weights, device="cpu").info
    assert found.category_ids == wanted.category_ids == tuple(range(1, len(CATEGORY_IDS) + 1))
    assert (found.nms, found.beta_nms, found.stride) == (wanted.nms, wanted.beta_nms, wanted.stride)


def test_a_model_without_suppression_keeps_it_out_and_darknet_refuses_its_head(tmp_path: Path, capsys) -> None:
    config = load_model_config("cspdet-n-e2e", ["image_size=64", "backbone.channels=[8, 16, 24, 32]"])
    about = {"model": to_plain(config), "names": ["a", "b"], "category_ids": [1, 2], "image_size": [64, 64]}
    path = tmp_path / "best.pt"
    save_checkpoint(path, {**about, "resize": "letterbox", "ema": build_model(config, 2).state_dict()})
    assert open_predictor(path, device="cpu").info.nms == "none"
    assert export.main(["--weights", str(path), "--format", "torchscript"]) == 0
    assert open_predictor(tmp_path / "best.torchscript", trust=True).info.nms == "none"
    capsys.readouterr()
    assert export.main(["--weights", str(path), "--format", "darknet"]) == 2
    expected = "error: darknet has no section for a head of type AnchorFreeHead; only for anchor, region and classify "
    assert capsys.readouterr().err.strip() == expected + "heads"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["best.pt", "best.torchscript"]


@pytest.mark.usefixtures("already_traced")
def test_a_difference_above_the_tolerance_fails_and_leaves_the_older_file(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    (tmp_path / "best.torchscript").write_text("older")
    monkeypatch.setattr(write, "compare_as_layout", lambda *_: Difference(3.0, 0.01, 0.5))
    assert export.main(["--weights", str(weights), "--format", "torchscript", "--output", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: --format torchscript: it differs from the original by 3 px in boxes")
    assert "Nothing was written" in error
    assert [path.name for path in tmp_path.iterdir()] == ["best.torchscript"]
    assert (tmp_path / "best.torchscript").read_text() == "older"


@pytest.mark.usefixtures("already_traced")
@pytest.mark.parametrize(("rounding", "status"), [(1e-5, 1), (1e-4, 0), (1.0, 0)])
def test_a_model_may_differ_by_ten_times_its_own_rounding(
    rounding: float, status: int, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "compare_as_layout", lambda *_: Difference(3.0, 9e-4, 2e-5))
    monkeypatch.setattr(write, "own_rounding", lambda *_: rounding)
    assert export.main(["--weights", str(weights), "--format", "torchscript", "--output", str(tmp_path)]) == status
    assert (tmp_path / "best.torchscript").exists() == (status == 0)
    monkeypatch.setattr(write, "compare_as_layout", lambda *_: Difference(3.0, 0.5, 2e-5))
    assert export.main(["--weights", str(weights), "--format", "torchscript", "--output", str(tmp_path)]) == 1


def test_a_model_that_gives_no_numbers_fails(tmp_path: Path, capsys) -> None:
    path = write_checkpoint(tmp_path / "best.pt")
    state = torch.load(path, weights_only=True)
    next(value for key, value in state["ema"].items() if key.endswith("conv.weight")).fill_(3e38)
    torch.save(state, path)
    assert export.main(["--weights", str(path), "--format", "torchscript"]) == 1
    assert "inf" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.usefixtures("already_traced")
def test_weights_left_out_are_the_newest_training(weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(export, "default_weights", lambda: weights)
    assert export.main(["--format", "torchscript", "--output", str(tmp_path / "m.torchscript")]) == 0
    assert f"Weights: {weights} (" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: ["--weights", str(p / "no.pt")], "no.pt: no such file"),
        (lambda p: ["--img-size", "100"], "--img-size: expected multiples of 32"),
        (lambda p: ["--output", str(p / "model.onnx")], "expected a folder that exists, or a file model.torchscript"),
        (lambda p: ["--weights", str(p / "x.h5")], "expected .pt, .pth, .weights"),
        (lambda p: ["--format", "darknet", "--half"], "--half: darknet's files know no such thing"),
        (lambda p: ["--format", "darknet", "--dynamic"], "--dynamic: darknet's files know no such thing"),
        (lambda p: ["--output", str(p / "file" / "m.torchscript")], "file"),
        (lambda p: ["--with-nms"], "--with-nms: is for --format onnx and openvino"),
        (lambda p: ["--format", "darknet", "--layout", "yolo"], "--layout: darknet's files know no such thing"),
        (
            lambda p: ["--format", "openvino", "--layout", "deepstream"],
            "--layout deepstream: DeepStream reads --format",
        ),
        (lambda p: ["--format", "onnx", "--layout", "yolo", "--with-nms"], "--with-nms: readers of --layout yolo do"),
        (lambda p: ["--format", "onnx", "--conf-thres", "0.5"], "--conf-thres: is for --with-nms alone"),
        (lambda p: ["--format", "onnx", "--with-preprocess", "--batch-size", "2"], "takes one picture at a time"),
        (lambda p: ["--format", "onnx", "--half", "--int8", "shapes"], "--half: --int8 stores weights in 8 bits"),
        (lambda p: ["--format", "onnx", "--int8", "nosuch"], "nosuch"),
    ],
)
def test_bad_input_ends_in_one_message(change: Callable, message: str, weights: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    base = ["--weights", str(weights), "--format", "torchscript", "--output", str(tmp_path)]
    assert export.main([*base, *change(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_exporting_an_export_or_onto_itself_is_refused(script: Path, tmp_path: Path, capsys) -> None:
    other = str(tmp_path / "other.torchscript")
    assert export.main(["--weights", str(script), "--format", "torchscript", "--output", other]) == 2
    assert "is an exported file; name the checkpoint" in capsys.readouterr().err
    assert export.main(["--weights", str(script), "--format", "torchscript"]) == 2
    assert "is what is to be exported; name another file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "package"), [("onnx", "onnx"), ("onnx", "onnxruntime"), ("openvino", "openvino"), ("openvino", "onnx")]
)
def test_a_missing_package_is_named_with_its_pip_line(
    kind: str, package: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    needs(kind)
    monkeypatch.setitem(sys.modules, package, None)
    assert export.main(["--weights", str(weights), "--format", kind, "--output", str(tmp_path)]) == 2
    wanted = f"error: --format {kind}: needs {package}, which is not installed: pip install {package}\n"
    assert capsys.readouterr().err == wanted
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--format", "tflite"], [], ["--format", "onnx", "--batch-size", "0"]])
def test_a_wrong_command_line_ends_in_status_2(option: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        export.main(option)
    assert stopped.value.code == 2
