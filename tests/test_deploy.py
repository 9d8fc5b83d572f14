"""docs/deploy.md: its programs are run, and find what detect.py's own path finds."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.images import read_image
from data.transforms import resize_image
from engine.stream import DetectOptions, detections_of_frames
from models.export.formats import import_package
from models.export.network import ExportSpec
from models.export.write import export
from models.layouts import OWN, Final, Layout
from models.predictor_torch import ModelPredictor
from tests.models.export.models import NAMES, predictor_of, small_model
from utils.boxes import plan_resize
from utils.config import ROOT

PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
PROGRAMS = {
    re.match(r"(?:#|//) ([\w.]+):", text)[1]: text for _, text in re.findall(r"```(python|cpp)\n(.*?)```", PAGE, re.S)
}
SIZES = ((75, 130), (64, 96), (33, 20))
PICTURE = Layout(final=Final(), picture=True)


@pytest.fixture(scope="module")
def original() -> ModelPredictor:
    """A small model with a letterbox, as most have."""
    predictor = predictor_of(small_model("cspdet-n"))
    predictor.info = replace(predictor.info, resize="letterbox")
    return predictor


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for seed, (height, width) in enumerate(SIZES):
        small = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
        files.append(folder / f"{seed}.png")
        Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC).save(files[-1])
    return files


def write(original: ModelPredictor, kind: str, folder: Path, layout: Layout) -> Path:
    for package in ("onnx", "onnxruntime" if kind == "onnx" else "openvino"):
        try:
            import_package(package)
        except ImportError:
            pytest.skip(f"{package} is not installed")
    file = folder / ("best.onnx" if kind == "onnx" else "best.xml")
    export(original, kind, file, ExportSpec(original.info, layout=layout))
    return file


def run(program: str, folder: Path, *arguments: object) -> list[dict]:
    """What a Python program of the page prints, each line as JSON; it runs outside the checkout."""
    (folder / program).write_text(PROGRAMS[program], encoding="utf-8")
    command = [sys.executable, program, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def wanted_rows(original: ModelPredictor, files: list[Path]) -> list[dict]:
    """What detect.py --square writes to detections.json."""
    rows = []
    for file in files:
        image = read_image(file)
        letterbox = plan_resize(image.shape[0], image.shape[1], original.info.image_size, "letterbox")
        network = resize_image(image, letterbox, original.info.image_size).transpose(2, 0, 1)[None]
        options = DetectOptions(original.info.image_size)
        (found,) = detections_of_frames(original.predict(network), [letterbox], original.info, options)
        for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
            rows.append({"source": str(file), "class": label, "name": NAMES[label], "score": score, "box": box})
    return rows


def assert_same(found: list[dict], wanted: list[dict], *, pixels: float = 0.02) -> None:
    """Each has a partner of the same source and class; the order of equal scores may differ."""
    assert len(found) == len(wanted) > 20
    for row in wanted:
        rest = [each for each in found if (each["source"], each["class"]) == (row["source"], row["class"])]
        nearest = min(rest, key=lambda each: np.abs(np.subtract(each["box"], row["box"])).max())
        assert nearest["box"] == pytest.approx(row["box"], abs=pixels)
        assert nearest["score"] == pytest.approx(row["score"], abs=1e-4)
        assert nearest.get("name", row["name"]) == row["name"]
        found.remove(nearest)


def test_onnxruntime(original: ModelPredictor, pictures: list[Path], tmp_path: Path) -> None:
    file = write(original, "onnx", tmp_path, PICTURE)
    assert_same(run("detect_onnx.py", tmp_path, file, *pictures), wanted_rows(original, pictures))


def test_openvino(original: ModelPredictor, pictures: list[Path], tmp_path: Path) -> None:
    file = write(original, "openvino", tmp_path, PICTURE)
    assert_same(run("detect_openvino.py", tmp_path, file, *pictures), wanted_rows(original, pictures))


def test_opencv(original: ModelPredictor, pictures: list[Path], tmp_path: Path) -> None:
    file = write(original, "onnx", tmp_path, OWN)
    found = run("detect_opencv.py", tmp_path, file, *original.info.image_size, *pictures)
    found = [row for row in found if row["box"][0] < row["box"][2] and row["box"][1] < row["box"][3]]
    assert_same(found, wanted_rows(original, pictures))


def headers() -> Path | None:
    """The folder of ONNX Runtime's C++ headers: of the variable ONNXRUNTIME_INCLUDE, or where systems have it."""
    folders = [os.environ.get("ONNXRUNTIME_INCLUDE"), "/usr/include/onnxruntime", "/usr/local/include/onnxruntime"]
    return next((Path(each) for each in folders if each and Path(each, "onnxruntime_cxx_api.h").is_file()), None)


@pytest.mark.slow
def test_cpp(original: ModelPredictor, pictures: list[Path], tmp_path: Path) -> None:
    compiler, include = shutil.which("g++"), headers()
    if compiler is None or include is None:
        pytest.skip("needs g++ and ONNX Runtime's headers (the folder in ONNXRUNTIME_INCLUDE)")
    file = write(original, "onnx", tmp_path, PICTURE)
    package = Path(import_package("onnxruntime").__file__).parent
    library = next(package.glob("capi/libonnxruntime.so*"))
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(library)
    (tmp_path / "detect.cpp").write_text(PROGRAMS["detect.cpp"], encoding="utf-8")
    link = ["-I", str(include), "-L", str(tmp_path), "-lonnxruntime", f"-Wl,-rpath,{tmp_path}"]
    subprocess.run([compiler, "-std=c++17", "-O1", "detect.cpp", *link, "-o", "detect"], cwd=tmp_path, check=True)
    found = []
    for picture in pictures:
        Image.open(picture).save(tmp_path / "photo.ppm")
        done = subprocess.run(["./detect", file.name, "photo.ppm"], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        for line in done.stdout.splitlines():
            label, score, *box = line.split()
            found.append({"source": str(picture), "class": int(label), "score": float(score)})
            found[-1]["box"] = [float(each) for each in box]
    assert_same(found, wanted_rows(original, pictures))
    bad = subprocess.run(["./detect", file.name, "detect.cpp"], cwd=tmp_path, capture_output=True, text=True)
    assert (bad.returncode, bad.stderr) == (1, "error: detect.cpp: expected a binary PPM of 8 bits\n")
