"""How commands start: what can be answered without torch is, and what runs without torch does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from models.build import build_model
from models.config import load_model_config
from models.export.network import ExportSpec
from models.export.onnx import write_onnx
from models.info import ModelInfo
from models.postprocess_torch import nms
from utils.config import ROOT

COMMANDS = {
    "train": "train", "val": "val", "detect": "detect", "export": "export", "doctor": "data.doctor.__main__",
    "convert": "data.convert", "anchors": "data.anchors", "benchmark": "models.benchmark.__main__",
    "report": "utils.report", "info": "utils.info", "split": "data.split",
}  # fmt: skip
HEAVY = ("torch", "torchvision", "cv2")

RUN = """
import importlib, sys
status = None
try:
    status = importlib.import_module(sys.argv[1]).main(sys.argv[3:])
except SystemExit as error:
    status = error.code
heavy = [name for name in sys.argv[2].split(",") if name in sys.modules]
print("STATUS", status, *heavy)
"""


def started(module: str, *arguments: str, heavy: tuple[str, ...] = HEAVY, folder: Path = ROOT) -> tuple[str, str]:
    """The exit status of a command with those of the packages `heavy` that it imported, and all that it said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", RUN, module, ",".join(heavy), *arguments]
    done = subprocess.run(
        line, cwd=folder, capture_output=True, text=True, encoding="utf-8", env=environment, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    said, _, status = done.stdout.rpartition("STATUS ")
    return status.strip(), said + done.stderr


@pytest.mark.parametrize("module", COMMANDS.values(), ids=COMMANDS)
def test_help_and_wrong_options_import_nothing_heavy(module: str) -> None:
    status, said = started(module, "--help")
    assert (status, said.startswith("usage: ")) == ("0", True)
    status, said = started(module, "--nonsense")
    assert status == "2"
    assert "--nonsense: no such option" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --cfg cspdet-n --set optimizer.lrr=1", "optimizer.lrr: unknown key. Did you mean 'lr'?"),
        ("train --cfg cspdet-n --hyp nosuch", "'nosuch': no such file"),
        ("train --cfg cspdet-n --data {bad}", "bad.yaml, line 3: not valid YAML"),
        ("train --cfg cspdet-n --data {unknown}", "unknown.yaml: trian: unknown key"),
        ("train --cfg cspdetn", "'cspdetn': no such file, here or in cfg/. Did you mean 'cspdet-n.yaml'?"),
        ("train --cfg {bad}", "bad.yaml, line 3: not valid YAML"),
        ("train --cfg cspdet-n --weights nosuch.pt", "nosuch.pt: no such checkpoint"),
        ("train --cfg cspdet-n --seeds 2 --tune 2", "--seeds and --tune: choose one"),
        ("train --resume nosuch", "--resume nosuch: "),
        ("val --weights nosuch.pt", "nosuch.pt: no such file"),
        ("val --weights {weights} --data {unknown}", "unknown.yaml: trian: unknown key"),
        ("val --weights {weights} --cfg {bad}", "bad.yaml, line 3: not valid YAML"),
        ("detect --source x.jpg --weights nosuch.pt", "nosuch.pt: no such file"),
        ("export --format onnx --weights nosuch.pt", "nosuch.pt: no such file"),
        ("export --format darknet --half", "--half: darknet's files know no such thing"),
        ("models.benchmark.__main__ cspdetn", "Did you mean 'cspdet-n.yaml'?"),
        ("data.doctor.__main__ nosuch", "'nosuch': no such file"),
        ("utils.info nosuch.pt", "nosuch.pt: no such checkpoint"),
    ],
)
def test_what_names_and_yaml_show_is_told_without_torch(arguments: str, message: str, tmp_path: Path) -> None:
    files = {name: tmp_path / f"{name}.yaml" for name in ("bad", "unknown")} | {"weights": tmp_path / "x.weights"}
    files["bad"].write_text("a: 1\nb: [\n")
    files["unknown"].write_text("trian: images\n")
    files["weights"].write_bytes(b"")
    module, *rest = (word.format(**files) for word in arguments.split())
    status, said = started(module, *rest, heavy=("torch", "torchvision"))
    assert status == "2", said
    assert message in said


def test_a_source_that_is_missing_is_told_without_torch(tmp_path: Path) -> None:
    (tmp_path / "x.pt").touch()
    arguments = ("--source", str(tmp_path / "no.jpg"), "--weights", str(tmp_path / "x.pt"))
    status, said = started("detect", *arguments, heavy=("torch", "torchvision"))
    assert (status, "no.jpg: no such file" in said, "nothing could be processed" in said) == ("1", True, True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights as an ONNX file."""
    pytest.importorskip("onnxruntime")
    overrides = ["image_size=64", "backbone.channels=[8, 16, 24, 32]", "neck.channels=[8, 16, 24]"]
    model = build_model(load_model_config("cspdet-n", overrides), 3).eval()
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    write_onnx(model, path, ExportSpec(ModelInfo(("a", "b", "c"), (1, 2, 3), (64, 64), "letterbox", model.stride)))
    return path


def test_detection_with_an_onnx_file_leaves_torch_alone_and_writes_where_the_user_stands(
    exported: Path, tmp_path: Path
) -> None:
    for number in range(2):
        Image.new("RGB", (90, 50), (200, 30 * number, 40)).save(tmp_path / f"{number}.png")
    arguments = ["--source", str(tmp_path), "--weights", str(exported), "--save-json", "--save-txt", "--save-crop"]
    arguments += ["--conf-thres", "0"]
    status, said = started("detect", *arguments, heavy=("torch", "torchvision"), folder=tmp_path)
    assert status == "0", said
    results = tmp_path / "runs" / "detect" / "exp"
    assert {"0.png", "1.png", "detections.json", "labels", "crops"} == {path.name for path in results.iterdir()}
    assert f"Results: {Path('runs', 'detect', 'exp')}" in said


def test_a_detector_of_an_onnx_file_leaves_torch_alone(exported: Path, tmp_path: Path) -> None:
    Image.new("RGB", (90, 50), (200, 30, 40)).save(tmp_path / "x.png")
    code = f"""import sys
from detect import load_detector
from engine.detector import read_picture
detections = load_detector({str(exported)!r})("x.png", conf=0.0, max_det=3)
detections.draw(read_picture("x.png"))
assert len(detections.to_coco()) == len(detections.to_dicts()) == 3
assert not {{"torch", "torchvision"}} & set(sys.modules), "imported"
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_newest_run_is_looked_for_where_the_user_stands(tmp_path: Path) -> None:
    status, said = started("detect", "--source", "x.jpg", folder=tmp_path, heavy=("torch", "torchvision"))
    assert status == "2"
    assert f"--weights was left out and {Path('runs', 'train')} holds no trained model" in said


def test_the_operator_of_suppression_comes_without_the_package() -> None:
    code = """import sys, torch
from models.postprocess_torch import nms
boxes, scores = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8], [20, 20, 30, 30]]), torch.tensor([0.9, 0.8, 0.7])
kept = nms()(boxes, scores, 0.5).tolist()
assert "torchvision" not in sys.modules, "imported"
import torchvision  # later, as timm does
assert kept == torchvision.ops.nms(boxes, scores, 0.5).tolist() == nms()(boxes, scores, 0.5).tolist() == [0, 2]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_operator_is_taken_from_the_package_where_its_library_is_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.postprocess_torch.find_spec", lambda _: None)
    nms.cache_clear()
    boxes, scores = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]]), torch.tensor([0.8, 0.9])
    assert nms()(boxes, scores, 0.5).tolist() == [1]
    nms.cache_clear()
