"""What several tests share: the real data where it is at hand, tiny data sets in every format, small models."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # as import_openvino does: importing openvino must send nothing

for number in (
    "SIGINT",
    "SIGHUP",
):  # ignored after nohup, and in the background of a script: commands would ignore them too
    if hasattr(signal, number) and signal.getsignal(getattr(signal, number)) is signal.SIG_IGN:
        signal.signal(getattr(signal, number), signal.SIG_DFL if number == "SIGHUP" else signal.default_int_handler)

if "PYTEST_XDIST_WORKER_COUNT" in os.environ:  # a worker of several, which share the cores
    THREADS = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ["OMP_NUM_THREADS"] = str(THREADS)  # of the processes that tests start
    torch.set_num_threads(THREADS)
    cv2.setNumThreads(THREADS)

LONG_FILES = (
    "tests/test_ddp.py",
    "tests/test_train.py",
    "tests/test_export.py",
    "tests/test_kill.py",
    "tests/test_elastic.py",
    "tests/models/darknet/test_commands.py",
)
"""Longest first. A file is the unit that a worker takes: its fixtures are made once, and its order is kept."""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Two workers for folders, none for single files and tests: they start faster, and prints and breakpoints work."""
    folders = any(Path(argument).is_dir() for argument in config.args)
    return min(2, os.cpu_count() or 1) if folders else 0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files start first, so that no worker ends alone on one of them."""
    rank = {name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


def _find_shared() -> Path | None:
    for parent in Path(__file__).resolve().parents:
        if (parent / "shared" / "data").is_dir():
            return parent / "shared"
    return None


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real data and weights; CI has it, users of the project do not."""
    folder = _find_shared()
    if folder is None:
        pytest.skip("no shared/ folder beside the project")
    return folder


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


TINY_COLOURS = ((220, 40, 30), (30, 60, 220))
"""Of the classes 'red' and 'blue' in `tiny_coco`."""

TINY_MODEL = """\
backbone:
  {type: darknet, stem_channels: 8, stem_stride: 2, depths: [0, 1, 1], channels: [16, 24, 32], activation: swish}
neck: {type: panet, channels: [24, 32], out_channels: [24, 32], csp: {ratio: 0.5}, activation: swish}
head: {type: anchor, anchors: [[12, 12, 20, 32, 32, 20], [24, 24, 40, 40, 60, 60]], scale_xy: 2.0, size: square}
image_size: 64
"""


@pytest.fixture(scope="session")
def tiny_coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """data.yaml of 8 training images, 7 of them for validation, with red and blue rectangles and a crowd region."""
    folder = tmp_path_factory.mktemp("tiny_coco")
    rng = np.random.default_rng(4)
    (folder / "images").mkdir()
    images, annotations = [], []
    for number in range(8):
        height, width = ((96, 96), (96, 72), (60, 96))[number % 3]
        pixels = rng.integers(90, 140, (height, width, 3)).astype(np.uint8)
        images.append({"id": 10 * number + 3, "file_name": f"{number}.png", "width": width, "height": height})
        for place in range(number % 3):  # none, one, or one on each side
            label = int(rng.integers(2))
            w, h = int(rng.integers(16, width // 2 - 4)), int(rng.integers(16, height - 20))
            x, y = int(rng.integers(0, width // 2 - w)) + place * width // 2, int(rng.integers(0, height - h))
            pixels[y : y + h, x : x + w] = TINY_COLOURS[label]
            about = {"id": len(annotations) + 1, "image_id": images[-1]["id"], "category_id": (5, 2)[label]}
            annotations.append({**about, "bbox": [x, y, w, h], "area": w * h, "iscrowd": int(number == 3)})
        Image.fromarray(pixels).save(folder / "images" / f"{number}.png")
    about = {"image_id": images[3]["id"], "category_id": 2, "bbox": [40, 40, 50, 50], "area": 2500, "iscrowd": 1}
    annotations.append({"id": len(annotations) + 1, **about})
    categories = [{"id": 2, "name": "blue"}, {"id": 5, "name": "red"}]
    for split, chosen in (("train", images), ("val", images[:7])):
        ids = {image["id"] for image in chosen}
        mine = [annotation for annotation in annotations if annotation["image_id"] in ids]
        content = {"images": chosen, "annotations": mine, "categories": categories}
        (folder / f"{split}.json").write_text(json.dumps(content))
    (folder / "data.yaml").write_text("train: train.json\nval: val.json\nimages: images\n")
    return folder / "data.yaml"


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model YAML of about 50,000 parameters for images of 64 pixels, with two levels."""
    path = tmp_path_factory.mktemp("tiny_model") / "tiny.yaml"
    path.write_text(TINY_MODEL)
    return path
